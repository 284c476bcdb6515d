"""What the pages of the browser app ask for: photos read, fields lifted and shown, orbits made, meshes of them."""

import contextlib
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from mvgenvs.app.reports import reported
from mvgenvs.cameras import Cameras
from mvgenvs.cli import explained_failures
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.diffusion.state import StepState
from mvgenvs.errors import UserError
from mvgenvs.exporting import export_views
from mvgenvs.generation import ModelInputs, make_blocks, model_inputs, run_record, view_stream
from mvgenvs.infer_options import Given
from mvgenvs.inputs import KnownView, read_known_view, read_trajectory
from mvgenvs.media import to_uint8
from mvgenvs.nerf.field import Scene
from mvgenvs.photos import read_image
from mvgenvs.preview import on_white, rendered, scene_map
from mvgenvs.reconstruction.formats import FILES, check_export
from mvgenvs.results import ResultsFolder
from mvgenvs.trajectories import angles_of, cameras_at, centers_at

PLANS = ("sliding", "joint", "autoregressive", "keyframes")
MOST_VIEWS, MOST_STEPS, LARGEST_SEED = 96, 100, 2**31 - 1
MOST_PIXELS = 50_000_000  # of an upload: several times a phone's photo
SHOWN_SIDE = 320  # pixels of the pictures that show a photo and its cut
LIVE_SIDE = 80  # pixels of the live renderings
VIEWS_ZIP = "views.zip"

Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, slots=True)
class Choices:
    """How the orbit is made."""

    plan: str = "sliding"
    views: int = 24
    elevation: float = 20.0  # degrees
    steps: int = 0  # 0: the checkpoint's own number
    seed: int = 0

    @classmethod
    def asked(cls, plan: Any, views: Any, elevation: Any, steps: Any, seed: Any) -> "Choices":
        """What a page asks for, which is not to be trusted. Raises `UserError` for what is out of range."""
        if plan not in PLANS:
            raise UserError(f"there is no plan '{plan}': choose one of {', '.join(PLANS)}")
        whole = (("views", views, 1, MOST_VIEWS), ("steps", steps, 0, MOST_STEPS), ("seed", seed, 0, LARGEST_SEED))
        for name, value, low, high in whole:
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UserError(f"{name} must be a whole number from {low} to {high}, but is {value}")
        return cls(plan, views, checked_angle("the orbit's elevation", elevation, 90), steps, seed)


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """A photo as it was understood."""

    photo: Picture  # small, RGB
    view: KnownView
    azimuth: float  # of the camera that was estimated or assumed, in degrees
    elevation: float

    def seen_from(self, azimuth: Any, elevation: Any) -> KnownView:
        """The view with its camera at these angles. Raises `UserError` where they are no directions."""
        azimuth = checked_angle("the photo's azimuth", azimuth, 360)
        elevation = checked_angle("the photo's elevation", elevation, 90)
        if max(abs(azimuth - self.azimuth), abs(elevation - self.elevation)) < 0.51:  # as rounded by the sliders
            return self.view
        camera = cameras_at(centers_at(torch.tensor([azimuth]), torch.tensor([elevation])))
        return replace(self.view, camera=camera)


@dataclass(frozen=True, eq=False, slots=True)
class Lifted:
    """The NeRF of a subject with a camera, kept as long as both stay."""

    subject: Subject
    angles: tuple[Any, Any]  # azimuth and elevation, as asked for
    given: ModelInputs
    scene: Scene


@dataclass(frozen=True, eq=False, slots=True)
class Progress:
    """How far an orbit is."""

    done: int
    steps: int
    seconds_left: float | None
    views: dict[int, Picture] | None  # all that are finished; None unless there are new ones


@dataclass(frozen=True, eq=False, slots=True)
class Orbit:
    """A finished orbit and its folder, as `infer_multiview.py` leaves it."""

    folder: Path
    views: list[Picture]
    given: ModelInputs
    targets: Cameras
    seconds: float

    @property
    def files(self) -> list[Path]:
        """What there is to download."""
        names = ["orbit.mp4", VIEWS_ZIP, "contact_sheet.png", FILES["glb"]]
        return [self.folder / name for name in names if (self.folder / name).exists()]


class Studio:
    """A model, and a folder for results; serves any number of pages, which keep what belongs to them."""

    def __init__(self, pipe: Any, folder: Path) -> None:
        self.pipe, self.folder = pipe, folder

    def read(self, photo: str, matte: str = "auto", mask: str | None = None) -> Subject:
        """A photo cut out, with its estimated camera; the matte is auto, none or mask, a file. Raises `UserError`."""
        if matte not in ("auto", "none", "mask"):
            raise UserError(f"there is no matte '{matte}': choose auto, none or mask")
        if matte == "mask" and not mask:
            raise UserError("drop a mask: a grey picture of the photo's size, white on the object")
        for path in (photo, mask):
            if path:
                check_pixels(path)
        view = read_known_view(Given(photo, matte=mask if matte == "mask" else matte))
        small = read_image(photo)
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
        small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        azimuths, elevations = angles_of(view.camera.centers)
        return Subject(np.array(small), view, azimuths[0].item(), elevations[0].item())

    @torch.no_grad()
    def lift(self, subject: Subject, azimuth: Any, elevation: Any, before: Lifted | None = None) -> Lifted:
        """The NeRF of a subject as seen from these angles; the one from before if it is the same."""
        if before is not None and before.subject is subject and before.angles == (azimuth, elevation):
            return before
        given = model_inputs([subject.seen_from(azimuth, elevation)], self.pipe.size, self.pipe.device)
        assert given.images is not None and given.cameras is not None
        scene = self.pipe.networks.lift([given.images], given.cameras)
        return Lifted(subject, (azimuth, elevation), given, scene)

    @torch.no_grad()
    def look(self, lifted: Lifted, choices: Choices) -> tuple[list[tuple[str, Picture]], Picture]:
        """Small renderings of the NeRF with their names, and the map of the orbit around it.

        A wrong camera shows in the front and the side: the rendering from the photo's own camera always fits.
        """
        azimuth, elevation = map(float, lifted.angles)
        directions = {
            "photo": (azimuth, elevation),
            "front": (0.0, 10.0),
            "right side": (90.0, 10.0),
            "top": (0.0, 80.0),
        }
        angles = torch.tensor(list(directions.values()), dtype=torch.float32)
        cameras = cameras_at(centers_at(angles[:, 0], angles[:, 1]), (LIVE_SIDE, LIVE_SIDE))
        pictures = to_uint8(on_white(rendered(self.pipe.networks, lifted.scene, cameras)))
        assert lifted.given.cameras is not None
        drawn = scene_map(self.pipe.networks, lifted.scene, lifted.given.cameras, _targets(choices))
        return list(zip(directions, pictures, strict=True)), drawn

    def generate(
        self, subject: Subject, azimuth: Any, elevation: Any, choices: Choices
    ) -> Generator[Progress | Orbit, None, None]:
        """Progress after each step and each block, at last the orbit. Closing the iterator stops the sampling.

        Raises `UserError`. What was not finished is deleted.
        """
        view = subject.seen_from(azimuth, elevation)
        folder = Path(tempfile.mkdtemp(prefix="orbit-", dir=self.folder))
        finished = False
        try:
            work = partial(self._generate, view, choices, folder)
            with contextlib.closing(reported(work)) as reports:
                for report in reports:
                    finished = isinstance(report, Orbit)
                    yield report
        finally:
            if not finished:
                shutil.rmtree(folder, ignore_errors=True)

    def _generate(
        self, view: KnownView, choices: Choices, folder: Path, report: Callable[[Progress | Orbit], None]
    ) -> None:
        """The same story as `infer_multiview.py`'s, told to a page."""
        started, pipe = time.perf_counter(), self.pipe
        given = model_inputs([view], pipe.size, pipe.device)
        targets = _targets(choices).resized((pipe.size, pipe.size))
        sampling = SamplingOptions(plan=choices.plan, num_inference_steps=choices.steps or None)
        sampling, plan = make_blocks(pipe.resolved(sampling, True), [view], targets, choices.seed)
        views: dict[int, Picture] = {}
        latest = Progress(0, 1, None, None)

        def on_step(state: StepState) -> None:
            nonlocal latest
            done, steps = state.block * state.num_steps + state.step + 1, state.num_blocks * state.num_steps
            latest = Progress(done, steps, (time.perf_counter() - started) / done * (steps - done), None)
            report(latest)

        with explained_failures(folder), ResultsFolder(folder, targets.num_views) as results:
            stream = view_stream(pipe, given, targets, replace(sampling, plan=plan), choices.seed, on_step)
            results.begin()
            with torch.no_grad():
                for frames in stream:
                    results.take(frames)
                    views |= dict(zip(frames.indices, to_uint8(frames.images[0]), strict=True))
                    report(replace(latest, views=dict(views)))
            assert given.images is not None
            results.summarize(given.images[0, :, :3], targets)
            seconds = time.perf_counter() - started
            settings = {**sampling.record(), "seed": choices.seed, "size": pipe.size, "num_views": targets.num_views}
            results.publish(run_record(settings, given.notes, 0, {"generate": seconds}, pipe.device))
        _pack(folder)
        report(Orbit(folder, [views[index] for index in sorted(views)], given, targets, seconds))

    def mesh(self, orbit: Orbit) -> Path:
        """A GLB of the orbit's views, in its folder. Raises `UserError`, such as where the extra `mesh` is missing."""
        check_export(["glb"], orbit.targets.num_views)
        with ResultsFolder(orbit.folder, orbit.targets.num_views, exports=[FILES["glb"]]) as results:
            export_views(["glb"], self.pipe, orbit.given.images, orbit.given.cameras, orbit.targets, results)
        return orbit.folder / FILES["glb"]


def discard(orbit: Orbit | None) -> None:
    """Deletes an orbit's folder, when its page is closed or has a new one."""
    if orbit is not None:
        shutil.rmtree(orbit.folder, ignore_errors=True)


def checked_angle(name: str, value: Any, most: int) -> float:
    """An angle in degrees. Raises `UserError` unless it is a number from -`most` to `most`."""
    if not isinstance(value, int | float) or not -most <= value <= most:
        raise UserError(f"{name} must be a number from {-most} to {most}, but is {value}")
    return float(value)


def check_pixels(path: str) -> None:
    """Raises `UserError` for pictures so large that to read them is an attack; leaves other faults to `read_image`."""
    try:
        with Image.open(path) as file:
            count = file.width * file.height
    except Image.DecompressionBombError:
        count = MOST_PIXELS + 1
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
        return
    if count > MOST_PIXELS:
        raise UserError(f"image {path} is too large, scale it down to less than {MOST_PIXELS // 10**6} million pixels")


def _targets(choices: Choices) -> Cameras:
    return read_trajectory("orbit", choices.views, None, choices.elevation, None)


def _pack(folder: Path) -> None:
    """Frames and their cameras as one file to download."""
    with zipfile.ZipFile(folder / VIEWS_ZIP, "w", zipfile.ZIP_STORED) as archive:
        for path in [folder / "cameras.json", folder / "run.json", *sorted((folder / "frames").iterdir())]:
            archive.write(path, path.relative_to(folder))
