"""Objects without a known front are turned about the vertical axis, cameras and all; those with one never are."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import ray_cast, ring_cameras, toy_car
from tiny_data import write_opencars

from mvgenvs.cameras import turn_about_vertical
from mvgenvs.data import pack as packing
from mvgenvs.data.compact import CompactScenes
from mvgenvs.data.compact import main as compact
from mvgenvs.data.device_sets import DeviceSets
from mvgenvs.data.sampling import TrainingSets, collate
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.trajectories import angles_of
from mvgenvs.views import ViewSet


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two objects, of which the second has no front."""
    root = write_opencars(tmp_path / "data", {"train": 2})
    path = root / "cars_train/train-1/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"front": False}))
    return root


def sets_of(scenes: CachedScenes, **options: bool) -> TrainingSets:
    return TrainingSets(scenes, 3, (1, 2), 4, seed=2, num_items=1000, **options)


def turns(sets: TrainingSets, count: int = 300) -> dict[int, list[float]]:
    """The azimuths by which each object was turned, by its place in the data set."""
    found: dict[int, list[float]] = {0: [], 1: []}
    for draw in map(sets.draw, range(count)):
        found[draw.scene].append(draw.augmentation.azimuth)
    return found


def points_seen(views: ViewSet) -> torch.Tensor:
    """World points on the surface, from every view's depth."""
    height, width = views.cameras.hw
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    grid = torch.stack([u, v], dim=-1).reshape(1, -1, 2).expand(views.num_views, -1, -1)
    return views.cameras.unproject(grid, views.depth.flatten(1))[views.depth.flatten(1) > 0]


def test_only_those_without_a_front_turn_and_they_turn_everywhere(root: Path) -> None:
    found = turns(sets_of(open_scenes(root, "train", 32)))
    assert set(found[0]) == {0.0}
    eighths = {int(azimuth / (2 * math.pi) * 8) for azimuth in found[1]}
    assert eighths == set(range(8))
    assert len(set(found[1])) == len(found[1])


def test_a_turn_moves_the_object_with_its_cameras() -> None:
    views = ray_cast(toy_car(1), ring_cameras(4, 32))
    turned = views.moved(turn_about_vertical(torch.tensor(math.pi / 2)))
    assert torch.equal(turned.images, views.images)
    x, y, z = points_seen(views).unbind(-1)
    torch.testing.assert_close(points_seen(turned), torch.stack([z, y, -x], dim=-1), atol=1e-5, rtol=0)
    before, after = angles_of(views.cameras.centers), angles_of(turned.cameras.centers)
    torch.testing.assert_close(before[1], after[1])  # elevation
    turn = (after[0] - before[0]) % 360
    torch.testing.assert_close(turn, turn[:1].expand_as(turn), atol=1e-3, rtol=0)


@pytest.mark.parametrize("mirror", [True, False])
def test_sets_on_a_device_are_turned_alike(root: Path, mirror: bool) -> None:
    sets = sets_of(open_scenes(root, "train", 32), mirror=mirror)
    indices = list(range(12))
    draws = [sets.draw(index) for index in indices]
    assert {bool(draw.augmentation.azimuth) for draw in draws} == {True, False}
    assert mirror == any(draw.augmentation.mirrored and draw.augmentation.azimuth for draw in draws)
    ours, theirs = DeviceSets(sets, torch.device("cpu")).batch(indices), collate([sets[index] for index in indices])
    torch.testing.assert_close(ours.views.cameras.c2w, theirs.views.cameras.c2w, atol=1e-6, rtol=0)
    untouched = [sets.scenes.load(draw.scene, draw.views).cameras.c2w for draw in draws]
    assert not torch.allclose(torch.stack(untouched), theirs.views.cameras.c2w)


def test_packed_forms_know_which_objects_have_no_front(root: Path, tmp_path: Path) -> None:
    packing.main([str(root), "--size", "32", "--output", str(tmp_path / "packed")])
    compact(["pack", str(root), "--size", "32", "--output", str(tmp_path / "compact")])
    for scenes in (open_scenes(tmp_path / "packed", "train", 32), CompactScenes(tmp_path / "compact/data.safetensors")):
        assert [item.has_front for item in scenes.objects] == [True, False]
    packed, plain = (sets_of(open_scenes(folder, "train", 32)) for folder in (tmp_path / "packed", root))
    assert turns(packed, 40) == turns(plain, 40)


def test_a_mixture_keeps_it(root: Path) -> None:
    item = open_scenes(root, "train", 32).objects[1]
    assert not replace(item, source=1).has_front


@pytest.mark.parametrize("value", ["no", 0, None])
def test_other_words_of_the_front_are_refused(root: Path, value: object) -> None:
    path = root / "cars_train/train-0/metadata.json"
    path.write_text(json.dumps({"id": "train-0", "family": "a", "front": value}))
    with pytest.raises(UserError, match=r"'front' in .*metadata\.json must be true or false"):
        open_scenes(root, "train", 32)
