"""A folder of photos, each of which becomes a folder of results."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_pipeline

import infer_multiview
from mvgenvs.errors import UserError
from mvgenvs.photo_folder import find_photos
from mvgenvs.results import ResultsFolder

REPO = Path(__file__).parent.parent
CAR = REPO / "assets/car.png"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two good photos, a broken one between them, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(CAR, folder / "a.png")
    (folder / "b.jpg").write_bytes(CAR.read_bytes()[:2000])
    Image.open(CAR).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "c.png")
    (folder / "notes.txt").write_text("not a photo")
    return folder


@pytest.fixture
def words(saved: Path, photos: Path, tmp_path: Path) -> list[str]:
    chosen = ["--camera", "canonical", "--num-views", "3", "--block", "1", "--steps", "1"]
    return ["--images", str(photos), "--checkpoint", str(saved), "--output", str(tmp_path / "out"), *chosen]


def written(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.png")}


def test_each_photo_gets_what_it_would_get_alone(
    words: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"1 of 3 photos failed: b\.jpg"):
        infer_multiview.main(words)
    told = capsys.readouterr()
    assert told.err.count("error: b.jpg: ") == 1 and "is not an image that can be read" in told.err
    assert "left out: notes.txt." in told.out and "2 photos are new" in told.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]
    alone = ["--image", str(photos / "c.png"), "--output", str(tmp_path / "alone"), *words[2:4], *words[6:]]
    assert infer_multiview.main(alone) == 0
    for name in (*(f"frames/{i:03d}.png" for i in range(3)), "contact_sheet.png", "cameras.json", "orbit.mp4"):
        assert (tmp_path / "out/c" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    one, other = (json.loads((tmp_path / name / "run.json").read_text())["made_with"] for name in ("out/c", "alone"))
    assert one == other


def test_finished_photos_are_left_alone_and_a_stopped_one_goes_on(
    words: list[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.jpg").unlink()
    add: Callable[..., None] = ResultsFolder.add

    def stop_in_c(self: ResultsFolder, index: int, *pictures: object) -> None:
        if self.path.name == "c" and index == 2:
            raise KeyboardInterrupt
        add(self, index, *pictures)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(ResultsFolder, "add", stop_in_c)
        infer_multiview.main(words)
    assert stopped.value.code == 130
    before = written(tmp_path / "out/a")
    capsys.readouterr()
    assert infer_multiview.main(words) == 0
    told = capsys.readouterr().out
    assert f"All 3 views are in {tmp_path / 'out/a'} already." in told and "Continuing after 2 of 3 views." in told
    assert written(tmp_path / "out/a") == before
    Image.new("RGB", (90, 90), "red").save(photos / "a.png")  # another photo, which is not finished
    infer_multiview.main([*words, "--matte", "none"])
    assert all(written(tmp_path / "out/a")[name] > time for name, time in before.items())


def test_several_processes_share_the_photos(words: list[str], photos: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "infer_multiview.py", *words],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0, "as a photo failed"
    assert "2 processes share the work" in done.stderr
    assert done.stderr.count("error: 1 of 3 photos failed: b.jpg.") == 1
    assert all((tmp_path / "out" / name / "run.json").exists() for name in ("a", "c"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--images", "none"], "cannot read --images none"),
        (["--images", "photos/a.png"], "is a file"),
        (["--images", "."], "holds no photo"),
        (["--images", "photos", "--trajectory", "square"], "--trajectory square"),
        (["--images", "photos", "--export", "glb", "--num-views", "1"], "export"),
        (["--images", "photos", "--checkpoint", "photos"], "no mvgenvs pipeline"),
        (["--images", "twins"], "A.JPG and a.png in twins would share one folder"),
    ],
)
def test_what_fails_for_all_photos_is_one_sentence(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twins").mkdir()
    for name in ("A.JPG", "a.png"):
        shutil.copy(CAR, tmp_path / "twins" / name)
    with pytest.raises(UserError, match=says) as error:
        infer_multiview.main([*arguments, "--output", "out"])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--image", "car.png"],
        ["--camera", "camera.json"],
        ["--matte", "mask.png"],
        ["--preview"],
        ["--show-plan"],
        ["--unconditional"],
    ],
)
def test_flags_of_one_photo_do_not_go_with_a_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        infer_multiview.main(["--images", "photos", *arguments])
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_hidden_files_and_folders_are_no_photos(tmp_path: Path) -> None:
    (tmp_path / "sub.png").mkdir()
    for name in (".hidden.png", "B.JPEG", "a.webp", "README"):
        (tmp_path / name).touch()
    photos, others = find_photos(tmp_path)
    assert [path.name for path in photos] == ["B.JPEG", "a.webp"]
    assert others == ["README"]
