"""Model offload: which methods of a part bring it to the device that computes."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from diffusers.utils.accelerate_utils import apply_forward_hook

P = ParamSpec("P")
R = TypeVar("R")


def on_its_device(method: Callable[P, R]) -> Callable[P, R]:
    """`method` of a part that, like `forward`, is preceded by a move to the device where the part is offloaded."""
    return cast(Callable[P, R], apply_forward_hook(method))
