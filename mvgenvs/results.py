"""The folder to which `infer_multiview.py` writes its results, and the progress that it reports."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.state import Frames, SequenceState
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.folders import OwnFolder
from mvgenvs.media import color_depth, contact_sheet, read_png, tile, write_png
from mvgenvs.reconstruction.formats import FILES
from mvgenvs.trajectories import evenly_spread
from mvgenvs.transforms import write_cameras
from mvgenvs.video import VideoWriter

SHEET_VIEWS = 48  # the contact sheet of a longer trajectory shows this many views, evenly spaced
_SUMMARIES = ("orbit.mp4", "contact_sheet.png", "cameras.json", "progress.png", "progress.mp4", "run.json")
_EXPORTS = tuple(FILES.values())


def frame_names(num_views: int) -> list[str]:
    """The files of the views."""
    digits = max(3, len(str(num_views - 1)))
    return [f"frames/{index:0{digits}d}.png" for index in range(num_views)]


class ResultsFolder:
    """Collects the results of one run in `partial/` and moves them into place when the run is complete.

    Until then an earlier run's results stay as they are, and frames of two runs never mix. Views are written as soon as
    they are added, so that a stopped run can be continued; memory does not grow with their number. Other files are left
    alone, or the folder is refused. A context manager: until it ends, no other run may write to the folder.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        num_views: int,
        inputs: Sequence[str | os.PathLike[str]] = (),
        exports: Sequence[str] = (),
    ) -> None:
        """`inputs` are files that must not be replaced, `exports` those that the views will be exported to.

        Raises `UserError` if the folder cannot be written.
        """
        self.path = Path(path)
        self.partial = self.path / "partial"
        self.names = frame_names(num_views)
        self._shown = evenly_spread(num_views, SHEET_VIEWS)
        self._own = OwnFolder(path)
        try:
            if not self._own.owns("run.json"):
                self._own.add(_of_an_earlier_version(self.path))
            self._own.check([*self.names, *_SUMMARIES, *exports, "partial"], inputs)
        except UserError:
            self._own.close()
            raise

    def __enter__(self) -> "ResultsFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own.close()

    def unfinished(self) -> dict[str, Any] | None:
        """The settings of an unfinished run whose views are here; None if there is none, or they are damaged."""
        if not self._own.owns("partial/settings.json"):
            return None
        try:
            content = json.loads((self.partial / "settings.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def finished(self) -> dict[str, Any] | None:
        """The settings with which the views that lie here were made; None if they are not known, or not all here."""
        if not self.has([*self.names, "run.json"]):
            return None
        content = self._record()
        return content.get("made_with") if len(self._own.below("frames")) == len(self.names) else None

    def has(self, names: Sequence[str]) -> bool:
        """Whether all of these files are here, and ours."""
        return all(self._own.owns(name) and (self.path / name).exists() for name in names)

    def frames(self, views: Sequence[int]) -> Float[Tensor, "view 3 h w"]:
        """Some of the finished views, in [0, 1]."""
        return torch.stack([_read_picture(self.path / self.names[view]) for view in views])

    def export(self, name: str, write: Callable[[Path], None]) -> None:
        """Lets `write` make the file `name` of finished views, whole or not at all, and lists it in `run.json`."""
        self._own.claim([name])
        write(self.path / name)
        record = self._record()
        record["exports"] = sorted({*record.get("exports", []), name})
        write_text(self.path / "run.json", json.dumps(record, indent=2) + "\n")

    def _record(self) -> dict[str, Any]:
        """The content of `run.json`; empty if it is damaged."""
        try:
            content = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def resumable(self, settings: Mapping[str, Any], blocks: Sequence[Sequence[int]]) -> SequenceState | None:
        """The state of an unfinished run with the same settings and `blocks` of views, if all that it needs is here."""
        state = SequenceState.load(self.partial / "state.safetensors") if self.unfinished() == settings else None
        if state is None or state.finished > len(blocks):
            return None
        finished = [index for block in blocks[: state.finished] for index in block]
        shown = [name for index in finished if index in self._shown for name in self._thumbnails(index)]
        whole = all((self.partial / name).exists() for name in [*(self.names[index] for index in finished), *shown])
        return state if whole else None

    def begin(self, settings: Mapping[str, Any] | None = None, resume: bool = False) -> None:
        """Prepares for a run with these settings; unless it resumes, views of another unfinished run are deleted."""
        if not resume:
            self._own.remove(self._own.below("partial"))
        shown = [name for index in self._shown for name in self._thumbnails(index)]
        kept = [*self.names, *shown, *_SUMMARIES, "settings.json", "state.safetensors"]
        self._own.add(f"partial/{name}" for name in kept)
        self.partial.mkdir(exist_ok=True)
        write_text(self.partial / "settings.json", json.dumps(settings))
        for folder in ("frames", "thumbnails"):
            (self.partial / folder).mkdir(parents=True, exist_ok=True)

    def add(
        self, index: int, image: Float[Tensor, "3 h w"], render: Float[Tensor, "3 h w"], depth: Float[Tensor, "1 h w"]
    ) -> None:
        """Writes a finished view, replacing an earlier one, and its pictures for the contact sheet."""
        write_png(self.partial / self.names[index], image)
        if index in self._shown:
            for name, picture in zip(self._thumbnails(index), (render, color_depth(depth)), strict=True):
                write_png(self.partial / name, picture)

    def take(self, frames: Frames) -> None:
        """Writes the finished views of a block, and the state from which a stopped run continues after them."""
        for k, index in enumerate(frames.indices):
            self.add(index, frames.images[0, k], frames.renders[0, k], frames.depth[0, k])
        frames.state.save(self.partial / "state.safetensors")

    def summarize(self, inputs: Float[Tensor, "known 3 h w"] | None, cameras: Cameras) -> None:
        """Writes the video, the contact sheet and the cameras of all views added."""
        with VideoWriter(self.partial / "orbit.mp4") as video:
            for name in self.names:
                video.write(read_png(self.partial / name))
        views = [(self.names[index], *self._thumbnails(index)) for index in self._shown]
        samples, renders, depths = (
            torch.stack([_read_picture(self.partial / name) for name in names]) for names in zip(*views, strict=True)
        )
        rows = [("input", inputs.float().cpu())] if inputs is not None else []
        rows += [("samples", samples), ("renders", renders), ("depth", depths)]
        write_png(self.partial / "contact_sheet.png", contact_sheet(rows, numbers=self._shown))
        write_cameras(self.partial / "cameras.json", cameras, self.names)

    def publish(self, record: dict[str, Any]) -> None:
        """Writes `run.json` and moves everything into place, replacing an earlier run's results."""
        write_text(self.partial / "run.json", json.dumps(record, indent=2) + "\n")
        new = [name for name in [*self.names, *_SUMMARIES] if (self.partial / name).exists()]
        self._own.check(new)  # once more, since the run may have been long
        self._own.remove({*self._own.below("frames"), *_SUMMARIES, *_EXPORTS} - set(new))
        for name in new:
            self._own.replace(name, self.partial / name)
        self._own.remove(self._own.below("partial"))

    def _thumbnails(self, index: int) -> list[str]:
        """The files of a view's rendering and depth for the contact sheet."""
        return [f"thumbnails/{kind}-{Path(self.names[index]).name}" for kind in ("render", "depth")]


def _of_an_earlier_version(folder: Path) -> list[str]:
    """Files that a run of an older version, which did not list its own, wrote to a folder: its run.json tells."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        names = [*frame_names(record["settings"]["num_views"]), *_SUMMARIES]
        known = "mvgenvs" in record["versions"]
    except (OSError, ValueError, TypeError, KeyError):
        return []
    return [name for name in names if (folder / name).exists()] if known else []


def _read_picture(path: Path) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(read_png(path).copy()).movedim(-1, 0).float() / 255


@runtime_checkable
class StepState(Protocol):
    """What the pipeline reports after each sampler step."""

    @property
    def block(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def sigma(self) -> float: ...

    def denoised(self) -> Float[Tensor, "1 view 3 h w"]:
        """The current estimate of the block's views."""


class StepReporter:
    """A progress bar over all sampler steps; with `folder`, also pictures of the model's estimate at each of them.

    `progress.png` shows about ten steps of the first block, `progress.mp4` every step of every block. `views` is the
    largest number of views in a block: frames have room for as many.
    """

    def __init__(self, folder: Path | None = None, views: int = 1) -> None:
        self._folder = folder
        self._views = views
        self._bar = tqdm(desc="sampling", unit="step", leave=False)
        self._video = VideoWriter(folder / "progress.mp4") if folder else None
        self._rows: list[tuple[str, Tensor]] = []

    def __enter__(self) -> "StepReporter":
        return self

    def __call__(self, state: StepState) -> None:
        if self._bar.total is None:  # a resumed run starts at a later block
            self._bar.total = state.num_blocks * state.num_steps
            self._bar.initial = self._bar.n = state.block * state.num_steps
        self._bar.set_postfix_str(f"block {state.block + 1}/{state.num_blocks}", refresh=False)
        self._bar.update()
        if self._video is None:
            return
        images = state.denoised()[0].detach().float().cpu()
        white = images.new_ones(self._views - len(images), *images.shape[1:])
        self._video.write(tile(torch.cat([images, white])))
        every = max(1, state.num_steps // 10)
        if state.block == 0 and (state.step % every == 0 or state.step == state.num_steps - 1):
            self._rows.append((f"step {state.step + 1}, sigma {state.sigma:.3g}", images[:8]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._video is not None and self._folder is not None:
            self._video.__exit__(kind, error, trace)
            if kind is None and self._rows:
                write_png(self._folder / "progress.png", contact_sheet(self._rows))
