"""Starts the browser app. Imports nothing heavy before its arguments are read, so that --help answers at once."""

import argparse
import importlib.util
from collections.abc import Sequence

from mvgenvs.cli import OneSentenceParser, number, run_script
from mvgenvs.errors import UserError

DESCRIPTION = "The browser app: from one photo of an object to views of it from all sides, and to a mesh."


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options. Raises `UserError`."""
    parser = OneSentenceParser(prog="python -m mvgenvs.app", description=DESCRIPTION, allow_abbrev=False)
    add = parser.add
    add("--port", "of the page", type=number(int, 1, 65535), default=7860, metavar="N")
    text = "address to listen on: 127.0.0.1 is this machine only, 0.0.0.0 lets in everyone on the network"
    add("--host", text, default="127.0.0.1", metavar="ADDRESS")
    add("--checkpoint", "bundled, a folder, or a hub id", default="bundled", metavar="NAME")
    add("--device", "auto, cpu, cuda, cuda:1, …", default="auto", metavar="NAME")
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
