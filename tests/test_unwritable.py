"""What cannot be written: every writer ends with one sentence, and leaves the folder as it was."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ring_cameras, tiny_pipeline
from tiny_data import write_opencars

from mvgenvs.data.compact import compact
from mvgenvs.data.opencars.build import _write_json
from mvgenvs.data.pack import pack
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.shards import write_shards
from mvgenvs.data.srn_writer import write_object
from mvgenvs.diffusion.state import SequenceState
from mvgenvs.errors import UserError
from mvgenvs.files import atomically, write_text
from mvgenvs.media import write_png
from mvgenvs.meshes.renderer import RenderedViews
from mvgenvs.perceptual import Trunk, write_short_trunk
from mvgenvs.pose.network import CameraNet
from mvgenvs.training.camera import save_camera
from mvgenvs.training.checkpoint import save_fp16
from mvgenvs.transforms import write_cameras
from mvgenvs.video import VideoWriter

resource = pytest.importorskip("resource", reason="the limit that stands in for a full disk is Unix's")


@contextlib.contextmanager
def full_disk(room: int = 100) -> Iterator[None]:
    """No file can grow beyond `room` bytes: the system refuses to write, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    opened = open_scenes(write_opencars(tmp_path_factory.mktemp("data"), {"train": 1}, views=2), "train", 32)
    opened.load(0)
    return opened


def video(folder: Path) -> None:
    with VideoWriter(folder / "a.mp4") as writer:
        for _ in range(3):
            writer.write(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))


def rendered(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32), np.uint8)
    views = RenderedViews(np.stack([pixels] * 3, axis=-1), pixels, pixels.astype(np.float32))
    write_object(folder / "car", folder / ".partial", views, ring_cameras(2, 32), "png", {"id": "car"})


NOISE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
TRUNK = Trunk([(torch.zeros(9, 3, 3, 3), torch.zeros(9))], "", "")
WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda folder: write_text(folder / "a.txt", "long " * 100),
    "picture": lambda folder: write_png(folder / "a.png", NOISE),
    "cameras": lambda folder: write_cameras(folder / "a.json", ring_cameras(3, 32), ["a", "b", "c"]),
    "video": video,
    "state": lambda folder: SequenceState(1, {"x": torch.zeros(99)}).save(folder / "state.safetensors"),
    "trunk": lambda folder: write_short_trunk("vgg", TRUNK, 1, folder),
    "index": lambda folder: _write_json(folder / "cars.json", ["car"] * 99),
    "object": rendered,
    "pipeline": lambda folder: save_fp16(tiny_pipeline(), folder),
    "camera network": lambda folder: save_camera(CameraNet(), folder),
}
OF_SCENES: dict[str, Callable[[Path, object], object]] = {
    "packed": lambda folder, scenes: pack(scenes, 32, folder / "train.safetensors"),
    "compact": lambda folder, scenes: compact(scenes, 2, 80, 32, folder / "train.safetensors"),
    "shards": lambda folder, scenes: write_shards(scenes, 32, "train", folder, 1, ""),
}


@pytest.mark.parametrize("name", [*WRITERS, *OF_SCENES])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    name: str, tmp_path: Path, scenes: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("compact", "pack"):  # pytest keeps what the bar writes in a file, too
        monkeypatch.setattr(f"mvgenvs.data.{module}.tqdm", lambda items, **_: items)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with full_disk(), pytest.raises(UserError, match="cannot write") as caught:
        WRITERS[name](folder) if name in WRITERS else OF_SCENES[name](folder, scenes)
    assert "\n" not in str(caught.value)
    left = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert left == ["mine.txt"]


@pytest.mark.parametrize("name", [*WRITERS, *OF_SCENES])
def test_with_room_they_do_write(name: str, tmp_path: Path, scenes: object) -> None:
    WRITERS[name](tmp_path) if name in WRITERS else OF_SCENES[name](tmp_path, scenes)
    assert any(path.is_file() and path.stat().st_size > 100 for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_other_ends_of_writing_leave_nothing_either(error: type[BaseException], tmp_path: Path) -> None:
    def write(partial: Path) -> None:
        partial.write_text("half")
        raise error

    (tmp_path / "a").write_text("before")
    with pytest.raises(error):
        atomically(tmp_path / "a", write)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "before")]
