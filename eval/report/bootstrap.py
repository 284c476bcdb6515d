"""Confidence intervals by resampling objects [Efron & Tibshirani 1993, chapter 13]."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
FEW = 10  # objects; with fewer, percentile intervals are too narrow
FEWEST = 6  # objects; with fewer, no sign test could tell two methods apart at this level: 2 / 2^5 > 5%


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the mean of `values`, one per object; None for fewer than two.

    Objects of one family resemble each other, which this ignores: the interval is of the mean over such objects.
    """
    if len(values) < 2:
        return None
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(values), size=(RESAMPLES, len(values)))
    means = np.asarray(values, dtype=np.float64)[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
