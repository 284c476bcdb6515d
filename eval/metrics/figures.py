"""Figures: what metrics give, with gaps where there is nothing to measure."""

from collections.abc import Sequence

import numpy as np

Figures = dict[str, list[float | None]]  # metric -> one figure for each view, pair of views or object


def mean_of_present(figures: Sequence[float | None]) -> float | None:
    """The mean of those figures that are there; None if none is."""
    present = [figure for figure in figures if figure is not None]
    return float(np.mean(present)) if present else None
