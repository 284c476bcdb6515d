"""The SRN and OpenCars readers, the draw of training sets, and augmentations that keep a set consistent."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import Solid, ray_cast, ring_cameras, toy_car, write_srn
from tiny_data import share_in_free_space, toy_views, write_opencars

from mvgenvs.data.augment import draw_augmentation, hue_rotation
from mvgenvs.data.sampling import TrainingSets, collate
from mvgenvs.data.scenes import Scenes, open_scenes, splits_in
from mvgenvs.data.srn import SRNScenes
from mvgenvs.errors import UserError
from mvgenvs.views import ViewSet


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
    assert isinstance(open_scenes(root, "train", 32), Scenes)
    with pytest.raises(UserError, match="there is no folder"):
        open_scenes(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="found no data set"):
        open_scenes(tmp_path, "train")
    with pytest.raises(UserError, match="no split 'dev'"):
        open_scenes(root, "dev")
    write_srn(tmp_path, {"train": 1}, views=1)
    with pytest.raises(UserError, match="no split 'test', it has train"):
        open_scenes(tmp_path, "test")


# Training sets


def training_sets(root: Path, seed: int = 0, **options) -> TrainingSets:
    options = {"num_views": 3, "num_known": (1, 2), "global_batch": 4, "num_items": 100} | options
    return TrainingSets(SRNScenes(root, "train", 32), seed=seed, **options)


def test_a_draw_depends_on_seed_and_index_alone(root):
    first, second = training_sets(root), training_sets(root)
    second[3], second[11]  # another history
    np.random.seed(7)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two = first[5], second[5]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.views.images, two.views.images)
    assert torch.equal(one.views.cameras.c2w, two.views.cameras.c2w)
    assert (one.num_known, one.seed) == (two.num_known, two.seed)
    others = [first[6], training_sets(root, seed=1)[5]]
    assert all(other.seed != one.seed for other in others)
    assert not any(torch.equal(other.views.images, one.views.images) for other in others)


def test_every_family_is_drawn_equally_often(root):
    sets = training_sets(root, num_views=1, recolour=0.0, mirror=False)
    pictures = [sets.scenes.load(index).images for index in range(3)]

    def drawn(index: int) -> int:
        image = sets[index].views.images[0]
        return next(i for i, views in enumerate(pictures) if any(torch.equal(image, view) for view in views))

    counts = Counter(drawn(index) for index in range(160))
    assert counts[2] == pytest.approx(80, abs=20)  # alone in its family; one draw in three would give 53
    assert counts[0] == pytest.approx(40, abs=20)
    assert counts[1] == pytest.approx(40, abs=20)


def test_one_step_has_one_number_of_known_views(root):
    sets = training_sets(root)
    steps = [[sets[step * 4 + i].num_known for i in range(4)] for step in range(25)]
    assert all(len(set(step)) == 1 for step in steps)
    assert {step[0] for step in steps} == {1, 2}


def test_views_of_a_set_differ_unless_there_are_too_few(root):
    five = training_sets(root, num_views=5, recolour=0.0, mirror=False)
    assert all(len(five[i].views.cameras.c2w.unique(dim=0)) == 5 for i in range(5))
    assert training_sets(root, num_views=7)[0].views.num_views == 7


def test_batches_stack_their_sets(root):
    sets = training_sets(root)
    batch = collate([sets[0], sets[1]])
    assert batch.views.images.shape == (2, 3, 3, 32, 32)
    assert torch.equal(batch.views.cameras.c2w[1], sets[1].views.cameras.c2w)
    assert batch.seeds == [sets[0].seed, sets[1].seed]
    assert batch.num_known == sets[0].num_known


# Augmentations


def test_hue_rotation_turns_colours_and_keeps_greys():
    for angle in np.linspace(0.1, 6.2, 9):
        matrix = hue_rotation(angle)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(3), atol=1e-6, rtol=0)
        assert torch.linalg.det(matrix) == pytest.approx(1, abs=1e-5)
        assert torch.trace(matrix) == pytest.approx(1 + 2 * math.cos(angle), abs=1e-5)
        torch.testing.assert_close(matrix @ torch.full((3,), 0.4), torch.full((3,), 0.4))
    third = hue_rotation(2 * math.pi / 3) @ torch.eye(3)[0]
    torch.testing.assert_close(third, torch.eye(3)[1], atol=1e-6, rtol=0)  # red to green


def test_a_set_is_recoloured_alike_in_all_views():
    views = ray_cast([Solid((0.0, 0.0, 0.0), 0.2, (0.6, 0.4, 0.3))], ring_cameras(4))
    palettes = set()
    for seed in range(20):
        images = draw_augmentation(np.random.default_rng(seed), recolour=1.0, mirror=False)(views).images
        for view in range(4):
            painted = images[view].movedim(0, -1)[views.mask[view, 0] > 0]
            torch.testing.assert_close(painted, images[0, :, 16, 16].expand_as(painted))
            background = images[view].movedim(0, -1)[views.mask[view, 0] == 0]
            assert (background == 1).all()  # exactly: no tint of the background that a mask would have to forgive
        palettes.add(tuple(images[0, :, 16, 16].mul(100).round().tolist()))
    assert len(palettes) > 8


def test_a_set_exposed_for_too_long_has_white_paint():
    """Alike in all views, by up to four times, and only what was bright turns white."""
    views = ray_cast([Solid((0.0, 0.0, 0.0), 0.2, (0.9, 0.5, 0.1))], ring_cameras(2))
    painted = views.mask[:, 0] > 0
    factors = []
    for seed in range(40):
        images = draw_augmentation(np.random.default_rng(seed), 0.0, False, expose=0.5)(views).images
        colours = images.movedim(1, -1)[painted]
        assert (colours == colours[0]).all() and (images.movedim(1, -1)[~painted] == 1).all()
        factors.append(float(colours[0, 2]) / 0.1)
        torch.testing.assert_close(colours[0], (torch.tensor([0.9, 0.5, 0.1]) * factors[-1]).clamp(max=1))
    assert 10 <= sum(factor > 1.001 for factor in factors) <= 30
    assert 2.5 < max(factors) <= 4.001


def test_augmentation_can_be_switched_off():
    views = ray_cast(toy_car(0), ring_cameras(2))
    for seed in range(5):
        assert torch.equal(draw_augmentation(np.random.default_rng(seed), 0.0, False)(views).images, views.images)


def test_a_mirrored_set_is_the_mirrored_world():
    """Ray-casting the mirrored car with the mirrored cameras gives the flipped images."""
    car, cameras = toy_car(3), ring_cameras(4)
    mirrored = ray_cast(car, cameras).mirrored()
    truth = ray_cast([solid.mirrored() for solid in car], mirrored.cameras)

    def share_equal(a: torch.Tensor, b: torch.Tensor) -> float:
        return ((a - b).abs() < 1e-3).float().mean().item()

    assert share_equal(mirrored.images, truth.images) > 0.999  # a ray that grazes an edge may fall either way
    assert share_equal(mirrored.depth, truth.depth) > 0.999
    assert share_equal(mirrored.images, ray_cast(car, mirrored.cameras).images) < 0.99  # the lamp is on one side


def test_depth_and_masks_follow_the_mirror(tmp_path):
    """Depth of each view, reprojected into the others by their cameras, fits; flipped without the cameras, it fails."""
    write_opencars(tmp_path, {"train": 2}, size=64)
    sets = TrainingSets(SRNScenes(tmp_path, "train", 64), 4, (1, 2), 4, seed=0, num_items=100, recolour=1.0)
    plain = TrainingSets(sets.scenes, 4, (1, 2), 4, seed=0, num_items=100, mirror=False)
    mirrored = 0
    for index in range(12):
        views = sets[index].views
        assert share_in_free_space(views) < 0.002
        assert torch.equal(views.depth > 0, views.mask > 0)
        colours, painted = views.images.movedim(1, -1), views.mask[:, 0] > 0
        assert (colours[~painted] == 1).all()
        assert (colours[painted] < 1).any(dim=-1).all()
        known = {tuple(c2w.flatten().tolist()) for c2w in ring_cameras(5, 64).c2w}
        is_mirrored = tuple(views.cameras.c2w[0].flatten().tolist()) not in known
        mirrored += is_mirrored
        if is_mirrored:
            half = replace(views, cameras=views.cameras.mirrored())
            assert share_in_free_space(half) > 0.1
    assert 2 <= mirrored <= 10
    assert all(torch.equal(plain[i].views.depth > 0, plain[i].views.mask > 0) for i in range(3))


def test_half_of_the_sets_are_mirrored():
    views = ray_cast(toy_car(3), ring_cameras(2))

    def is_mirrored(augmented: ViewSet) -> bool:
        return torch.equal(augmented.images, views.mirrored().images)

    count = sum(is_mirrored(draw_augmentation(np.random.default_rng(seed), recolour=0.0)(views)) for seed in range(60))
    assert count == pytest.approx(30, abs=14)
