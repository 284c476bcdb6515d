"""The evaluation of one object: predicts its views by each method, computes their metrics, stores these."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from eval.directions import angles_to_nearest
from eval.methods import COPY, INDEPENDENT, JOINT, TRUTH, SamplesViews, predictions, sample_seed
from eval.metrics.figures import Figures
from eval.metrics.image import rounded_to_8_bits
from eval.metrics.suite import MetricSuite
from eval.protocols import CLOSED, choose_views
from eval.report.provenance import truth_sha256
from eval.report.records import Record, RunFolder, Settings
from eval.report.sheets import write_object_sheet
from mvgenvs.data.stored import SceneObject
from mvgenvs.views import ViewSet


def evaluate_object(
    pipeline: SamplesViews,
    item: SceneObject,
    views: ViewSet,
    settings: Settings,
    suite: MetricSuite,
    folder: RunFolder,
    on_row: Callable[[], object],
) -> None:
    """Writes the record, the features and the sheet of one object to `folder`; calls `on_row` after each row.

    Raises `UserError` if it lacks the views that the protocol needs.
    """
    chosen = choose_views(item, views.cameras, settings.protocol, settings.num_inputs)
    known, targets = views.select(chosen.inputs), views.select(chosen.targets)
    known = known if settings.mattes else replace(known, mask=None)
    first: dict[str, Tensor] = {}  # the first sample of each method
    figures: dict[str, Figures] = {}
    features = suite.features(TRUTH, targets.images)
    seeds = [sample_seed(settings.seed, item.name, number) for number in range(settings.num_samples)]
    device, closed = settings.device, settings.protocol in CLOSED
    for method, samples in predictions(
        pipeline, known.to(device), targets.cameras.to(device), settings.methods, settings.sampling, seeds
    ):
        samples = torch.stack([rounded_to_8_bits(sample) for sample in samples])
        first[method] = samples[0]
        figures[method] = suite.quality(samples, targets.images) | suite.consistency(samples[0], targets, closed)
        features |= suite.features(method, samples[0])
        on_row()
    if TRUTH in settings.methods:
        figures[TRUTH] = suite.consistency(targets.images, targets, closed)
        on_row()
    difference = None
    if JOINT in first and INDEPENDENT in first:
        difference = (first[JOINT] - first[INDEPENDENT]).abs().mean().item()
    shown = {method: images for method, images in first.items() if method != COPY}
    write_object_sheet(folder.sheet(item.name), known.images, targets.images, shown)
    record = Record(
        object=item.name,
        family=item.family,
        input_view_ids=[item.view_ids[i] for i in chosen.inputs],
        target_view_ids=[item.view_ids[i] for i in chosen.targets],
        angles=angles_to_nearest(known.cameras, targets.cameras),
        truth_sha256=truth_sha256(views.select([*chosen.inputs, *chosen.targets])),
        figures=figures,
        joint_independent_difference=difference,
    )
    folder.claim(settings)
    folder.write(record, features)
