"""The SRN and OpenCars readers, the draw of training sets, and augmentations that keep a set consistent."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import Solid, ray_cast, ring_cameras, toy_car, write_srn
from tiny_data import share_in_free_space, toy_views, write_opencars

from mvgenvs.data.scenes import open_scenes, splits_in
from mvgenvs.data.srn import SRNScenes
from mvgenvs.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    families = {"train-0": "saloon", "train-1": "saloon", "train-2": "estate"}
    return write_srn(tmp_path_factory.mktemp("srn"), families=families)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("alpha", [False, True])
def test_reads_what_was_written(tmp_path, suffix, alpha):
    write_srn(tmp_path, {"test": 1}, suffix=suffix, alpha=alpha)
    truth = ray_cast(toy_car(1), ring_cameras(5))
    views = SRNScenes(tmp_path, "test", size=32).load(0)
    torch.testing.assert_close(views.images, truth.images, atol=0.6 / 255, rtol=0)
    torch.testing.assert_close(views.mask, truth.mask)
    torch.testing.assert_close(views.cameras.c2w, truth.cameras.c2w)
    torch.testing.assert_close(views.cameras.K, truth.cameras.K)
    assert 0.02 < views.mask.mean() < 0.5


@pytest.mark.parametrize("size", [16, 64])
def test_cameras_follow_the_size_of_the_images(tmp_path, size):
    write_srn(tmp_path, {"val": 1}, size=32)
    views = SRNScenes(tmp_path, "val", size).load(0)
    assert views.images.shape == (5, 3, size, size)
    assert views.cameras.hw == (size, size)
    torch.testing.assert_close(views.cameras.K, ring_cameras(5, size).K)


def test_pictures_are_true_to_their_cameras():
    """A ball's centroid lies where its centre projects: the world that the tests are made of is right."""
    center, cameras = (0.12, -0.1, 0.2), ring_cameras(6, size=64)
    views = ray_cast([Solid(center, 0.1, (0.5, 0.2, 0.2))], cameras)
    pixels, depth = cameras.project(torch.tensor(center)[None, None])
    v, u = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    mask = views.mask[:, 0]
    area = mask.sum(dim=(1, 2))
    centroid = torch.stack([(mask * u).sum(dim=(1, 2)), (mask * v).sum(dim=(1, 2))], dim=-1) / area[:, None]
    torch.testing.assert_close(centroid, pixels[:, 0], atol=0.5, rtol=0)
    nearest = torch.where(mask > 0, views.depth[:, 0], 9.0).amin(dim=(1, 2))
    torch.testing.assert_close(nearest, depth[:, 0] - 0.1, atol=0.01, rtol=0)


def test_views_are_chosen_by_position(root):
    scenes = SRNScenes(root, "train", 32)
    everything, some = scenes.load(1), scenes.load(1, [3, 0])
    assert torch.equal(some.images, everything.images[[3, 0]])
    assert torch.equal(some.cameras.c2w, everything.cameras.c2w[[3, 0]])


def test_families_come_from_the_index(root):
    assert [item.family for item in SRNScenes(root, "train", 32).objects] == ["saloon", "saloon", "estate"]
    assert [item.family for item in SRNScenes(root, "val", 32).objects] == ["val-0", "val-1"]


def test_metadata_go_before_the_index(tmp_path):
    write_srn(tmp_path, {"train": 2}, views=1, families={"train-0": "saloon", "train-1": "estate"})
    record = '{"id": "train-0", "family": "coupé", "licence": "CC-BY-3.0"}'
    (tmp_path / "cars_train/train-0/metadata.json").write_text(record, encoding="utf-8")
    first, second = SRNScenes(tmp_path, "train", 32).objects
    assert (first.family, first.about["licence"]) == ("coupé", "CC-BY-3.0")
    assert (second.family, second.about) == ("estate", {"id": "train-1", "family": "estate"})


def test_all_categories_are_read_unless_one_is_named(tmp_path):
    write_srn(tmp_path, {"train": 3}, views=1)
    (tmp_path / "chairs_train").mkdir()
    (tmp_path / "cars_train/train-1").rename(tmp_path / "chairs_train/train-1")

    def names(category: str = "") -> list[tuple[str, str]]:
        return [(item.name, item.category) for item in open_scenes(tmp_path, "train", 32, category).objects]

    assert names() == [("train-0", "cars"), ("train-2", "cars"), ("train-1", "chairs")]
    assert names("cars") == [("train-0", "cars"), ("train-2", "cars")]
    assert names("chairs") == [("train-1", "chairs")]
    with pytest.raises(UserError, match=r"no folder boats_train .*: choose one of cars, chairs"):
        names("boats")


def test_the_second_val_and_test_are_splits_of_their_own(tmp_path):
    write_srn(tmp_path, {"val": 1, "val2": 2, "test2": 1}, views=1)
    assert splits_in(tmp_path) == ["val", "val2", "test2"]
    names = {split: [o.name for o in open_scenes(tmp_path, split, 32).objects] for split in ("val", "val2", "test2")}
    assert names == {"val": ["val-0"], "val2": ["val2-0", "val2-1"], "test2": ["test2-0"]}


def test_objects_may_lie_one_folder_deeper_as_those_of_srn_chairs(tmp_path):
    write_srn(tmp_path, {"train": 2}, views=1)
    (tmp_path / "chairs_train").mkdir()
    (tmp_path / "cars_train").rename(tmp_path / "chairs_train/chairs_2.0_train")
    scenes = open_scenes(tmp_path, "train", 32)
    assert [(item.name, item.category) for item in scenes.objects] == [("train-0", "chairs"), ("train-1", "chairs")]
    assert scenes.load(1).images.shape == (1, 3, 32, 32)


# Depth and masks


def test_depth_and_masks_are_read(tmp_path):
    write_opencars(tmp_path, {"train": 2})
    scenes = SRNScenes(tmp_path, "train", 32)
    assert [item.family for item in scenes.objects] == ["family 1", "family 2"]
    views, truth = scenes.load(1), toy_views(2)
    torch.testing.assert_close(views.depth, truth.depth, atol=0.6 / 20000, rtol=0)
    torch.testing.assert_close(views.mask, truth.mask)
    assert torch.equal(scenes.load(1, [4, 2]).depth, views.depth[[4, 2]])


def test_masks_may_be_partial_and_bring_white_objects_in(tmp_path):
    write_opencars(tmp_path, {"train": 1}, views=1)
    cv2.imwrite(str(tmp_path / "cars_train/train-0/rgb/000000.png"), np.full((32, 32, 3), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "cars_train/train-0/mask/000000.png"), np.full((32, 32), 51, np.uint8))
    views = SRNScenes(tmp_path, "train", 32).load(0)
    torch.testing.assert_close(views.mask, torch.full((1, 1, 32, 32), 0.2))


@pytest.mark.parametrize("size", [32, 20])
def test_depth_and_masks_stay_together_when_resized(tmp_path, size):
    write_opencars(tmp_path, {"train": 1}, size=64)
    large, small = (SRNScenes(tmp_path, "train", s).load(0) for s in (64, size))
    assert (small.depth[small.mask == 0] == 0).all()
    assert (small.mask[small.depth > 0] > 0).all()
    assert small.mask.mean() == pytest.approx(large.mask.mean().item(), rel=0.01)  # shares of area add up
    assert small.images[small.mask.expand(-1, 3, -1, -1) == 0].min() == 1
    assert set(small.depth.unique().tolist()) <= set(large.depth.unique().tolist())  # no surfaces half-way
    assert share_in_free_space(small, tolerance=0.05) < 0.005


def test_depth_is_dropped_where_the_mask_says_background(tmp_path):
    write_opencars(tmp_path, {"train": 1}, views=1)
    cv2.imwrite(str(tmp_path / "cars_train/train-0/mask/000000.png"), np.zeros((32, 32), np.uint8))
    assert (SRNScenes(tmp_path, "train", 32).load(0).depth == 0).all()


def no_depth(folder: Path) -> None:
    (folder / "depth/000001.png").unlink()


def truncated_depth(folder: Path) -> None:
    path = folder / "depth/000001.png"
    path.write_bytes(path.read_bytes()[:-80])


def eight_bit_depth(folder: Path) -> None:
    cv2.imwrite(str(folder / "depth/000001.png"), np.zeros((32, 32), np.uint8))


def small_depth(folder: Path) -> None:
    cv2.imwrite(str(folder / "depth/000001.png"), np.zeros((16, 16), np.uint16))


def no_mask(folder: Path) -> None:
    (folder / "mask/000001.png").unlink()


def coloured_mask(folder: Path) -> None:
    cv2.imwrite(str(folder / "mask/000001.png"), np.eye(32, dtype=np.uint8)[..., None] * np.uint8([1, 2, 3]))


def no_family(folder: Path) -> None:
    (folder / "metadata.json").write_text('{"id": "train-0"}')


def half_written_metadata(folder: Path) -> None:
    (folder / "metadata.json").write_text('{"id": "tra')


MAP_DAMAGES = {
    no_depth: "depth/000001.png", truncated_depth: "depth/000001.png", eight_bit_depth: "16-bit",
    small_depth: "16x16 pixels, but its view has 32x32", no_mask: "mask/000001.png", coloured_mask: "8-bit grey",
    no_family: "'family'", half_written_metadata: "metadata.json is not JSON",
}  # fmt: skip


@pytest.mark.parametrize("damage", MAP_DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_maps_and_metadata_are_user_errors(tmp_path, damage):
    write_opencars(tmp_path, {"train": 1}, views=2)
    damage(tmp_path / "cars_train/train-0")
    with pytest.raises(UserError, match=MAP_DAMAGES[damage]):
        SRNScenes(tmp_path, "train", 32).load(0)
