"""Views that cannot be scored are refused in one sentence, before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from posed import write_colmap, write_views
from test_consistency_geometry import orbit_cameras
from tiny import ray_cast, toy_car

from eval import score
from mvgenvs.cameras import Cameras
from mvgenvs.cli import run_script
from mvgenvs.colmap import read_colmap
from mvgenvs.errors import UserError

VIEWS = ray_cast(toy_car(2), orbit_cameras(4, 30, 32))


def edited(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Changes the camera file of the views."""

    def edit(root: Path) -> None:
        path = root / "made/transforms.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def another_size(root: Path) -> None:
    cv2.imwrite(str(root / "made/frames/002.png"), np.full((40, 32, 3), 255, np.uint8))


def truth_of(cameras: Cameras) -> Callable[[Path], object]:
    return lambda root: write_views(root / "truth", VIEWS.images, cameras)


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no cameras": (lambda root: (root / "made/transforms.json").unlink(), "found no cameras in"),
    "no images": (lambda root: (root / "made/frames/001.png").unlink(), "there is no image"),
    "a damaged image": (lambda root: (root / "made/frames/001.png").write_bytes(b"x"), "damaged or not an image"),
    "other sizes": (another_size, "has 32x40 pixels, but transforms.json says 32x32"),
    "two views": (edited(lambda content: content["frames"].__delitem__(slice(2, None))), "has 2 views, and at least 3"),
    "a fisheye": (edited(lambda content: content.update(camera_model="OPENCV_FISHEYE")), "only pinhole cameras"),
    "is_fisheye": (edited(lambda content: content.update(is_fisheye=True)), "only pinhole cameras"),
    "distortion": (edited(lambda content: content.update(k1=0.1)), "lens distortion"),
    "more distortion": (edited(lambda content: content.update(distortion_params=[0, 0.1])), "lens distortion"),
    "a path outside": (edited(lambda content: content["frames"][0].update(file_path="../a.png")), "leads out of"),
    "an absolute path": (edited(lambda content: content["frames"][0].update(file_path="/a.png")), "leads out of"),
    "no path": (edited(lambda content: content["frames"][0].pop("file_path")), "needs a 'file_path'"),
    "other views": (truth_of(orbit_cameras(4, 25, 32)), "has no view with the camera of frames/001.png"),
    "other lenses": (truth_of(VIEWS.cameras.with_focal(20.0)), "another focal length"),
    "no truth": (lambda root: (root / "truth").mkdir(), "found no cameras in"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_scored_is_said_in_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_views(tmp_path / "made", VIEWS.images, VIEWS.cameras, "transforms.json")
    spoil, says = MISTAKES[name]
    spoil(tmp_path)
    words = [str(tmp_path / "made"), "--output", str(tmp_path / "scores"), "--lpips-nets", "--metrics", "consistency"]
    words += ["--truth", str(tmp_path / "truth")] if (tmp_path / "truth").exists() else []
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: score.main(words))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--inception-weights", "x.pth"], "give --truth"),
        (["--metrics", "fd"], "nothing to measure"),
        (["--metrics", "beauty"], "invalid choice"),
        (["--truth", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_flags_that_make_no_sense(tmp_path: Path, words: list[str], says: str) -> None:
    write_views(tmp_path / "made", VIEWS.images, VIEWS.cameras)
    with pytest.raises(UserError, match=says):
        score.main([str(tmp_path / "made"), "--output", str(tmp_path / "scores"), *words])


def test_other_proportions_and_missing_objects_of_the_truth(tmp_path: Path) -> None:
    write_views(tmp_path / "made/a", VIEWS.images, VIEWS.cameras)
    write_views(tmp_path / "made/b", VIEWS.images, VIEWS.cameras)
    write_views(tmp_path / "truth/a", VIEWS.images, VIEWS.cameras)
    words = [str(tmp_path / "made"), "--truth", str(tmp_path / "truth"), "--output", str(tmp_path / "scores")]
    with pytest.raises(UserError, match="has no folder b"):
        score.main(words)
    oblong = VIEWS.cameras.resized((32, 48))
    write_views(tmp_path / "truth/b", VIEWS.images.repeat_interleave(2, dim=3)[..., :48], oblong)
    with pytest.raises(UserError, match="has 48x32 pixels, and the views 32x32"):
        score.main(words)


def test_a_folder_of_eval_run_is_left_alone(tmp_path: Path) -> None:
    write_views(tmp_path / "made", VIEWS.images, VIEWS.cameras)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/settings.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a run of eval\.run"):
        score.main([str(tmp_path / "made"), "--output", str(tmp_path / "run"), "--lpips-nets"])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["settings.json"]


def no_points(sparse: Path) -> None:
    """Without the second line of each image, every other image would be taken for points."""
    lines = (sparse / "images.txt").read_text().splitlines()
    (sparse / "images.txt").write_text("\n".join(line for line in lines if line.endswith("png")))


def cut_short(sparse: Path) -> None:
    (sparse / "images.bin").write_bytes((sparse / "images.bin").read_bytes()[:-30])


def another_camera(sparse: Path) -> None:
    (sparse / "cameras.txt").write_text("1 PINHOLE 32 32 30 30 16 16\n")


COLMAP_MISTAKES: dict[str, tuple[dict, Callable[[Path], object], str]] = {
    "distorted": ({"model": "OPENCV", "more": (0.1, 0.0, 0.0, 0.0)}, lambda _: None, "camera model OPENCV is not"),
    "distorted, binary": (
        {"model": "OPENCV", "more": (0.1, 0.0, 0.0, 0.0), "binary": True},
        lambda _: None,
        "camera model OPENCV is not",
    ),
    "unknown": ({"model": "DREAM"}, lambda _: None, "camera model DREAM is not"),
    "too many parameters": ({"more": (1.0,)}, lambda _: None, "damaged"),
    "no lines of points": ({}, no_points, "damaged"),
    "cut short": ({"binary": True}, cut_short, "damaged"),
    "no such camera": ({}, another_camera, "which cameras.txt lacks"),
}


@pytest.mark.parametrize("name", COLMAP_MISTAKES)
def test_models_that_cannot_be_read_say_which_file(name: str, tmp_path: Path) -> None:
    form, spoil, says = COLMAP_MISTAKES[name]
    write_colmap(tmp_path, VIEWS.images, VIEWS.cameras, **form)
    spoil(tmp_path / "sparse/0")
    with pytest.raises(UserError, match=says) as error:
        read_colmap(tmp_path / "sparse/0")
    assert "sparse/0" in str(error.value)
    assert "\n" not in str(error.value)
