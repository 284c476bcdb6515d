"""Data in SRN's layout that are damaged, missing or of another kind: one sentence that names the file."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import write_srn

from mvgenvs.data.scenes import ObjectDataset, open_scenes
from mvgenvs.data.srn import SRNScenes
from mvgenvs.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    families = {"train-0": "saloon", "train-1": "saloon", "train-2": "estate"}
    return write_srn(tmp_path_factory.mktemp("srn"), families=families)


# Damage


def damage_index(root: Path) -> None:
    (root / "meta.json").write_text('{"train-0": "saloon"}')


def damage_index_json(root: Path) -> None:
    (root / "meta.json").write_text("[{")


def damage_pose(root: Path) -> None:
    (root / "cars_train/train-0/pose/000001.txt").write_text("1 0 0 0")


def damage_pose_words(root: Path) -> None:
    (root / "cars_train/train-0/pose/000001.txt").write_text("one " * 16)


def remove_pose(root: Path) -> None:
    (root / "cars_train/train-0/pose/000001.txt").unlink()


def remove_intrinsics(root: Path) -> None:
    (root / "cars_train/train-0/intrinsics.txt").unlink()


def damage_intrinsics(root: Path) -> None:
    (root / "cars_train/train-0/intrinsics.txt").write_text("131.25 64 64")


def damage_image(root: Path) -> None:
    (root / "cars_train/train-0/rgb/000000.png").write_bytes(b"\x89PNG no more")


def truncated_image(root: Path) -> None:
    path = root / "cars_train/train-0/rgb/000000.png"
    path.write_bytes(path.read_bytes()[:-80])


def wide_image(root: Path) -> None:
    cv2.imwrite(str(root / "cars_train/train-0/rgb/000000.png"), np.zeros((32, 32), np.uint16))


def remove_images(root: Path) -> None:
    for path in (root / "cars_train/train-0/rgb").iterdir():
        path.unlink()


def oblong_image(root: Path) -> None:
    cv2.imwrite(str(root / "cars_train/train-0/rgb/000000.png"), np.zeros((32, 48, 3), np.uint8))


DAMAGES = {
    damage_index: r"meta\.json is not a list of objects",
    damage_index_json: r"meta\.json is not JSON",
    damage_pose: r"000001\.txt holds 4 numbers where at least 16",
    damage_pose_words: r"cannot read numbers from .*000001\.txt",
    remove_pose: r"cannot read numbers from .*000001\.txt",
    remove_intrinsics: r"cannot read numbers from .*intrinsics\.txt",
    damage_intrinsics: r"intrinsics\.txt holds 3 numbers where at least 10",
    damage_image: r"000000\.png is damaged or not an image",
    truncated_image: r"000000\.png is damaged or not an image",
    wide_image: r"000000\.png is not an 8-bit image \(its mode is I;16\)",
    remove_images: "found no images in .*rgb",
    oblong_image: r"000000\.png is not square",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_malformed_data_are_user_errors(tmp_path, damage):
    write_srn(tmp_path, {"train": 1}, views=2)
    damage(tmp_path)
    with pytest.raises(UserError, match=DAMAGES[damage]):
        SRNScenes(tmp_path, "train", 32).load(0)


def test_greyscale_images_are_read_as_grey(tmp_path):
    write_srn(tmp_path, {"train": 1}, views=2)
    ramp = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
    cv2.imwrite(str(tmp_path / "cars_train/train-0/rgb/000000.png"), ramp)
    image = SRNScenes(tmp_path, "train", 32).load(0).images[0]
    torch.testing.assert_close(image, torch.from_numpy(ramp / 255).float().expand(3, -1, -1))


def test_missing_data_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="SRN layout"):
        SRNScenes(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="no split 'dev'"):
        SRNScenes(tmp_path, "dev")
    (tmp_path / "cars_train" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match="no objects"):
        SRNScenes(tmp_path, "train")


def test_what_lies_in_a_folder_is_recognised(tmp_path, root):
    assert isinstance(open_scenes(root, "train", 32), SRNScenes)
    assert isinstance(open_scenes(root, "train", 32), ObjectDataset)
    with pytest.raises(UserError, match="there is no folder"):
        open_scenes(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="found no data set"):
        open_scenes(tmp_path, "train")
    with pytest.raises(UserError, match="no split 'dev'"):
        open_scenes(root, "dev")
    write_srn(tmp_path, {"train": 1}, views=1)
    with pytest.raises(UserError, match="no split 'test', it has train"):
        open_scenes(tmp_path, "test")


POSE, LENS = "1 0 0 0 0 1 0 0 0 0 1 1.3 0 0 0 1", "131.25 64 64 0.\n0. 0. 0.\n1.\n128 128\n"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("pose/000000.txt", f"{POSE} 1", "must hold 16 numbers"),
        ("pose/000000.txt", POSE.replace("1 0 0 0 0 1", "2 0 0 0 0 1"), "a rotation and a translation"),
        ("pose/000000.txt", POSE.replace("1.3", "nan"), "not finite"),
        ("pose/000000.txt", POSE.replace("1.3", "1e30"), "not finite, or beyond"),
        ("intrinsics.txt", LENS.replace("131.25", "0"), "'fl_x'"),
        ("intrinsics.txt", LENS.replace("128 128", "128 1e6"), "'w'"),
        ("intrinsics.txt", LENS.replace("128 128", "0.5 128"), "'h'"),
        ("intrinsics.txt", LENS.replace("128 128", "128 inf"), "not finite"),
    ],
)
def test_cameras_that_are_none_are_refused(file: str, text: str, message: str, tmp_path: Path) -> None:
    root = write_srn(tmp_path, {"train": 1}, views=2)
    (root / "cars_train/train-0/rgb/\N{SUPERSCRIPT TWO}.png").write_bytes(b"")  # no number, though a digit
    scenes = open_scenes(root, "train", 32)
    assert scenes.load(0).num_views == 2
    (root / "cars_train/train-0" / file).write_text(text)
    with pytest.raises(UserError, match=message):
        open_scenes(root, "train", 32).load(0)
