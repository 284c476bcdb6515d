"""Starts the browser app. Imports nothing heavy before its arguments are read, so that --help answers at once."""

import argparse
import importlib.util
from collections.abc import Sequence

from mvgenvs.cli import number, run_script
from mvgenvs.errors import UserError

DESCRIPTION = "The browser app: from one photo of an object to views of it from all sides, and to a mesh."


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options. A mistake ends the script with code 2."""
    parser = argparse.ArgumentParser(prog="python -m mvgenvs.app", description=DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("--port", type=number(int, 1, 65535), default=7860, metavar="N", help="of the page (default: %(default)s)")
    text = "address to listen on; 0.0.0.0 lets in everyone on the network (default: %(default)s, this machine only)"
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=text)
    add("--checkpoint", default="bundled", metavar="NAME", help="bundled, a folder, or a hub id (default: %(default)s)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, … (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Serves the page until Ctrl-C or SIGTERM. Raises `UserError`."""
    options = parse_arguments(argv)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the browser app needs gradio: run `pip install 'mvgenvs[app]'`")
    from mvgenvs.app.server import serve

    serve(options.checkpoint, options.device, options.host, options.port)


if __name__ == "__main__":
    run_script(main, shares_work=False)
