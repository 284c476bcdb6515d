"""Figures: the values of metrics, None where there is nothing to measure."""

from collections.abc import Sequence

import numpy as np

Figures = dict[str, list[float | None]]  # metric -> one value for each view, pair of views or object


def mean_of_present(figures: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    present = [figure for figure in figures if figure is not None]
    return float(np.mean(present)) if present else None
