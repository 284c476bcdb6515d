"""All training data on the device: the same sets as the loader's, gathered and augmented on the device.

A GPU trains faster than processes can decode, stack and transfer pictures; 8,000 views of 128 px are .8 GB in 8 and 16
bits, and fit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mvgenvs.cameras import Cameras, turn_about_vertical
from mvgenvs.data.sampling import Batch, SetDraw, TrainingSets
from mvgenvs.data.stored import CachedScenes, StoredViews
from mvgenvs.views import ViewSet


class DeviceSets:
    """The views of all scenes in a few large tensors, and batches gathered from them."""

    def __init__(self, sets: TrainingSets, device: torch.device) -> None:
        """Decodes every scene; masks and depths are kept if all scenes have them."""
        self.sets, self.device = sets, device
        scenes = sets.scenes
        assert isinstance(scenes, CachedScenes)
        stored: list[StoredViews] = [scenes.read(index) for index in range(len(scenes))]
        counts = torch.tensor([0, *(len(views.images) for views in stored)])
        self.starts = counts.cumsum(0)[:-1].tolist()

        def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
            if any(part is None for part in parts):
                return None
            return torch.cat([part.to(device) for part in parts if part is not None])

        self.hw = stored[0].cameras.hw
        self.images = joined([views.images for views in stored])
        self.masks = joined([views.mask for views in stored])
        depths = [None if views.depth is None else views.depth.view(torch.int16) for views in stored]
        self.depths = joined(depths)  # unsigned 16 bits, which a GPU can only hold as signed ones
        self.units = torch.tensor([views.depth_unit for views in stored], device=device)
        self.c2w = joined([views.cameras.c2w for views in stored])
        self.K = joined([views.cameras.K for views in stored])

    def batch(self, indices: Sequence[int]) -> Batch:
        """The sets with these indices, as `collate` makes them from the loader's samples."""
        draws = [self.sets.draw(index) for index in indices]
        views = self._gathered(draws)
        mirrored = torch.tensor([draw.augmentation.mirrored for draw in draws], device=self.device)
        views = _chosen(mirrored, views.mirrored(), views)
        azimuths = [draw.augmentation.azimuth for draw in draws]
        if any(azimuths):
            views = views.moved(turn_about_vertical(torch.tensor(azimuths, device=self.device)))
        colours = [draw.augmentation.colours for draw in draws]
        turns = torch.stack([torch.eye(3) if colour is None else colour for colour in colours]).to(self.device)
        darkness = torch.einsum("bij,bvjhw->bvihw", turns, 1 - views.images)
        exposure = torch.tensor([draw.augmentation.exposure for draw in draws], device=self.device)
        images = ((1 - darkness).clamp(0, 1) * exposure.view(-1, 1, 1, 1, 1)).clamp(max=1)
        return Batch(views.with_images(images), draws[0].num_known, [draw.seed for draw in draws])

    def _gathered(self, draws: Sequence[SetDraw]) -> ViewSet:
        rows = torch.tensor([[self.starts[d.scene] + view for view in d.views] for d in draws]).to(self.device)
        units = self.units[torch.tensor([draw.scene for draw in draws]).to(self.device)]

        def pick(x: Tensor) -> Tensor:
            return x[rows.flatten()].unflatten(0, rows.shape)

        assert self.images is not None and self.c2w is not None and self.K is not None
        depth = None
        if self.depths is not None:
            depth = (pick(self.depths).int() & 0xFFFF).float() * units[:, None, None, None, None]
        return ViewSet(
            pick(self.images).float() / 255,
            Cameras(pick(self.c2w), pick(self.K), self.hw),
            None if self.masks is None else pick(self.masks).float() / 255,
            depth,
        )


def _chosen(condition: Tensor, yes: ViewSet, no: ViewSet) -> ViewSet:
    """For each entry of the batch, one or the other."""

    def choose(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if a is None or b is None:
            return None
        return torch.where(condition.view(-1, *[1] * (a.ndim - 1)), a, b)

    images, c2w, K = (choose(a, b) for a, b in (
        (yes.images, no.images), (yes.cameras.c2w, no.cameras.c2w), (yes.cameras.K, no.cameras.K)
    ))  # fmt: skip
    assert images is not None and c2w is not None and K is not None
    return ViewSet(images, Cameras(c2w, K, no.cameras.hw), choose(yes.mask, no.mask), choose(yes.depth, no.depth))
