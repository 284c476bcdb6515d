"""A joint denoiser of pixels: a transformer over the patches of all views of a set that show the object.

Where the UNet of `JointDenoiser` computes every cell of every view, this one computes the tokens near the rendered
object, a third of them at the usual framing. Patches of pixels go in and come out by one linear layer each, as in "Back
to basics" [Li & He 2025, arXiv 2511.13720]; noise levels, one for each view, enter by adaptive normalisation [Peebles &
Xie 2023, arXiv 2212.09748].

Its prior is that of `JointDenoiser`, the rendering, with two things more. What pixels lack of a rendering is smooth: in
the cosine basis of a patch, each component has its own deviation, and white noise is white in that basis too, so that
EDM's preconditioning is the Wiener filter of a patch. And the other views of the set show the same surface, see
`reprojection`: what they tell of a patch is weighed against the rendering, component by component.

F is what the network adds, plus gains that it chooses for each component of its noisy input and of what others tell. A
flat patch and one with an edge should make different things of the same noise: that takes a factor, not a sum.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from attention import AnchorCache, add_qk_norm
from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.joint_model import JointModel, which_dropped
from mvgenvs.diffusion.modulated import LEVEL_CHANNELS, TransformerBlock, level_channels
from mvgenvs.diffusion.noise import preconditioning
from mvgenvs.diffusion.patches import Patches
from mvgenvs.diffusion.rendered_prior import AIR_OPACITY, prior_deviation, surface_points
from mvgenvs.diffusion.reprojection import MovedErrors, Sources, find_sources, moved
from mvgenvs.errors import UserError
from mvgenvs.nerf.model import Rendering

FEATURE_CELLS = 2  # the NeRF's features are pooled to so many cells along a token's side
PLUCKER = 6
SOLID = 0.5  # opacity of what other views are asked about
WHOLE = 0.98  # share of a token that is seen, where moved patches are measured


class ViewTransformer(JointModel):
    """D(x_t; sigma, conditions) for the pixels, or latents of pixels, of all views of a set at once."""

    _supports_gradient_checkpointing = True
    std_factors = "std_spectrum"
    skips_air = True

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 3,
        latent_size: int = 128,
        features: int = 16,
        patch: int = 8,
        width: int = 192,
        layers: int = 6,
        num_heads: int = 3,
        qk_norm: bool = True,
        attention: str = "joint",
        rotary_points: bool = True,
        reproject: bool = True,
        std_floor: float = 0.05,
        std_slope: float = 0.9,
        std_ceiling: float = 0.8,
        std_air: float = 0.004,
        air_distance: int = 4,
        std_spectrum: Sequence[float] | None = None,
    ) -> None:
        """The arguments are this many because they are the model's saved configuration.

        `patch` is the side of a token in latents, `reproject` adds to the prior what other views show, and
        `rotary_points` is as in `JointDenoiser`, as are the prior's deviations; `std_spectrum` holds their factors for
        the components of a patch, of mean square 1. Tokens whose pixels, and those within half a patch around them, see
        no opacity are left out: their views keep the prior there.

        `attention` is joint or independent; raises `UserError` for another, and where patches do not fill the latents.
        """
        super().__init__()
        self.gradient_checkpointing = False  # which diffusers sets
        if latent_size % patch or patch % FEATURE_CELLS:
            raise UserError(f"setting 'denoiser.patch' must be even and divide {latent_size}, the latents' side")
        if width % num_heads:
            raise UserError("setting 'denoiser.width' must be a multiple of denoiser.num_heads")
        pixels = latent_channels * patch**2
        maps = patch**2 + features * FEATURE_CELLS**2 + PLUCKER
        self.patches = Patches(patch)
        self.moved_errors = MovedErrors(pixels)
        self.enter = nn.Linear(2 * pixels + maps + (2 * pixels + 1) * reproject, width)
        self.level = nn.Sequential(nn.Linear(LEVEL_CHANNELS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, (2 + reproject) * pixels)
        for layer in (self.modulation, self.leave):  # F = 0: the untrained denoiser is its preconditioning
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        if qk_norm:
            add_qk_norm(self)
        self.render_prior = self.sees_render_latents = True
        self.set_attention(attention)

    def set_attention(self, attention: str) -> None:
        if attention == "block-causal":
            raise UserError("a transformer over the tokens of a set attends jointly or independently: use the UNet")
        super().set_attention(attention)

    @property
    def condition_side(self) -> int:
        return FEATURE_CELLS * self.config.latent_size // self.config.patch

    @property
    def final_layer(self) -> nn.Module:
        return self.leave

    def compile_network(self) -> None:
        """Compiles its blocks, for any number of tokens."""
        for block in self.blocks:
            block.compile(dynamic=True)

    def conditions(
        self,
        rendering: Rendering,
        render_latents: Float[Tensor, "batch view l h w"],
        cameras: Cameras,
        dropped: Bool[Tensor, "batch view"] | None = None,
    ) -> Conditions:
        """The maps of each token: opacities, the NeRF's features, the Plücker map, and whether it is computed.

        `poses` are the projections from the world to the latents' pixels. A dropped view has zeros for a rendering,
        EDM's own prior, shows nothing to other views, and is computed everywhere.
        """
        config, hw = self.config, (self.config.latent_size, self.config.latent_size)
        dropped, keep = which_dropped(dropped, render_latents)
        side = config.latent_size // config.patch

        def pooled(x: Tensor, size: int) -> Tensor:
            return F.adaptive_avg_pool2d(x.flatten(0, 1), (size, size))

        opacity = keep * rendering.opacity.detach()
        fine = pooled(opacity, config.latent_size)
        features = pooled(keep * torch.cat([rendering.rgb * 2 - 1, rendering.features[:, :, 3:]], dim=2), 2 * side)
        half = config.patch // 2
        near = F.max_pool2d(F.adaptive_max_pool2d(opacity.flatten(0, 1), hw), 2 * config.patch, config.patch, half)
        maps = [
            F.pixel_unshuffle(fine, config.patch),
            F.pixel_unshuffle(features, FEATURE_CELLS),
            cameras.resized((side, side)).plucker().to(fine.dtype).flatten(0, 1),
            ((near > AIR_OPACITY) | dropped.flatten()[:, None, None, None]).to(fine.dtype),
        ]
        return Conditions(
            maps=torch.cat(maps, dim=1).unflatten(0, dropped.shape),
            poses=cameras.resized(hw).projections.flatten(-2).to(fine.dtype),
            mean=keep * render_latents,
            std=prior_deviation(rendering.opacity, hw, config, keep),
            points=surface_points(rendering, cameras, hw, dropped).to(fine.dtype),
        )

    def forward(
        self,
        xt: Float[Tensor, "batch view c h w"],
        sigma: Float[Tensor, "batch view"],
        conditions: Conditions,
        joint: bool = True,
        num_anchors: int | None = None,
        cache: AnchorCache | None = None,
    ) -> Float[Tensor, "batch view c h w"]:
        """The denoised latents x0; the arguments are those of `JointDenoiser.forward`.

        Sets are computed one after another, as each has its own number of tokens. `conditions` may be of fewer sets
        than `xt`: each then serves as many draws, one after another, and is looked at once.
        """
        if cache is not None:
            raise ValueError("the anchors of this denoiser see the new views, and cannot be cached: see block-causal")
        draws = len(xt) // len(conditions.mean)
        xt, sigma = xt.unflatten(0, (-1, draws)), sigma.unflatten(0, (-1, draws))
        every = torch.arange(xt.shape[2], device=xt.device)
        seen_together = [every] if joint and self.config.attention == "joint" else every.split(1)

        def denoised(number: int) -> Tensor:
            given = conditions.of_set(number)
            parts = [self._denoise_set(xt[number, :, v], sigma[number, :, v], given.select(v)) for v in seen_together]
            return torch.cat(parts, dim=1)

        return torch.cat([denoised(number) for number in range(len(xt))])

    def components(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k th tw"]:
        """Each patch in its cosine basis: k = c patch^2 components for each token."""
        side = self.config.latent_size // self.config.patch
        every = torch.arange(len(latents) * side**2, device=latents.device)
        tokens = self.patches.spectral(self.patches.tokens(latents[None], every))
        return rearrange(tokens, "1 (n h w) k -> n k h w", h=side, w=side)

    @torch.no_grad()
    def fit_moves(self, sets: Iterable[tuple[Float[Tensor, "set view c h w"], Conditions]], least: float) -> None:
        """Measures what moved patches are worth on true latents; see `MovedErrors.fit`."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for x0, every in sets:
            for number in range(len(x0)):
                conditions, views = every.of_set(number), x0[number : number + 1]
                chosen = conditions.maps[0, :, -1].flatten().nonzero()[:, 0]
                rendered = self.patches.tokens(conditions.mean, chosen)
                sources, told = self._moved(views, conditions, chosen, rendered)
                true = self.patches.spectral(self.patches.tokens(views, chosen) - rendered)[0]
                whole = sources.share > WHOLE
                found.append((sources.turn[whole], true[sources.token[whole]], told[0, whole]))
        turn, true, told = (torch.cat(x) for x in zip(*found, strict=True))
        self.moved_errors.fit(turn, true, told, least)

    def _denoise_set(
        self, xt: Float[Tensor, "draw view c h w"], sigma: Float[Tensor, "draw view"], conditions: Conditions
    ) -> Float[Tensor, "draw view c h w"]:
        """x0 of several draws of one set, whose conditions have a batch of 1."""
        shown = conditions.maps[0, :, -1].flatten()
        # Tokens, numbered through the views; where nothing is shown one of them, whose output is thrown away below.
        chosen = shown.nonzero()[:, 0] if self.skips_air else torch.arange(len(shown), device=xt.device)
        chosen = chosen if len(chosen) else chosen.new_zeros(1)
        view = chosen // conditions.maps[0, 0, 0].numel()
        rendered = self.patches.tokens(conditions.mean, chosen)
        std = self.patches.tokens(conditions.std, chosen).square().mean(dim=-1, keepdim=True).sqrt() * self._spectrum
        maps = conditions.maps[0, :, :-1].flatten(2).mT.flatten(0, 1)[chosen]
        mean, variance, known = torch.zeros_like(rendered), std**2, [rendered, maps]
        if self.config.reproject:
            sources, beyond = self._moved(xt, conditions, chosen, rendered)
            told, precision = self.moved_errors.told(beyond, sigma[:, sources.view], sources, len(chosen))
            share = precision / (precision + 1 / variance)  # of the other views in what is known of each component
            mean, variance = share * told, (1 - share) * variance
            known += [told, share.mean(dim=-1, keepdim=True)]
        scale = preconditioning(sigma[:, view, None], variance.sqrt())
        centred = self.patches.spectral(self.patches.tokens(xt - conditions.mean, chosen)) - mean
        guesses = torch.cat([scale.c_in * centred, *([mean / std] if self.config.reproject else [])], dim=-1)
        tokens = torch.cat([guesses, *(x.expand(len(xt), -1, -1) for x in known)], dim=-1)
        out, *gains = self._network(tokens, sigma, conditions, chosen, view).split(rendered.shape[-1], dim=-1)
        out = out + (torch.cat(gains, dim=-1) * guesses).unflatten(-1, (len(gains), -1)).sum(dim=-2)
        x0 = rendered + self.patches.pixels(mean + scale.c_skip * centred + scale.c_out * out)
        c_skip = preconditioning(sigma[..., None, None, None], conditions.std).c_skip
        elsewhere = conditions.mean + c_skip * (xt - conditions.mean)
        x0 = torch.where(shown[chosen, None] > 0, x0, self.patches.tokens(elsewhere, chosen))
        return self.patches.views(x0, chosen, elsewhere)

    def _network(
        self,
        tokens: Float[Tensor, "draw n _"],
        sigma: Float[Tensor, "draw view"],
        conditions: Conditions,
        chosen: Int[Tensor, " n"],
        view: Int[Tensor, " n"],
    ) -> Float[Tensor, "draw n _"]:
        """For the chosen tokens, each of its `view`: what F of [EDM eq. 7] begins with, and the gains of each guess."""
        level = self.level(level_channels(sigma).to(tokens.dtype))
        told: dict[str, Any] = {"num_views": 1}  # the tokens of all views are one sequence already
        if self.config.rotary_points:
            told["points"] = {len(chosen): self._token_points(conditions)[chosen].expand(len(tokens), -1, -1)}
        hidden = self.enter(tokens)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden = self._gradient_checkpointing_func(block, hidden, level, view, told)
            else:
                hidden = block(hidden, level, view, told)
        gain, shift = self.modulation(level)[:, view].chunk(2, dim=-1)
        return self.leave(self.norm(hidden) * (1 + gain) + shift).to(sigma.dtype)

    def _moved(
        self,
        xt: Float[Tensor, "draw view c h w"],
        conditions: Conditions,
        chosen: Int[Tensor, " n"],
        rendered: Float[Tensor, "1 n k"],
    ) -> tuple[Sources, Float[Tensor, "draw source k"]]:
        """The sources of the chosen tokens, and what they show beyond what is `rendered` of these, in components."""
        num_views, side = xt.shape[1], self.config.latent_size
        numbers = torch.arange(num_views * side * side, device=xt.device).view(1, num_views, 1, side, side)
        projections = conditions.poses[0].unflatten(-1, (3, 4))
        solid = self._opacity(conditions) > SOLID
        pixels = self.patches.tokens(numbers, chosen)[0]  # (n, patch^2)
        sources = find_sources(conditions.points[0], solid, projections, pixels, only_seen=self.skips_air)
        expected = rendered[:, sources.token].unflatten(-1, (xt.shape[2], -1))
        beyond = moved(xt, sources) - sources.seen[:, None] * expected
        return sources, self.patches.spectral(beyond.flatten(-2))

    @property
    def _spectrum(self) -> Float[Tensor, " k"]:
        """The factors of the components' deviations; all alike where none were measured."""
        count = self.config.latent_channels * self.config.patch**2
        return self.enter.weight.new_tensor(self.config.std_spectrum or [1.0] * count)

    def _token_points(self, conditions: Conditions) -> Float[Tensor, "n 3"]:
        """The point that each token of a set shows: the mean of its latents' points, by their opacity."""
        patch, opacity = self.config.patch, self._opacity(conditions) + 1e-4
        points = F.avg_pool2d(conditions.points[0] * opacity, patch) / F.avg_pool2d(opacity, patch)
        return points.flatten(2).mT.flatten(0, 1)

    def _opacity(self, conditions: Conditions) -> Float[Tensor, "view 1 h w"]:
        """That of a set's renderings, from the maps that hold it patch by patch."""
        return F.pixel_shuffle(conditions.maps[0, :, : self.config.patch**2], self.config.patch)
