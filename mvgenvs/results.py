"""The folder in which a run of `infer_multiview.py` leaves its results, and what is reported while it runs."""

import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.media import VideoWriter, color_depth, contact_sheet, read_png, tile, write_png
from mvgenvs.transforms import write_cameras

SHEET_VIEWS = 48  # the contact sheet of a longer trajectory shows this many, evenly spread
_ARTEFACTS = ("frames", "orbit.mp4", "contact_sheet.png", "cameras.json", "run.json", "progress.png", "progress.mp4")


class ResultsFolder:
    """Collects the results of one run in `partial/` and puts them in place when the run is complete.

    Until then an earlier run's results stay as they are, and frames of two runs never mix. Frames are on disk as soon
    as they are added; memory does not grow with the number of views.
    """

    def __init__(self, path: str | os.PathLike[str], num_views: int) -> None:
        self.path = Path(path)
        self.partial = self.path / "partial"
        digits = max(3, len(str(num_views - 1)))
        self.names = [f"frames/{index:0{digits}d}.png" for index in range(num_views)]
        shown = min(num_views, SHEET_VIEWS)
        self._shown = {round(i * (num_views - 1) / max(1, shown - 1)) for i in range(shown)}
        self._thumbnails: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to --output {self.path}: {error.strerror}.") from None
        if not os.access(self.path, os.W_OK):
            raise UserError(f"cannot write to --output {self.path}, check its permissions.")

    def begin(self) -> None:
        """Makes room for the views; what an unfinished run has left goes."""
        shutil.rmtree(self.partial, ignore_errors=True)
        (self.partial / "frames").mkdir(parents=True)

    def add(
        self, index: int, image: Float[Tensor, "3 h w"], render: Float[Tensor, "3 h w"], depth: Float[Tensor, "1 h w"]
    ) -> None:
        """Writes a finished view, in place of an earlier one, and remembers those that the contact sheet shows."""
        write_png(self.partial / self.names[index], image)
        if index in self._shown:
            # Copies: views of a block's tensors would keep whole blocks.
            image, render = (x.to("cpu", torch.float32, copy=True) for x in (image, render))
            self._thumbnails[index] = (image, render, color_depth(depth))

    def summarize(self, inputs: Float[Tensor, "known 3 h w"] | None, cameras: Cameras) -> None:
        """Writes the video, the contact sheet and the cameras of all views added."""
        with VideoWriter(self.partial / "orbit.mp4") as video:
            for name in self.names:
                video.write(read_png(self.partial / name))
        numbers = sorted(self._thumbnails)
        samples, renders, depths = (torch.stack([self._thumbnails[n][part] for n in numbers]) for part in range(3))
        rows = [("input", inputs.float().cpu())] if inputs is not None else []
        rows += [("samples", samples), ("renders", renders), ("depth", depths)]
        write_png(self.partial / "contact_sheet.png", contact_sheet(rows, numbers=numbers))
        write_cameras(self.partial / "cameras.json", cameras, self.names)

    def publish(self, record: dict[str, Any]) -> None:
        """Writes `run.json` and moves everything into place of an earlier run's results."""
        (self.partial / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for name in _ARTEFACTS:
            old, new = self.path / name, self.partial / name
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
            if new.exists():
                new.replace(old)
        shutil.rmtree(self.partial, ignore_errors=True)


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
    """A progress bar over all sampler steps; with `folder`, also pictures of what the model believes at each of them.

    `progress.png` shows about ten steps of the first block, `progress.mp4` every step of every block. `views` is the
    most that a block makes: frames have room for as many.
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
        self._bar.total = state.num_blocks * state.num_steps
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
