"""Training sets: what is drawn depends on seed and index alone, and is augmented as a whole."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Solid, ray_cast, ring_cameras, toy_car, write_srn
from tiny_data import share_in_free_space, write_opencars

from mvgenvs.data.augment import draw_augmentation, hue_rotation
from mvgenvs.data.sampling import TrainingSets, collate
from mvgenvs.data.srn import SRNScenes
from mvgenvs.views import ViewSet


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    families = {"train-0": "saloon", "train-1": "saloon", "train-2": "estate"}
    return write_srn(tmp_path_factory.mktemp("srn"), families=families)


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


def test_a_set_of_neighbours_has_the_views_nearest_to_one(root):
    """The known views are drawn as before; then come a view, and those nearest to it, each once."""
    plain = training_sets(root, num_views=4, mirror=False)
    sets = training_sets(root, num_views=4, mirror=False, neighbours=1.0)
    for index in range(20):
        before, draw = plain.draw(index), sets.draw(index)
        known, middle, *others = draw.views[: draw.num_known], *draw.views[draw.num_known :]
        assert (draw.num_known, draw.seed, [*known, middle]) == (
            before.num_known, before.seed, before.views[: draw.num_known + 1]
        )  # fmt: skip
        centers = sets.scenes.cameras(draw.scene).centers
        far = {view: float((centers[view] - centers[middle]).norm()) for view in range(len(centers))}
        left = [far[view] for view in far if view not in draw.views]
        assert len(set(draw.views)) == 4 and max(far[view] for view in others) <= min(left)
    mixed = training_sets(root, num_views=4, mirror=False, neighbours=0.5)
    changed = [mixed.draw(index).views != plain.draw(index).views for index in range(60)]
    assert 10 <= sum(changed) <= 35
    assert training_sets(root, num_views=7, neighbours=1.0)[0].views.num_views == 7  # more than there are: drawn again


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
