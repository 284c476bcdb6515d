"""What joint denoisers share: the attention of their layers, and around a UNet the cache of their anchors."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attention import (
    PROCESSORS,
    AnchorCache,
    AnchorState,
    AttentionBackend,
    attention_layers,
    install_joint_attention,
    resolve_backend,
)
from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.errors import UserError
from mvgenvs.modules import Module

if TYPE_CHECKING:  # models without a UNet do without its import, which takes seconds
    from diffusers import UNet2DConditionModel


class JointModel(Module):
    """A diffusers model that processes all views of a set at once. Its configuration holds `attention`.

    Subclasses have `conditions` and `forward`, as documented in `JointDenoiser`, and set the attributes below.
    """

    attention_backend = AttentionBackend.SDPA
    render_prior: bool
    """whether the denoised latents are a correction of the encoded rendering, whose detail can then be kept"""
    std_factors: str = "std_channels"
    """the setting that holds the factors of the components' deviations"""
    skips_air = False
    """whether what is computed depends on where the rendering shows anything"""
    sees_rendering: bool = True
    """whether the denoiser is shown the NeRF at all"""
    sees_reference: bool = False
    """whether `conditions` takes the first known view, a `Reference`, as the argument `reference`"""
    sees_render_latents: bool
    """whether `conditions` uses the encoded rendering at all"""

    def set_attention(self, attention: str) -> None:
        """joint: all views of a set see each other. block-causal: anchors see only anchors, new views see all.
        independent: no view sees another, so that anchors have no effect.

        The weights stay the same, but should be trained with the attention that they are used with. Raises `UserError`.
        """
        if attention not in PROCESSORS:
            raise UserError(f"setting 'denoiser.attention' must be {' or '.join(PROCESSORS)}, not '{attention}'")
        self.register_to_config(attention=attention)
        install_joint_attention(self, self.attention_backend, attention)

    def set_attention_backend(self, backend: AttentionBackend | str) -> None:
        """(Re)installs the attention with the given kernels, also by their name; the weights stay the same.

        Raises `UserError` for a name that there is not, or that does not work here.
        """
        if isinstance(backend, str):
            try:
                backend = resolve_backend(backend)
            except ValueError as error:
                raise UserError(str(error)) from None
        self.attention_backend = backend
        install_joint_attention(self, backend, self.config.attention)

    def check_attention(self) -> None:
        """Raises `UserError` if a layer has lost its joint attention to one of diffusers' own, which knows no views.

        Sliced attention, fused projections and the like take its place without a word, and views would not meet.
        """
        for name, layer in attention_layers(self).items():
            if type(layer.processor) is not PROCESSORS[self.config.attention]:
                other = type(layer.processor).__name__
                raise UserError(
                    f"layer '{name}' of the denoiser has {other} in place of its {self.config.attention} attention:"
                    f" call denoiser.set_attention('{self.config.attention}') before it samples"
                )

    @property
    def sees_other_views(self) -> bool:
        """Whether any view depends on others, so that anchors have an effect."""
        return bool(self.config.attention != "independent")

    @property
    def condition_side(self) -> int:
        """Side of the feature maps that `conditions` makes of renderings, whose side is a multiple of it."""
        return int(self.config.latent_size * self.config.condition_scale)

    @property
    def final_layer(self) -> nn.Module:
        """The layer whose output is the network's, up to its shape."""
        raise NotImplementedError

    def components(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k th tw"]:
        """Latents as the components that the prior tells apart, each by its own deviation: their channels."""
        return latents

    def fit_moves(self, sets: Iterable[tuple[Float[Tensor, "set view c h w"], Conditions]], least: float) -> None:
        """Measures, on true latents, what the other views of a set tell of one, where the prior uses that.

        `least` is the smallest deviation.
        """

    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """What else is told of a `Reference`, from its image: nothing."""
        return images.new_zeros(len(images), 0)

    def compile_network(self) -> None:
        """Compiles the network in place at its next call: the same weights under the same names."""
        raise NotImplementedError


class JointUNet(JointModel):
    """A joint model around a diffusers UNet, through which whole views pass, and which can keep anchors in a cache."""

    unet: "UNet2DConditionModel"

    @property
    def final_layer(self) -> nn.Module:
        return self.unet.conv_out

    def compile_network(self) -> None:
        """Shapes are static: each number of views is compiled separately, which takes minutes on a CPU."""
        self.unet.compile(dynamic=False)

    def attend(
        self, views: tuple[Tensor, ...], joint: bool, num_anchors: int | None, cache: AnchorCache | None
    ) -> Float[Tensor, "batch shown c h w"]:
        """The network's output for `views`, its inputs, each (batch, view, ...); see `forward` for the rest."""
        num_views = views[0].shape[1] if joint else 1
        if self.config.attention != "block-causal":
            if cache is not None:
                raise ValueError(f"anchors of {self.config.attention} attention cannot be cached: see block-causal")
            return self._network(views, num_views=num_views)
        if num_anchors is None:
            raise TypeError("block-causal attention needs num_anchors: how many of the last views are anchors")
        if cache is None or not joint:
            return self._network(views, num_views=num_views, num_anchors=num_anchors if joint else 0)
        return self._network_of_new_views(views, num_anchors, cache)

    def _network(self, views: tuple[Tensor, ...], **attention: int | AnchorState) -> Float[Tensor, "batch view c h w"]:
        """The network's output for these views; `attention` are the arguments of its attention processors."""
        raise NotImplementedError

    def _network_of_new_views(
        self, views: tuple[Tensor, ...], num_anchors: int, cache: AnchorCache
    ) -> Float[Tensor, "batch new c h w"]:
        """The output for the new views; the anchors pass through the network only if the cache does not have them."""
        num_new = views[0].shape[1] - num_anchors
        new, anchors = tuple(x[:, :num_new] for x in views), tuple(x[:, num_new:] for x in views)
        if not num_anchors:
            return self._network(new, num_views=num_new, num_anchors=0)
        if (state := cache.find(anchors)) is not None:
            return self._network(new, num_views=num_new, num_anchors=0, anchor_state=state)
        state = AnchorState(tuple(x.clone() for x in anchors))
        out = self._network(views, num_views=num_new + num_anchors, num_anchors=num_anchors, anchor_state=state)
        cache.add(state)
        return out[:, :num_new]


def which_dropped(
    dropped: Bool[Tensor, "batch view"] | None, shown: Float[Tensor, "batch view c h w"]
) -> tuple[Bool[Tensor, "batch view"], Float[Tensor, "batch view 1 1 1"]]:
    """The views whose renderings are dropped, none by default; and a factor for what is `shown` of them: 0, else 1."""
    if dropped is None:
        dropped = torch.zeros(shown.shape[:2], dtype=torch.bool, device=shown.device)
    return dropped, (~dropped).to(shown.dtype)[..., None, None, None]
