"""Neighbouring frames of a sequence, and functions that compare two images."""

from collections.abc import Callable

from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]  # (view, 3, h, w) twice -> (view,); such as `PerceptualDistance`


def adjacent_pairs(count: int, closed: bool) -> list[tuple[int, int]]:
    """Positions (i, i + 1) of neighbours among `count` frames; a closed sequence ends with (last, first).

    Two frames have one pair, closed or not.
    """
    pairs = [(i, i + 1) for i in range(count - 1)]
    return [*pairs, (count - 1, 0)] if closed and count > 2 else pairs
