"""A cache of the keys and values of anchors: where anchors attend only to anchors, they are computed once."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, eq=False, slots=True)
class AnchorState:
    """Keys and values of the anchors of a batch in every self-attention layer of one model.

    Under block-causal attention they depend only on `inputs`, which is all that the model is given of the anchors.
    """

    inputs: tuple[Tensor, ...]
    layers: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, layer: nn.Module, key: Float[Tensor, "b m h d"], value: Float[Tensor, "b m h d"]) -> None:
        """Copies keys and values, so that the larger tensors that they are slices of can be freed."""
        self.layers[layer] = key.clone(), value.clone()

    def recall(self, layer: nn.Module) -> tuple[Float[Tensor, "b m h d"], Float[Tensor, "b m h d"]]:
        """Keys and values of a layer. Raises `KeyError` if none were kept."""
        return self.layers[layer]

    def is_of(self, inputs: tuple[Tensor, ...]) -> bool:
        return all(torch.equal(mine, other) for mine, other in zip(self.inputs, inputs, strict=True))


class AnchorCache:
    """The last `capacity` anchor states, looked up by the anchors' inputs.

    Comparing inputs is cheap, and nobody has to say when a state is stale: other latents, noise, noise levels,
    conditions or batch sizes are other inputs. Only the weights must stay the same while the cache is in use.
    """

    def __init__(self, capacity: int = 1) -> None:
        self.capacity = capacity
        self.states: list[AnchorState] = []

    def find(self, inputs: tuple[Tensor, ...]) -> AnchorState | None:
        return next((state for state in self.states if state.is_of(inputs)), None)

    def add(self, state: AnchorState) -> None:
        """Adds a complete state, and drops the oldest one if the cache is full."""
        self.states = [*self.states, state][-self.capacity :]
