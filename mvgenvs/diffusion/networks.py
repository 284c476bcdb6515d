"""A pipeline's three networks as sampling uses them: known views to a NeRF, it to conditions, noise to views."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attention import AnchorCache
from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.codec import Codec, decode_with_detail, encode_rendering
from mvgenvs.diffusion.conditions import Conditions, Reference, concatenate_conditions
from mvgenvs.diffusion.joint_model import JointModel
from mvgenvs.diffusion.state import View
from mvgenvs.nerf.field import Scene
from mvgenvs.nerf.model import Rendering, ViewNeRF
from mvgenvs.views import with_matte


@dataclass(frozen=True, eq=False)
class Networks:
    """Codec, NeRF and denoiser, computing in one number format. Images are in [0, 1], latents in fp32."""

    codec: Codec
    nerf: ViewNeRF
    denoiser: JointModel
    precision: torch.dtype = torch.float32
    """bfloat16 or float16; under float32 they compute in the format of the weights"""

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.denoiser.config.latent_size * self.codec.downscale

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of one view."""
        return self.codec.latent_shape((self.size, self.size))

    def computing(self) -> torch.autocast:
        """Within, networks compute in the format that was chosen, or else in that of the weights."""
        dtype = self.denoiser.dtype if self.precision == torch.float32 else self.precision
        return torch.autocast(self.denoiser.device.type, dtype, enabled=dtype != torch.float32)

    def encode(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 1 c lh lw"]:
        """The latents of one view of each set."""
        with self.computing():
            return self.codec.encode(images).float()[:, None]

    def lift(self, images: list[Float[Tensor, "batch 1 _ h w"]], cameras: Cameras) -> Scene | None:
        """The NeRF of these views, which have mattes or not; None of none, and where the denoiser never sees it."""
        if not images or not self.denoiser.sees_rendering:
            return None
        with self.computing():
            return self.nerf.encode(torch.cat([with_matte(x) for x in images], dim=1), cameras, find_empty=True)

    def reference(self, images: Float[Tensor, "batch known c h w"], cameras: Cameras) -> Reference | None:
        """The first known view, if there is one and the denoiser is shown it."""
        if not self.denoiser.sees_reference or not images.shape[1]:
            return None
        with self.computing():
            embedding = self.denoiser.embed(images[:, 0, :3])
        return Reference(self.encode(images[:, 0, :3])[:, 0], embedding.float(), cameras.select([0]))

    def render_view(
        self, scene: Scene | None, camera: Cameras, guided: bool, start: bool, reference: Reference | None = None
    ) -> View:
        """Renders one view, and makes the denoiser's conditions of it. Without a scene it shows nothing.

        `guided` asks for what guidance needs, `start` for the latents to start from. The view is rendered at the image
        size, finer than in training: the prior gains, and the denoiser's maps are pooled.
        """
        rendering = self._render(scene, camera)
        needed = start or self.denoiser.sees_render_latents
        with self.computing():
            latents = encode_rendering(self.codec, rendering.rgb, self.denoiser.config.latent_size, needed).float()
        drop = torch.ones(rendering.opacity.shape[:2], dtype=torch.bool, device=rendering.opacity.device)
        told = {"reference": reference} if self.denoiser.sees_reference else {}
        blind = scene is None and reference is None
        conditions = self.denoiser.conditions(rendering, latents, camera, drop if blind else None, **told)
        dropped = conditions
        if guided and not blind:
            dropped = self.denoiser.conditions(rendering, latents, camera, drop, **told)
        return View(
            render=rendering.rgb.clone(),  # so that the other features can go
            depth=rendering.depth * (rendering.opacity > 0.5),
            conditions=conditions,
            dropped=dropped if guided else None,
            latents=latents if start else None,
        )

    def _render(self, scene: Scene | None, camera: Cameras) -> Rendering:
        if scene is not None:
            with self.computing():
                return self.nerf.render(scene, camera)
        return Rendering.blank(camera.to(self.denoiser.device), self.denoiser.config.features)

    def denoise(
        self,
        xt: Float[Tensor, "batch view c h w"],
        sigma: Float[Tensor, "batch view"],
        conditions: Conditions,
        dropped: Conditions | None = None,
        guidance: float = 1.0,
        joint: bool = True,
        num_anchors: int = 0,
        cache: AnchorCache | None = None,
    ) -> Float[Tensor, "batch shown c h w"]:
        """Classifier-free guidance, D_dropped + guidance (D - D_dropped), both in one batch (Ho & Salimans 2022).

        The branch without renderings keeps the joint attention. Without `dropped` there is no guidance.
        """

        def denoise(xt: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
            with self.computing():
                return self.denoiser(xt, sigma, conditions, joint=joint, num_anchors=num_anchors, cache=cache).float()

        if dropped is None or guidance == 0:
            return denoise(xt, sigma, conditions if dropped is None else dropped)
        both = concatenate_conditions([conditions, dropped], dim=0)
        guided, free = denoise(xt.repeat(2, 1, 1, 1, 1), sigma.repeat(2, 1), both).chunk(2)
        return free + guidance * (guided - free)

    def decode(
        self, latents: Float[Tensor, "batch view c lh lw"], renders: Float[Tensor, "batch view 3 h w"] | None
    ) -> Float[Tensor, "batch view 3 h w"]:
        """Images of latents that correct these renderings, where they do; None where there are none to correct."""
        with self.computing():
            return decode_with_detail(self.codec, latents, renders).float().clamp(0, 1)

    def detail(self, scene: Scene | None, renders: Tensor) -> Tensor | None:
        """The renderings whose detail a decoded view may keep: those that its latents correct."""
        return renders if scene is not None and self.denoiser.render_prior else None
