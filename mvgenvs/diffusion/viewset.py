"""A denoiser whose estimate of the clean views is the rendering of a radiance field that it lifts from the noisy ones.

[Viewset Diffusion, Szymanowicz et al. 2023, arXiv 2306.07881]: all views of a set, clean and noisy, become features,
these a scene, and its rendering is x0: views agree by construction. The scene is lifted by a `ViewNeRF` of the
denoiser's own, to whose encoder each view brings its noise level in the place of a matte. For pixels as latents.
"""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention import AnchorCache
from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.codec import SIGMA_DATA, IdentityCodec
from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.joint_model import JointModel
from mvgenvs.diffusion.noise import preconditioning
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering, ViewNeRF


class ViewsetDenoiser(JointModel):
    """D(x_t; sigma, cameras) for the pixels of all views of a set at once."""

    sees_rendering = sees_render_latents = False
    render_prior = False

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 3,
        latent_size: int = 128,
        features: int = 16,
        render_size: int = 32,
        attention: str = "joint",
        encoder_widths: Sequence[int] = (32, 64, 96),
        volume_depth: int = 16,
        num_coarse: int = 16,
        num_fine: int = 16,
        density: str = "exp",
    ) -> None:
        """`features` are those of the pipeline's own NeRF, which this denoiser does not look at. In training, scenes
        are rendered at `render_size` and enlarged; in sampling, at `latent_size`. The rest is as in `ViewNeRF`.

        `attention` is joint or independent; raises `UserError` for another, and for latents that are not pixels.
        """
        super().__init__()
        if latent_channels != 3:
            raise UserError("denoiser.network viewset renders pixels: it needs codec.kind identity")
        self.scene_model = ViewNeRF(
            encoder_widths, volume_depth=volume_depth, num_coarse=num_coarse, num_fine=num_fine, density=density,
            source_colour=False, mirror_known=False, matte=True,
        )  # fmt: skip
        self.pixels = IdentityCodec()  # from its colours to latents
        self.set_attention(attention)

    def set_attention(self, attention: str) -> None:
        if attention == "block-causal":
            raise UserError("a scene of all views of a set is joint or, of each alone, independent: use the UNet")
        super().set_attention(attention)

    @property
    def condition_side(self) -> int:
        return 1

    @property
    def final_layer(self) -> nn.Module:
        last: nn.Module = self.scene_model.field.mlp[-1]
        return last

    def conditions(
        self,
        rendering: Rendering,
        render_latents: Float[Tensor, "batch view l h w"],
        cameras: Cameras,
        dropped: Bool[Tensor, "batch view"] | None = None,
    ) -> Conditions:
        """Cameras alone: matrices from camera to world, and intrinsics at the latents' size."""
        size = self.config.latent_size
        matrices = cameras.c2w[..., :3, :].flatten(-2), cameras.resized((size, size)).K.flatten(-2)
        none = torch.zeros_like(render_latents[:, :, :1])
        points = none.expand(-1, -1, 3, -1, -1)
        return Conditions(
            none, torch.cat(matrices, dim=-1), torch.zeros_like(render_latents), none + SIGMA_DATA, points
        )

    def forward(
        self,
        xt: Float[Tensor, "batch view c h w"],
        sigma: Float[Tensor, "batch view"],
        conditions: Conditions,
        joint: bool = True,
        num_anchors: int | None = None,
        cache: AnchorCache | None = None,
    ) -> Float[Tensor, "batch out c h w"]:
        """The denoised latents x0, in sampling of the new views alone; arguments are those of `JointDenoiser.forward`.

        There is no skip connection: what is not in the scene is not in the views.
        """
        if cache is not None:
            raise ValueError("the anchors of this denoiser are part of each scene, and cannot be cached")
        conditions = conditions.for_draws(len(xt) // len(conditions.mean))
        scale = preconditioning(sigma[..., None, None, None])
        level = scale.c_noise.expand(-1, -1, 1, *xt.shape[-2:]) / 2 + 0.5
        seen = torch.cat([scale.c_in * xt / 4 + 0.5, level], dim=2)  # mostly within [0, 1], as images are
        cameras = self.cameras(conditions.poses)
        batch, views = xt.shape[:2]
        if not joint or self.config.attention == "independent":
            seen, cameras = seen.flatten(0, 1)[:, None], self.cameras(conditions.poses.flatten(0, 1)[:, None])
        size = self.config.render_size if self.training else self.config.latent_size
        scene = self.scene_model.encode(seen, cameras, find_empty=not self.training)
        shown = seen.shape[1] if self.training or seen.shape[1] == 1 else views - (num_anchors or 0)
        rendering = self.scene_model.render(scene, cameras.select(range(shown)).resized((size, size)))
        colours = F.interpolate(rendering.rgb.flatten(0, 1), xt.shape[-2:], mode="bilinear", antialias=True)
        return self.pixels.encode(colours).unflatten(0, (batch, -1)).to(xt.dtype)

    def cameras(self, poses: Float[Tensor, "batch view p"]) -> Cameras:
        """The cameras that `conditions` has written down."""
        c2w = F.pad(poses[..., :12].unflatten(-1, (3, 4)), (0, 0, 0, 1))
        c2w[..., 3, 3] = 1
        size = self.config.latent_size
        return Cameras(c2w, poses[..., 12:].unflatten(-1, (3, 3)), (size, size))

    def compile_network(self) -> None:
        """Compiles its encoder."""
        self.scene_model.compile_encoders()
