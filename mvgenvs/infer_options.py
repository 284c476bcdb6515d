"""The command line of `infer_multiview.py`. Imports nothing heavy, so that --help and errors answer at once."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from mvgenvs.cli import ANGLE, ELEVATION, SIDE, VIEWS, number
from mvgenvs.diffusion.flags import add_flags
from mvgenvs.reconstruction.formats import FILES

DESCRIPTION = "From one or a few pictures of an object, new views of it along a camera trajectory."
EXAMPLE = "example: python infer_multiview.py --image assets/car.png --camera assets/car.json --output outputs/orbit"


WORDS = {"camera": ("estimate", "canonical"), "matte": ("auto", "none")}  # values that are no files


class Given(NamedTuple):
    """A picture on the command line, and what was said about it; None if nothing was."""

    image: str
    camera: str | None = None
    matte: str | None = None

    @property
    def files(self) -> list[str]:
        """The files among them."""
        return [value for kind, value in self._asdict().items() if value and value not in WORDS.get(kind, ())]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with the pictures in `known`, as `Given`. A mistake ends the script with code 2.

    The sampling options are among them: see `take_flags`.
    """
    parser = _Parser(description=DESCRIPTION, epilog=EXAMPLE, allow_abbrev=False)
    file: dict[str, Any] = {"action": "append", "dest": "known", "metavar": "FILE"}

    add = parser.add_argument_group("input").add_argument
    add("--image", type=_part("image"), help="a picture; repeat it, with --camera, for more known views", **file)
    add("--images", metavar="DIR", help="a folder of photos: each of them gets its own results, OUTPUT/<name>/")
    file["metavar"] = "FILE|estimate|canonical"
    add("--camera", type=_part("camera"), help="camera of the --image before it (default: estimate)", **file)
    file["metavar"] = "auto|none|FILE"
    add("--matte", type=_part("matte"), help="how the --image before it is cut out (default: auto)", **file)
    add_flags(add, "input")
    add("--checkpoint", default="bundled", metavar="NAME", help="bundled, a folder, or a hub id (default: %(default)s)")

    add = parser.add_argument_group("views").add_argument
    add("--output", default="outputs/run", metavar="DIR", help="folder for the results (default: %(default)s)")
    text = "make of the views a textured mesh (glb), a point cloud (ply), Gaussian splats, or several of them"
    add("--export", nargs="+", choices=list(FILES), default=[], metavar="glb|ply|splats", help=text)
    add("--trajectory", default="orbit", metavar="NAME", help="orbit, spiral, circle or a camera file (default: orbit)")
    add("--num-views", type=VIEWS, metavar="N", help="views of a named trajectory (default: 24)")
    add("--elevation", type=ELEVATION, metavar="DEG", help="angle up (default: 20; circle: the input's)")
    add("--azimuth", type=ANGLE, metavar="DEG", help="degrees from the front (default: 0; circle: the input's)")
    add("--preview", action="store_true", help="draw the cameras around the NeRF in OUTPUT/preview.png, and stop")
    add("--size", type=_multiple_of_8, metavar="PX", help="side of the views (only the model's size, the default)")

    add = parser.add_argument_group("sequence: which views are denoised together").add_argument
    add_flags(add, "sequence")
    add("--show-plan", action="store_true", help="print the plan, draw it in OUTPUT/plan.png, and stop")

    add = parser.add_argument_group("sampling").add_argument
    add_flags(add, "sampling")
    add("--seed", type=number(int, 0, 2**63 - 1), default=0, metavar="N", help="seed of all noise (default: 0)")
    add("--save-progress", action="store_true", help="also progress.png and progress.mp4: the views at each step")

    add = parser.add_argument_group("machine").add_argument
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, … (default: %(default)s)")
    dtypes = ["auto", "float32", "bfloat16", "float16"]
    text = "number format (default: auto, the fastest one here that is equal to 1/255)"
    add("--dtype", choices=dtypes, default="auto", help=text)
    add("--attention-backend", metavar="NAME", help="auto, sdpa, xformers or flex (default: PyTorch's own, sdpa)")
    add("--compile", action="store_true", help="compile the UNet: takes minutes on a CPU, pays for long sequences")

    options = parser.parse_args(argv)
    try:
        options.known = _pair([*_folder(options), *(options.known or [])])
    except ValueError as error:
        parser.error(str(error))
    if options.images is not None:
        if options.preview or options.show_plan:
            parser.error("--preview and --show-plan go with one --image, not with --images")
        if options.known[1:] or options.known[0].files != [options.images]:
            parser.error("--images takes no --image beside it, and no --camera and --matte files: they suit one photo")
    if options.unconditional == bool(options.known):
        parser.error(
            "--unconditional takes no --image" if options.known else "name an --image, or ask for --unconditional"
        )
    if options.preview and options.unconditional:
        parser.error("--preview shows the NeRF of an --image, and --unconditional has none")
    if options.unconditional and options.start == "render":
        parser.error("--start render needs a rendering, and without an --image there is none")
    return options


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence, without the usage lines."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help.\n")


def _part(kind: str) -> Callable[[str], tuple[str, str]]:
    return lambda path: (kind, path)


def _folder(options: argparse.Namespace) -> list[tuple[str, str]]:
    """The folder of photos, if there is one, as the image that --camera and --matte are about."""
    return [] if options.images is None else [("image", options.images)]


def _pair(parts: list[tuple[str, str]]) -> list[Given]:
    """Joins each image with what follows it. If there is but one, all is about it. Only the first needs no camera."""
    if [kind for kind, _ in parts].count("image") == 1:
        parts = sorted(parts, key=lambda part: part[0] != "image")
    known: list[Given] = []
    for kind, value in parts:
        if kind == "image":
            known.append(Given(value))
        elif not known or getattr(known[-1], kind) is not None:
            raise ValueError(f"--{kind} {value} must follow the --image that it belongs to")
        else:
            known[-1] = known[-1]._replace(**{kind: value})
    for given in known[1:]:
        if given.camera is None:
            raise ValueError(f"--image {given.image} needs a --camera, which can be assumed for the first image only")
    return known


def _multiple_of_8(text: str) -> int:
    size = SIDE(text)
    if size % 8:
        raise argparse.ArgumentTypeError(f"{size} is not divisible by 8")
    return size
