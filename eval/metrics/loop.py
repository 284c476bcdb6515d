"""Loop closure: does a sequence around an object come back to where it began?

Errors that build up frame by frame leave neighbours alike, and show where the last frame meets the first. The closing
pair may be further apart than the others (the orbit protocol leaves out the input view between them), so compare its
error with the true images' own. The table has the error itself: its difference from the neighbours' mean grows when
these agree better, even if the ends agree better too.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class LoopFigures(TypedDict):
    """The closing pair compared with the others. None if that pair, or all others, have no value."""

    closing: float | None
    adjacent_mean: float | None
    ratio: float | None  # closing / mean, 1 for a loop that closes; also None if the mean is 0
    num_adjacent: int  # pairs in the mean


def loop_closure(errors: Sequence[float | None]) -> LoopFigures:
    """Loop closure from an error (0 is best) of every pair of a CLOSED sequence, that of (last, first) at the end.

    Such errors are `adjacent_distances(…, closed=True)` and the `rmse` or `lpips` of `warp_error(…, closed=True)`.
    """
    closing = errors[-1] if len(errors) > 1 else None
    others = [error for error in errors[:-1] if error is not None]
    mean = float(np.mean(others)) if others else None
    ratio = closing / mean if closing is not None and mean else None
    return {
        "closing": closing,
        "adjacent_mean": mean,
        "ratio": ratio,
        "num_adjacent": len(others),
    }
