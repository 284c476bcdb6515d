"""Sets gathered on a device are the loader's. Here the device is the CPU; test_gpu.py asks the same of a GPU."""

from pathlib import Path

import pytest
import torch
from tiny import ring_cameras

from mvgenvs.data.device_sets import DeviceSets
from mvgenvs.data.sampling import TrainingSets, collate
from mvgenvs.data.stored import CachedScenes, SceneObject, StoredViews


class Noise(CachedScenes):
    """Random pictures, of objects with different numbers of views and units of depth."""

    def __init__(self, counts: tuple[int, ...], masks: bool = True) -> None:
        super().__init__()
        self.masks = masks
        self.objects = [SceneObject(str(n), str(n), Path(), tuple(range(count))) for n, count in enumerate(counts)]

    def read(self, index: int) -> StoredViews:
        count = len(self.objects[index].view_ids)
        generator = torch.Generator().manual_seed(index)
        bytes_ = torch.randint(0, 256, (count, 4, 8, 8), generator=generator, dtype=torch.uint8)
        depth = torch.randint(0, 65536, (count, 1, 8, 8), generator=generator).to(torch.uint16)
        cameras = ring_cameras(count, 8, start=index)
        mask = bytes_[:, 3:] if self.masks or index else None
        return StoredViews(bytes_[:, :3], cameras, mask, depth, 0.001 * (index + 1))


def sets_of(scenes: CachedScenes) -> TrainingSets:
    return TrainingSets(scenes, 4, (1, 3), 4, seed=3, num_items=100, expose=0.5, neighbours=0.5)


@pytest.mark.parametrize("indices", [[0, 1, 2, 3], [4, 5, 6, 7], [37], list(range(80, 100))])
def test_batches_are_the_loaders(indices: list[int]) -> None:
    sets = sets_of(Noise((6, 4, 3, 9)))  # with three views, some come twice
    ours, theirs = DeviceSets(sets, torch.device("cpu")).batch(indices), collate([sets[i] for i in indices])
    assert (ours.num_known, ours.seeds) == (theirs.num_known, theirs.seeds)
    for name in ("images", "mask", "depth"):
        a, b = getattr(ours.views, name), getattr(theirs.views, name)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    assert theirs.views.depth.max() > 33, "beyond what 15 bits hold"
    torch.testing.assert_close(ours.views.cameras.c2w, theirs.views.cameras.c2w)
    torch.testing.assert_close(ours.views.cameras.K, theirs.views.cameras.K)
    assert ours.views.cameras.hw == theirs.views.cameras.hw


def test_all_kinds_of_augmentation_were_among_them() -> None:
    draws = [sets_of(Noise((6, 4, 3, 9))).draw(index).augmentation for index in range(80, 100)]
    assert {draw.mirrored for draw in draws} == {True, False}
    assert {draw.colours is None for draw in draws} == {True, False}
    assert {draw.exposure == 1 for draw in draws} == {True, False}


def test_masks_that_some_objects_lack_are_left_out() -> None:
    sets = sets_of(Noise((6, 4, 3, 9), masks=False))
    batch = DeviceSets(sets, torch.device("cpu")).batch([0, 1, 2, 3])
    assert batch.views.mask is None
    torch.testing.assert_close(batch.views.depth, collate([sets[i] for i in range(4)]).views.depth)
