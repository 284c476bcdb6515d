"""A whole scoring, from folders of images to the report. The files are those of `eval.report.records`."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from eval.methods import TRUTH, VIEWS
from eval.metrics.figures import Figures
from eval.metrics.image import rounded_to_8_bits
from eval.metrics.suite import CONSISTENCY, THREE_D, MetricSuite, load_suite
from eval.metrics.tsed import MATCH_SIZE
from eval.progress import progress_bar
from eval.report.provenance import all_versions, truth_sha256
from eval.report.records import REPORT, Record, RunFolder
from eval.report.sheets import write_object_sheet
from eval.report.writer import write_report
from eval.scoring.folders import PosedFolder, object_folders, open_folder
from eval.scoring.matching import check_enough, common_size, matching_views
from eval.scoring.world import ends_where_it_began, has_white_borders, in_model_world
from mvgenvs.cameras import Cameras
from mvgenvs.cli import explained_failures
from mvgenvs.device import resolve_device
from mvgenvs.errors import UserError
from mvgenvs.folders import OwnFolder
from mvgenvs.views import ViewSet

SHEET_SIDE = 256  # pixels; larger images are shown smaller
ESTRANGED = "settings.json"  # a run of eval.run


@dataclass(frozen=True, eq=False)
class Scored:
    """One object to score."""

    name: str
    views: PosedFolder
    truth: PosedFolder | None
    positions: Sequence[int]  # of the true views that show the same
    hw: tuple[int, int]  # at which everything is measured

    def read(self) -> tuple[ViewSet, ViewSet | None]:
        """The views and the true ones. Raises `UserError` if an image is missing, damaged or of another size."""
        views = self.views.read(range(len(self.views.names)), self.hw).view_set()
        return views, None if self.truth is None else self.truth.read(self.positions, self.hw).view_set()


def run(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Scores the views of `args`, the flags of `eval.score` read from `argv`. Raises `UserError`."""
    objects = open_objects(args.views, args.truth)
    device = resolve_device(args.device)
    suite = load_suite(args.metrics, args.lpips_nets, args.lpips_trunks, args.inception_weights, device)
    if (args.output / ESTRANGED).exists():
        raise UserError(f"{args.output} holds a run of eval.run: choose another --output folder")
    for scored in objects:
        scored.read()  # so that nothing is replaced if an image is not as it should be
    output = RunFolder(args.output)
    names = [scored.name for scored in objects]
    with OwnFolder(args.output) as own, explained_failures(args.output):
        own.check([*output.names(names)[1:], *REPORT])
        own.remove([*own.below("objects"), *REPORT])
        own.add([*output.names(names)[1:], *REPORT])
        records, notes = [], []
        rows = len(objects) * (1 if args.truth is None else 2)
        with progress_bar(rows, "scoring") as progress:
            for scored in objects:
                progress.set_postfix_str(scored.name)
                record, said = score_object(scored, suite, args.sequence, output, progress.update)
                records.append(record)
                notes += said
        context = {
            "title": f"{args.views.resolve().name}, {'scored alone' if args.truth is None else 'against the truth'}",
            "origin": f"views {args.views.resolve()}, truth {args.truth.resolve() if args.truth else 'none'}",
            "notes": notes,
            "command": shlex.join(["python", "-m", "eval.score", *argv]),
            "versions": all_versions(),
            "weights": suite.sources(),
            "settings": {
                "views": str(args.views.resolve()),
                "truth": None if args.truth is None else str(args.truth.resolve()),
                "sequence": args.sequence,
                "metrics": suite.metrics,
                "weights_sha256": suite.hashes(),
                "device": device.type,
                "image_sizes": {scored.name: scored.hw for scored in objects},
            },
        }
        print(write_report(output, records, suite, context))


def open_objects(views: Path, truth: Path | None) -> list[Scored]:
    """The objects of a folder, and which true views show the same. Reads cameras alone, no images.

    Raises `UserError` if cameras are missing or malformed, or views have no true ones.
    """
    folders = object_folders(views, "the views")
    true_folders = {} if truth is None else object_folders(truth, "--truth")
    if len(true_folders) == len(folders) == 1 and truth in true_folders.values():
        true_folders = dict(zip(folders, true_folders.values(), strict=True))  # whatever they are called
    found = []
    for name, folder in folders.items():
        opened = open_folder(folder)
        check_enough(opened, folder)
        if truth is None:
            found.append(Scored(name, opened, None, (), opened.cameras.hw))
            continue
        if name not in true_folders:
            raise UserError(f"the truth {truth} has no folder {name}, as the views {views} have")
        true = open_folder(true_folders[name])
        hw = common_size(opened.cameras, true.cameras, true_folders[name])
        found.append(Scored(name, opened, true, matching_views(opened, true, true_folders[name]), hw))
    return found


def score_object(
    scored: Scored, suite: MetricSuite, sequence: str, output: RunFolder, on_row: Callable[[], object]
) -> tuple[Record, list[str]]:
    """Measures one object and writes its record, features and sheet; also returns notes for the reader.

    `sequence` is "closed", "open", or "auto". Calls `on_row` after the views and after the truth.
    """
    views, truth = scored.read()
    images = rounded_to_8_bits(views.images)
    shown, suite, notes = _measurable(scored, views, truth, suite)
    closed = ends_where_it_began(views.cameras) if sequence == "auto" else sequence == "closed"
    figures: dict[str, Figures] = {VIEWS: suite.consistency(images, shown, closed)}
    features = {}
    if truth is not None:
        figures[VIEWS] = suite.quality(images[None], truth.images) | figures[VIEWS]
        features = suite.features(TRUTH, truth.images) | suite.features(VIEWS, images)
    on_row()
    if truth is not None:
        figures[TRUTH] = suite.consistency(truth.images, shown, closed)
        on_row()
    write_object_sheet(
        output.sheet(scored.name), None, None if truth is None else _small(truth.images), {VIEWS: _small(images)}
    )
    record = Record(
        object=scored.name,
        family=scored.name,
        input_view_ids=[],
        target_view_ids=[scored.truth.ids[i] for i in scored.positions] if scored.truth else [*scored.views.ids],
        angles=[],
        truth_sha256=truth_sha256(views if truth is None else truth),
        figures=figures,
    )
    output.write(record, features)
    return record, notes


def _measurable(
    scored: Scored, views: ViewSet, truth: ViewSet | None, suite: MetricSuite
) -> tuple[ViewSet | Cameras, MetricSuite, list[str]]:
    """The truth, or the cameras alone, in the model's world; the metrics that make sense there; and notes."""
    notes = []
    cameras = (views if truth is None else truth).cameras
    world: tuple[Cameras, float] | None = (cameras, 1.0)
    known = scored.views.in_model_world or (scored.truth is not None and scored.truth.in_model_world)
    if THREE_D in suite.metrics and not known:
        world = in_model_world(cameras)
        if world is None:
            notes.append(f"{scored.name} has no 3-D score: its cameras do not look at one object from around it.")
    if THREE_D in suite.metrics and not has_white_borders(views.images):
        notes.append(f"{scored.name} has no 3-D score: its background is not white.")
        world = None
    if world is None:
        world = (cameras, 1.0)
        others = tuple(name for name in suite.metrics if name != THREE_D)
        suite = replace(suite, metrics=others or (CONSISTENCY,))
    if max(scored.hw) > MATCH_SIZE and CONSISTENCY in suite.metrics:
        notes.append(
            f"TSED's 2 pixels are of images of {MATCH_SIZE} pixels, and those of {scored.name} have {max(scored.hw)}: "
            "it is that much stricter."
        )
    cameras, scale = world
    if truth is None:
        return cameras, suite, notes
    depth = None if truth.depth is None else truth.depth * scale
    return replace(truth, cameras=cameras, depth=depth), suite, notes


def _small(images: Float[Tensor, "view 3 h w"]) -> Float[Tensor, "view 3 new_h new_w"]:
    """The images as shown in the sheet."""
    scale = SHEET_SIDE / max(images.shape[-2:])
    if scale >= 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="area")
