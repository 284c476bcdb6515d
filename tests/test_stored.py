"""What readers keep in memory: as much as there is room for, whatever the number of objects."""

from pathlib import Path

import pytest
import torch
from tiny import ring_cameras

from mvgenvs.data import stored
from mvgenvs.data.stored import CachedScenes, SceneObject, StoredViews


class Counted(CachedScenes):
    """Objects of three views of 4 x 4 pixels, 3 x 16 x 6 = 288 bytes each; counts what is read."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.objects = [SceneObject(str(n), str(n), Path(), (0, 1, 2)) for n in range(count)]
        self.read_ones: list[int] = []

    def read(self, index: int) -> StoredViews:
        self.read_ones.append(index)
        colours = torch.full((3, 3, 4, 4), index, dtype=torch.uint8)
        depth = torch.full((3, 1, 4, 4), index).to(torch.uint16)
        return StoredViews(colours, ring_cameras(3, 4), colours[:, :1], depth)


def test_bytes_are_those_of_the_pixels() -> None:
    assert Counted(1).read(0).num_bytes == 288


@pytest.mark.parametrize(("room", "kept"), [(288 * 3, 3), (288 * 3 - 1, 2), (10, 1), (10**9, 8)])
def test_the_cache_holds_what_there_is_room_for(monkeypatch: pytest.MonkeyPatch, room: int, kept: int) -> None:
    monkeypatch.setattr(stored, "CACHE", room)
    scenes = Counted(8)
    for _ in range(2):
        for index in range(8):
            assert (scenes.load(index, [1]).images * 255).round().unique().tolist() == [index]
            assert len(scenes._stored) == min(kept, len(set(scenes.read_ones)))
            assert sum(views.num_bytes for views in scenes._stored.values()) == scenes._held
    scenes.load(7)
    assert scenes.read_ones == [*range(8)] * (1 if kept == 8 else 2)
