"""A NeRF that keeps its renderings. The trials of a study share them: rendering takes longer than sampling."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.device import clock
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.model import Rendering, ViewNeRF
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.views import with_matte


@dataclass(eq=False)
class RenderCache:
    """Renderings of one set of known views, and how long they took."""

    images: Float[Tensor, "batch known 4 h w"]
    seconds_saved: float = 0.0
    scene: Scene | None = None
    scene_seconds: float = 0.0
    renderings: dict[bytes, tuple[Rendering, float]] = field(default_factory=dict)  # by camera


class CachedNeRF(ViewNeRF):
    """A `ViewNeRF` that, within `caching`, lifts the given known views once and renders each camera of them once.

    Scenes of other known views, such as those lifted by autoregressive plans, are made each time and not kept.
    """

    cache: RenderCache | None = None

    @classmethod
    def of(cls, nerf: ViewNeRF) -> "CachedNeRF":
        """A `CachedNeRF` with the weights of `nerf`, which are not copied."""
        cached = cls.from_config(nerf.config)
        cached.load_state_dict(nerf.state_dict(), assign=True)
        return cached.to(nerf.device).eval().requires_grad_(False)

    @contextmanager
    def caching(self, images: Float[Tensor, "batch known c h w"]) -> Iterator[RenderCache]:
        """Within the block, keeps all renderings from the known `images`."""
        self.cache = RenderCache(with_matte(images))
        try:
            yield self.cache
        finally:
            self.cache = None

    def encode(
        self,
        images: Float[Tensor, "batch view c h w"],
        cameras: Cameras,
        find_empty: bool = False,
        noise: Float[Tensor, "batch view 3 h w"] | None = None,
    ) -> Scene:
        cache = self.cache
        if cache is None or not torch.equal(with_matte(images), cache.images):
            return super().encode(images, cameras, find_empty, noise)
        if cache.scene is None:
            now = clock(images.device)
            started = now()
            cache.scene = super().encode(images, cameras, find_empty, noise)
            cache.scene_seconds = now() - started
        else:
            cache.seconds_saved += cache.scene_seconds
        return cache.scene

    def render(
        self, scene: Scene, cameras: Cameras, jitter: Float[Tensor, "batch ray"] | None = None, chunk: int | None = None
    ) -> Rendering:
        cache = self.cache
        if cache is None or scene is not cache.scene:
            return super().render(scene, cameras, jitter, chunk)
        key = cameras.c2w.cpu().numpy().tobytes()
        if key in cache.renderings:
            rendering, seconds = cache.renderings[key]
            cache.seconds_saved += seconds
            return rendering
        now = clock(cameras.c2w.device)
        started = now()
        rendering = super().render(scene, cameras, jitter, chunk)
        cache.renderings[key] = rendering, now() - started
        return rendering


def with_cached_nerf(pipeline: MultiViewPipeline) -> tuple[MultiViewPipeline, CachedNeRF]:
    """The same pipeline around a `CachedNeRF`, and that NeRF."""
    nerf = CachedNeRF.of(pipeline.nerf)
    made = MultiViewPipeline(pipeline.codec, nerf, pipeline.denoiser, pipeline.scheduler, **pipeline.defaults)
    made.set_progress_bar_config(disable=True)
    return made, nerf
