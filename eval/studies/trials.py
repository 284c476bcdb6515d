"""Trials: ways to sample the same views of the same objects from the same noise, which studies compare.

OUTPUT/<trial>/settings.json         all that its metrics depend on
OUTPUT/<trial>/objects/NAME.json     its metrics on one object, a `Record`; an object that has one is done
OUTPUT/<trial>/objects/NAME.png      its views side by side
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from eval.directions import angles_to_nearest
from eval.methods import JOINT, NERF, TRUTH, predictions, sample_seed
from eval.metrics.figures import Figures, mean_of_present
from eval.metrics.image import rounded_to_8_bits
from eval.metrics.suite import MetricSuite
from eval.progress import progress_bar
from eval.protocols import choose_views
from eval.report.columns import Column
from eval.report.provenance import truth_sha256
from eval.report.records import Record, RunFolder, Settings, claim_run, folder_name
from eval.report.summary import curve
from eval.studies.cached_nerf import CachedNeRF, with_cached_nerf
from mvgenvs.data.stored import CachedScenes
from mvgenvs.device import clock
from mvgenvs.folders import OwnFolder
from mvgenvs.media import read_png, tile, write_png
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.views import ViewSet

SECONDS = Column("seconds", "s/view", "object", "low", 2, "seconds per view with its rendering; on a CPU, of one core")


@dataclass(frozen=True)
class Trial:
    """One way of sampling."""

    name: str
    sampling: dict[str, Any] = field(
        default_factory=dict
    )  # keyword arguments of the pipeline that differ from the study's
    method: str = JOINT  # of `eval.methods`

    @property
    def folder(self) -> str:
        return folder_name(self.name)


REFERENCES = (Trial("truth", method=TRUTH), Trial("NeRF alone", method=NERF))


@dataclass(frozen=True, eq=False)
class Study:
    """What all trials have in common."""

    own: OwnFolder  # where everything goes
    pipeline: MultiViewPipeline
    scenes: CachedScenes
    num_objects: int
    suite: MetricSuite
    settings: Settings  # of a trial without changes
    choose: Callable[[int], Sequence[int]]  # which targets of the orbit are generated, by the object's number
    closed: bool  # whether these go all around, so that the last is next to the first

    @property
    def output(self) -> Path:
        return self.own.path

    @property
    def names(self) -> list[str]:
        return [item.name for item in self.scenes.objects[: self.num_objects]]

    def folder(self, trial: Trial) -> RunFolder:
        return RunFolder(self.output / trial.folder)

    def settings_of(self, trial: Trial) -> Settings:
        return replace(self.settings, sampling=self.settings.sampling | trial.sampling, methods=(trial.method,))

    def figures(self, trial: Trial) -> dict[str, float | None]:
        """Means within each object, then over the objects that have a value."""
        records = [self.folder(trial).read(name) for name in self.names]
        return {
            metric: mean_of_present([r.mean(trial.name, metric) for r in records])
            for metric in records[0].figures[trial.name]
        }

    def curve(self, trial: Trial, metric: str) -> list[float | None]:
        """The mean over objects of each value along the sequence."""
        return curve([self.folder(trial).read(name) for name in self.names], trial.name, metric)

    def images(self, trial: Trial, name: str) -> Float[Tensor, "view 3 h w"]:
        """The views of an object that a trial generated."""
        pixels = np.ascontiguousarray(read_png(self.folder(trial).sheet(name)))
        strip = torch.from_numpy(pixels).movedim(-1, 0).float() / 255
        return torch.stack(strip.split(strip.shape[1], dim=2))


def run_trials(study: Study, trials: Sequence[Trial]) -> None:
    """Generates and evaluates missing views, with a progress bar. Raises `UserError` if a folder is another trial's."""
    for trial in trials:
        claim_run(study.own, study.folder(trial), RunFolder.names(study.names))
        study.folder(trial).check(study.settings_of(trial))
    todo = [[trial for trial in trials if not study.folder(trial).has(name)] for name in study.names]
    pipeline, nerf = with_cached_nerf(study.pipeline)
    with progress_bar(sum(map(len, todo)), "sampling") as progress:
        for number, missing in enumerate(todo):
            if missing:
                _run_object(study, pipeline, nerf, number, missing, progress)


def _run_object(
    study: Study, pipeline: MultiViewPipeline, nerf: CachedNeRF, number: int, trials: Sequence[Trial], progress: tqdm
) -> None:
    """Generates and evaluates the views of one object by each of the trials, which share its renderings."""
    item, views = study.scenes.objects[number], study.scenes.read(number).view_set()
    on_orbit = choose_views(item, views.cameras)
    chosen = [on_orbit.targets[position] for position in study.choose(number)]
    known, targets = views.select(on_orbit.inputs), views.select(chosen)
    now = clock(pipeline.device)
    with nerf.caching(known.rgba[None].to(pipeline.device)) as cache:
        for trial in trials:
            progress.set_postfix_str(f"{item.name}, {trial.name}")
            started, saved = now(), cache.seconds_saved
            images = _sampled(study, pipeline, trial, known, targets, item.name)
            seconds = now() - started + cache.seconds_saved - saved  # as without a cache
            record = Record(
                object=item.name,
                family=item.family,
                input_view_ids=[item.view_ids[i] for i in on_orbit.inputs],
                target_view_ids=[item.view_ids[i] for i in chosen],
                angles=angles_to_nearest(known.cameras, targets.cameras),
                truth_sha256=truth_sha256(views.select([*on_orbit.inputs, *chosen])),
                figures={trial.name: _figures(study, trial, images, targets, seconds / len(chosen))},
            )
            folder = study.folder(trial)
            write_png(folder.sheet(item.name), tile(images, columns=len(images)))
            folder.claim(study.settings_of(trial))
            folder.write(record, {})
            progress.update()


def _sampled(
    study: Study, pipeline: MultiViewPipeline, trial: Trial, known: ViewSet, targets: ViewSet, name: str
) -> Float[Tensor, "view 3 h w"]:
    """A trial's views of the object `name`, rounded to 8 bits; the true views if the trial is the ground truth."""
    if trial.method == TRUTH:
        return targets.images
    device = pipeline.device
    sampling = study.settings.sampling | trial.sampling
    seeds = [sample_seed(study.settings.seed, name, 0)]
    ((_, samples),) = predictions(
        pipeline, known.to(device), targets.cameras.to(device), [trial.method], sampling, seeds
    )
    return rounded_to_8_bits(samples[0])


def _figures(
    study: Study, trial: Trial, images: Float[Tensor, "view 3 h w"], truth: ViewSet, seconds: float
) -> Figures:
    consistency = study.suite.consistency(images, truth, study.closed)
    if trial.method == TRUTH:
        return consistency
    return study.suite.quality(images[None], truth.images) | consistency | {SECONDS.key: [seconds]}
