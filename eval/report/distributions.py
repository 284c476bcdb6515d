"""Distances between all images of a row and all true images of a run, computed from the stored features."""

from collections.abc import Sequence

import torch

from eval.methods import TRUTH
from eval.metrics.features import FeatureExtractor
from eval.metrics.frechet import frechet_distance, kernel_distance, moments
from eval.report.records import RunFolder
from eval.report.tables import Table

MIN_IMAGES = 4  # the kernel distance needs as many


def distributions(
    output: RunFolder, names: Sequence[str], rows: Sequence[str], extractors: Sequence[FeatureExtractor]
) -> Table:
    """Row -> "fd-effnet", "kd-effnet", "fid", "kid" -> distance between its first samples and the truth.

    The features are read in the order of `names`, whichever process computed them. None if a set is too small.
    """
    table: Table = {row: {} for row in rows}
    for extractor in extractors:
        truth = [output.features(name, extractor.frechet_name, TRUTH) for name in names]
        for row in rows:
            images = [output.features(name, extractor.frechet_name, row) for name in names]
            frechet = kernel = None
            if sum(map(len, truth)) >= MIN_IMAGES:
                frechet = frechet_distance(moments(images), moments(truth))
                kernel = kernel_distance(torch.cat(images), torch.cat(truth)).mean
            table[row] |= {extractor.frechet_name.lower(): frechet, extractor.kernel_name.lower(): kernel}
    return table
