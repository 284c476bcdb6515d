"""Captures in transforms.json form: pictures stay true to their cameras through cropping, resizing and fitting."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import ray_cast, ring_cameras, toy_car
from tiny_data import share_in_free_space, toy_views, write_capture

from mvgenvs.cameras import Cameras, look_at_origin
from mvgenvs.data.captures import CaptureScenes, fitted
from mvgenvs.data.sampling import TrainingSets
from mvgenvs.data.scenes import open_scenes, splits_in
from mvgenvs.errors import UserError


def wide_cameras(count: int = 5) -> Cameras:
    """Images of 48 x 36 with oblong pixels and a principal point off the middle, other ones in each view."""
    ring = ring_cameras(count)
    K = ring.K.clone()
    K[:, 1, 1] *= 1.2
    K[:, 0, 2], K[:, 1, 2] = 24 + torch.arange(count), 18 - 0.5 * torch.arange(count)
    return Cameras(ring.c2w, K, (36, 48))


def in_another_world(cameras: Cameras, scale: float = 3.0) -> Cameras:
    """The same pictures taken in a world with z up, `scale` times as large, around another place."""
    z_up = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    c2w = cameras.c2w.clone()
    c2w[:, :3, :3] = z_up @ c2w[:, :3, :3]
    c2w[:, :3, 3] = scale * c2w[:, :3, 3] @ z_up.T + torch.tensor([5.0, -2.0, 0.7])
    return Cameras(c2w, cameras.K, cameras.hw)


def test_what_is_read_is_what_the_cameras_see(tmp_path):
    """The toy world, seen through the cameras that were read, gives the images, masks and depths that were read."""
    write_capture(tmp_path / "car", ray_cast(toy_car(2), wide_cameras()))
    views = CaptureScenes(tmp_path, "train", size=36, fit=False).load(0)
    truth = ray_cast(toy_car(2), views.cameras)
    assert views.images.shape == (5, 3, 36, 36)
    torch.testing.assert_close(views.images, truth.images, atol=0.6 / 255, rtol=0)
    torch.testing.assert_close(views.mask, truth.mask)
    torch.testing.assert_close(views.depth, truth.depth, atol=6e-4, rtol=0)
    assert 0.02 < views.mask.mean() < 0.5


def test_cameras_follow_the_size(tmp_path):
    write_capture(tmp_path / "car", ray_cast(toy_car(2), wide_cameras()))
    large, small = (CaptureScenes(tmp_path, "train", size, fit=False).load(0) for size in (36, 18))
    torch.testing.assert_close(small.images, F.avg_pool2d(large.images, 2), atol=1 / 255, rtol=0)
    torch.testing.assert_close(small.cameras.K, large.cameras.resized((18, 18)).K)


def test_alpha_is_composited_on_white_and_becomes_the_mask(tmp_path):
    folder = write_capture(tmp_path / "car", toy_views(1))
    bgra = np.full((32, 32, 4), (0, 0, 200, 102), np.uint8)
    for path in (folder / "images").iterdir():
        cv2.imwrite(str(path), bgra)
    views = CaptureScenes(tmp_path, "train", 32).load(0)
    red = torch.tensor([255 * 0.6 + 200 * 0.4, 255 * 0.6, 255 * 0.6]) / 255
    torch.testing.assert_close(views.images[0, :, 5, 5], red, atol=0.5 / 255, rtol=0)
    torch.testing.assert_close(views.mask, torch.full_like(views.mask, 102 / 255))


def test_photographs_without_alpha_have_no_mask(tmp_path):
    folder = write_capture(tmp_path / "car", toy_views(1))
    for path in (folder / "images").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_COLOR))
    views = CaptureScenes(tmp_path, "train", 32).load(0)
    assert views.mask is None
    assert views.depth is not None


@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_fitting_recovers_the_model_world(tmp_path, scale):
    truth = toy_views(3)
    write_capture(tmp_path / "car", truth, in_another_world(truth.cameras, scale), depth_scale=scale)
    views = CaptureScenes(tmp_path, "train", 32).load(0)
    torch.testing.assert_close(views.cameras.c2w, truth.cameras.c2w, atol=1e-4, rtol=0)
    torch.testing.assert_close(views.depth, truth.depth, atol=1e-3 / scale, rtol=0)
    assert share_in_free_space(views) < 0.002
    unfitted = CaptureScenes(tmp_path, "train", 32, fit=False).load(0)
    torch.testing.assert_close(unfitted.cameras.c2w, in_another_world(truth.cameras, scale).c2w, atol=1e-5, rtol=0)


def test_cameras_of_the_model_world_stay_as_they_are():
    """Even those of half an orbit, whose mean image-up leans by 13 degrees."""
    azimuth, elevation = torch.linspace(0, math.pi, 9), math.radians(20)
    level = math.cos(elevation)
    directions = torch.stack([azimuth.sin() * level, azimuth * 0 + math.sin(elevation), azimuth.cos() * level], dim=-1)
    cameras = Cameras(look_at_origin(1.3 * directions), torch.eye(3).repeat(9, 1, 1), (32, 32))
    moved, scale = fitted(cameras)
    assert scale == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(moved.c2w, cameras.c2w, atol=2e-3, rtol=0)


def test_worlds_that_stand_on_their_head_are_turned():
    ring = ring_cameras(6)
    turned = Cameras(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])) @ ring.c2w, ring.K, ring.hw)
    torch.testing.assert_close(fitted(turned)[0].c2w, ring.c2w, atol=1e-5, rtol=0)


def test_cameras_without_a_common_object_are_user_errors():
    ring = ring_cameras(6)
    outwards = ring.c2w.clone()
    outwards[:, :3, [0, 2]] *= -1
    parallel = ring.c2w[:1].repeat(6, 1, 1)
    parallel[:, 0, 3] += torch.arange(6) * 0.1
    with pytest.raises(UserError, match="around it"):
        fitted(Cameras(outwards, ring.K, ring.hw))
    with pytest.raises(UserError, match="one line"):
        fitted(Cameras(parallel, ring.K, ring.hw))


def test_without_split_folders_every_object_is_in_every_split(tmp_path):
    for name in ("b", "a"):
        write_capture(tmp_path / name, toy_views(1))
    assert splits_in(tmp_path) == ["train", "val", "test"]
    for split in ("train", "val", "test"):
        assert [item.name for item in open_scenes(tmp_path, split, 32).objects] == ["a", "b"]


def test_folders_of_splits_are_splits(tmp_path):
    for name in ("train/a", "train/b", "test/c"):
        write_capture(tmp_path / name, toy_views(1))
    assert [item.name for item in open_scenes(tmp_path, "train", 32).objects] == ["a", "b"]
    assert [item.name for item in open_scenes(tmp_path, "test", 32).objects] == ["c"]
    with pytest.raises(UserError, match="no split 'val', it has train, test"):
        open_scenes(tmp_path, "val", 32)


def test_a_folder_may_be_one_capture_and_is_trained_on(tmp_path):
    scenes = open_scenes(write_capture(tmp_path / "car", ray_cast(toy_car(1), wide_cameras())), "train", 36)
    assert [(item.name, item.view_ids) for item in scenes.objects] == [("car", (0, 1, 2, 3, 4))]
    sets = TrainingSets(scenes, 3, (1, 2), 4, seed=0, num_items=10)
    assert sets[0].views.images.shape == (3, 3, 36, 36)
    assert all(share_in_free_space(sets[index].views) < 0.002 for index in range(4))  # mirrored ones, too


# Files of other programs


def as_blender(folder: Path, splits: dict[str, list[int]]) -> None:
    """Rewrites a capture as Blender's data sets have it: an angle of view, no sizes, no suffixes, a file per split."""
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    frames = content["frames"]
    angle = 2 * math.atan(content["w"] / 2 / frames[0]["fl_x"])
    for split, numbers in splits.items():
        chosen = [
            {"file_path": "./" + frames[i]["file_path"].removesuffix(".png"), "rotation": 0.1,
             "transform_matrix": frames[i]["transform_matrix"]} for i in numbers
        ]  # fmt: skip
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": chosen}))


def test_blenders_files_are_read_and_their_test_views_never_train(tmp_path):
    folder = write_capture(tmp_path / "car", toy_views(1))
    whole = CaptureScenes(tmp_path, "train", 32).load(0)
    as_blender(folder, {"train": [0, 2, 4], "test": [1, 3]})
    assert splits_in(tmp_path) == ["train", "test"]
    with pytest.raises(UserError, match="no split 'val'"):
        open_scenes(tmp_path, "val", 32)
    for split, numbers in {"train": [0, 2, 4], "test": [1, 3]}.items():
        views = open_scenes(tmp_path, split, 32).load(0)
        torch.testing.assert_close(views.images, whole.images[numbers])
        torch.testing.assert_close(views.cameras.K, whole.cameras.K[numbers])
        # one world for both: a split is not fitted to its own views
        torch.testing.assert_close(views.cameras.c2w, whole.cameras.c2w[numbers], atol=1e-4, rtol=0)


@pytest.mark.parametrize("prefix", ["", "./"])
def test_lists_of_a_split_are_kept_to(tmp_path, prefix):
    folder = write_capture(tmp_path / "car", in_the_middle := toy_views(1))
    names = [f"{prefix}images/{i:03d}.png" for i in range(5)]
    edit(folder, None, train_filenames=names[:3], val_filenames=names[3:], test_filenames=[names[4]])
    assert splits_in(tmp_path) == ["train", "val", "test"]
    found = {split: open_scenes(tmp_path, split, 32) for split in ("train", "val", "test")}
    assert {split: scenes.objects[0].view_ids for split, scenes in found.items()} == {
        "train": (0, 1, 2), "val": (3, 4), "test": (4,),
    }  # fmt: skip
    assert found["test"].load(0).num_views == 1
    torch.testing.assert_close(found["val"].load(0).images, in_the_middle.images[3:], atol=0.6 / 255, rtol=0)
    edit(folder, None, train_filenames=names[:4])
    with pytest.raises(UserError, match=r"003.png' is in train and in val"):
        open_scenes(tmp_path, "train", 32)


def test_masks_cut_like_alpha_and_together_with_it(tmp_path):
    folder = write_capture(tmp_path / "car", truth := toy_views(1))
    half = np.zeros((32, 32), np.uint8)
    half[:, 16:] = 255
    cv2.imwrite(str(folder / "half.png"), half)
    for number in range(5):
        edit(folder, number, mask_path="half.png")
    views = CaptureScenes(tmp_path, "train", 32).load(0)
    assert torch.equal(views.mask[..., :16], torch.zeros_like(views.mask[..., :16]))
    assert (views.images[..., :16] == 1).all()
    torch.testing.assert_close(views.mask[..., 16:], truth.mask[..., 16:])
    torch.testing.assert_close(views.images[..., 16:], truth.images[..., 16:], atol=1 / 255, rtol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
@pytest.mark.parametrize("key", ["depth_file_path", "depth_path"])
def test_depth_may_be_arrays(tmp_path, dtype, key):
    folder = write_capture(tmp_path / "car", truth := toy_views(1))
    exact = CaptureScenes(tmp_path, "train", 32).load(0).depth
    for number in range(5):
        array = (truth.depth[number, 0].double().numpy() * 4000).astype(dtype)
        if dtype != np.uint16:
            array[array == 0] = [np.nan, np.inf, -1, -np.inf, 0][number]  # unknown, in one way or another
        np.save(folder / f"depth/{number}.npy", array)
        edit(folder, number, depth_file_path=None)
        edit(folder, number, **{key: f"depth/{number}.npy"})
    edit(folder, None, integer_depth_scale=0.00025)
    views = CaptureScenes(tmp_path, "train", 32).load(0)
    torch.testing.assert_close(views.depth, exact, atol=6e-4, rtol=0)
    assert torch.equal(views.depth > 0, exact > 0)


# Damage


def edit(folder: Path, frame: int | None, **changes: object) -> None:
    content = json.loads((folder / "transforms.json").read_text())
    target = content if frame is None else content["frames"][frame]
    target |= changes
    (folder / "transforms.json").write_text(json.dumps(content))


def truncated_jpeg(folder: Path) -> None:
    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))[1].tobytes()
    (folder / "images/001.jpg").write_bytes(data[: len(data) // 2])
    edit(folder, 1, file_path="images/001.jpg")


def opaque(folder: Path) -> None:
    cv2.imwrite(str(folder / "images/001.png"), np.zeros((32, 32, 3), np.uint8))


def arrays(folder: Path, array: np.ndarray) -> None:
    np.save(folder / "d.npy", array)
    edit(folder, 1, depth_file_path="d.npy")


DAMAGES = {
    "no image": (lambda folder: (folder / "images/001.png").unlink(), "no image .*001.png"),
    "no depth": (lambda folder: (folder / "depth/001.png").unlink(), "no image .*depth/001.png"),
    "not all depths": (lambda folder: edit(folder, 1, depth_file_path=None), "only 4 of the 5 .* depth map"),
    "not all alphas": (opaque, "only 4 of the 5 .* alpha"),
    "truncated jpeg": (truncated_jpeg, "001.jpg is damaged"),
    "other size": (lambda folder: edit(folder, None, w=64), "32x32 pixels, but transforms.json says 64x32"),
    "no file path": (lambda folder: edit(folder, 1, file_path=""), "'file_path'"),
    "no focal length": (lambda folder: edit(folder, 1, fl_x="far"), "'fl_x' must be a finite number"),
    "missing mask": (lambda folder: edit(folder, 1, mask_path="small.png"), "no image .*small.png"),
    "no mask": (lambda folder: edit(folder, 1, mask_path="none.png"), "no image .*none.png"),
    "mask outside": (lambda folder: edit(folder, 1, mask_path="../x.png"), "leads out of the folder"),
    "depth outside": (lambda folder: edit(folder, 1, depth_path="/x.npy", depth_file_path=None), "leads out"),
    "image outside": (lambda folder: edit(folder, 1, file_path="a/../../b.png"), "leads out"),
    "path of numbers": (lambda folder: edit(folder, 1, file_path=3), "'file_path' must be the name"),
    "array of objects": (lambda folder: arrays(folder, np.array([{}])), "holds no array|damaged"),
    "array of another size": (lambda folder: arrays(folder, np.ones((4, 4))), "4x4 pixels"),
    "array of words": (lambda folder: arrays(folder, np.full((32, 32), "a")), "no array of numbers"),
    "array of volumes": (lambda folder: arrays(folder, np.ones((32, 32, 3))), "rows and columns"),
    "no array": (
        lambda folder: (folder / "d.npy").write_text("a") and edit(folder, 1, depth_file_path="d.npy"),
        "d.npy",
    ),
    "strays in a split": (lambda folder: edit(folder, None, train_filenames=["x.png"]), "'x.png', which is"),
    "split of a word": (lambda folder: edit(folder, None, train_filenames="x.png"), "'train_filenames' must be"),
    "no size": (lambda folder: edit(folder, None, w=None), "'w' must be"),
    "huge": (lambda folder: edit(folder, None, w=10**9), "'w' must be a finite number from 1 to"),
    "far": (lambda folder: edit(folder, 0, fl_x=1e30), "'fl_x' must be"),
    "depth unit": (lambda folder: edit(folder, None, depth_unit_scale_factor=-1), "'depth_unit_scale_factor'"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_malformed_captures_are_user_errors(tmp_path, name):
    damage, says = DAMAGES[name]
    damage(write_capture(tmp_path / "car", toy_views(1)))
    with pytest.raises(UserError, match=says):
        CaptureScenes(tmp_path, "train", 32).load(0)
