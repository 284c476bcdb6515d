"""View sets: images of one object with their cameras, the unit of training and evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras

UNKNOWN = 0.5  # the matte of views without one


@dataclass(frozen=True, eq=False, slots=True)
class ViewSet:
    """Images of one object, or of a batch of objects, and the cameras that took them."""

    images: Float[Tensor, "*batch view 3 h w"]  # RGB in [0, 1] on white
    cameras: Cameras
    mask: Float[Tensor, "*batch view 1 h w"] | None = None  # 1 on the object, 0 on the background
    depth: Float[Tensor, "*batch view 1 h w"] | None = None  # z-depth in world units, 0 on the background

    @property
    def rgba(self) -> Float[Tensor, "*batch view 4 h w"]:
        """The images with their mattes, see `with_matte`."""
        return with_matte(self.images, self.mask)

    @property
    def num_views(self) -> int:
        return self.images.shape[-4]

    def to(self, device: torch.device | str) -> "ViewSet":
        return self._map(lambda x: x.to(device), self.cameras.to(device))

    def select(self, views: Sequence[int] | slice) -> "ViewSet":
        """Some of the views, in the order given."""
        index = views if isinstance(views, slice) else list(views)
        return self._map(lambda x: x[..., index, :, :, :], self.cameras.select(views))

    def mirrored(self) -> "ViewSet":
        """The same object reflected in x: images flipped left to right and cameras mirrored to match."""
        return self._map(lambda x: x.flip(-1), self.cameras.mirrored())

    def moved(self, matrix: Float[Tensor, "*batch 4 4"]) -> "ViewSet":
        """The object moved together with its cameras, see `Cameras.moved`."""
        return replace(self, cameras=self.cameras.moved(matrix))

    def with_images(self, images: Float[Tensor, "*batch view 3 h w"]) -> "ViewSet":
        return replace(self, images=images)

    def _map(self, change: Callable[[Tensor], Tensor], cameras: Cameras) -> "ViewSet":
        """Changes the images, and mask and depth if there are any, in the same way."""
        mask = None if self.mask is None else change(self.mask)
        depth = None if self.depth is None else change(self.depth)
        return ViewSet(change(self.images), cameras, mask, depth)


def with_matte(
    images: Float[Tensor, "*batch c h w"], matte: Float[Tensor, "*batch 1 h w"] | None = None
) -> Float[Tensor, "*batch 4 h w"]:
    """RGB on white with a matte as fourth channel: 1 on the object, 0 on the background, `UNKNOWN` without a matte.

    Images that already have four channels stay as they are.
    """
    if images.shape[-3] == 4:
        return images
    return torch.cat([images, torch.full_like(images[..., :1, :, :], UNKNOWN) if matte is None else matte], dim=-3)


def stack(sets: Sequence[ViewSet]) -> ViewSet:
    """Stacks view sets of equal size into one batch; masks and depths are kept if every set has them."""

    def joined(name: str) -> Tensor | None:
        parts = [getattr(s, name) for s in sets]
        return None if any(part is None for part in parts) else torch.stack(parts)

    cameras = Cameras(
        torch.stack([s.cameras.c2w for s in sets]), torch.stack([s.cameras.K for s in sets]), sets[0].cameras.hw
    )
    return ViewSet(torch.stack([s.images for s in sets]), cameras, joined("mask"), joined("depth"))
