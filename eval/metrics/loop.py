"""Loop closure: does a sequence that goes round an object come back to where it began?

Errors that build up frame by frame leave neighbours alike and show where the last frame meets the first. The closing
pair may lie further apart than the others (the orbit protocol leaves out the input view, just there), so the figure is
to be read beside the true images' own.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class LoopFigures(TypedDict):
    """The closing pair beside the others. None where the pair, or all others, have no figure."""

    closing: float | None
    adjacent_mean: float | None
    ratio: float | None  # closing / mean, 1 for a loop that closes; None also where the mean is 0
    difference: float | None  # closing - mean, 0 for a loop that closes
    num_adjacent: int  # pairs in the mean


def loop_closure(errors: Sequence[float | None]) -> LoopFigures:
    """Loop closure from an error (0 is best) of every pair of a CLOSED sequence, that of (last, first) at the end.

    Such errors are `adjacent_distances(…, closed=True)` and the `rmse` or `lpips` of `warp_error(…, closed=True)`.
    """
    closing = errors[-1] if len(errors) > 1 else None
    others = [error for error in errors[:-1] if error is not None]
    mean = float(np.mean(others)) if others else None
    ratio = difference = None
    if closing is not None and mean is not None:
        ratio = closing / mean if mean > 0 else None
        difference = closing - mean
    return {
        "closing": closing,
        "adjacent_mean": mean,
        "ratio": ratio,
        "difference": difference,
        "num_adjacent": len(others),
    }
