"""Every plan on the same views: what joint attention, anchors and their noise are worth."""

from dataclasses import replace

import torch

from eval.methods import INDEPENDENT
from eval.protocols import ORBIT_TARGETS, choose_views
from eval.report.columns import COLUMNS, Column
from eval.report.records import write_json
from eval.report.tables import Table, format_table
from eval.studies.trials import REFERENCES, SECONDS, Study, Trial, run_trials
from mvgenvs.diffusion.plans import make_plan
from mvgenvs.files import write_text
from mvgenvs.media import contact_sheet, write_png

BLOCK = 4
BLIND = [replace(block, anchors=()) for block in make_plan("sliding", 1, ORBIT_TARGETS, BLOCK)]
SLIDING, INPUT_ONLY = Trial("sliding"), Trial("sliding, the input is the only anchor", {"anchors": 0})
CHAINS = (  # consecutive blocks of `BLOCK`: they differ in what a block sees besides its own views
    SLIDING,
    Trial("sliding, fixed noise", {"renoise": "fixed"}),
    Trial("sliding, clean anchors", {"anchor_level": "clean"}),
    INPUT_ONLY,
    Trial("sliding, no anchors", {"plan": BLIND}),
)
TRIALS = (
    Trial("joint", {"plan": "joint"}),
    *CHAINS,
    Trial("sliding, loop closed", {"close_loop": True}),
    Trial("sliding, resampled from σ = .1", {"resample": 0.1}),
    Trial("sliding, resampled from σ = .3", {"resample": 0.3}),
    Trial("keyframes", {"plan": "keyframes"}),
    Trial("autoregressive", {"plan": "autoregressive", "block": None}),
    Trial("no joint attention, no anchors", method=INDEPENDENT),
)
SEAM = Column("seam", "seam", "object", "zero", 4, "flicker where blocks of 4 meet less that inside them")
METRICS = ("psnr", "lpips-alex", "warp-psnr", "warp-lpips", "tsed", "flicker", "loop-lpips", "loop-warp")
TABLE = (*(COLUMNS[key] for key in METRICS), SEAM, SECONDS)
SHEET_COLUMNS = 12


def study(common: Study) -> str:
    """Runs all plans, writes plans.json, .md and a picture of each object, and returns the text."""
    common.own.claim([f"anchors_{name}.png" for name in common.names])
    rows = [*REFERENCES, *TRIALS]
    run_trials(common, rows)
    table: Table = {trial.name: common.figures(trial) for trial in rows}
    for trial in CHAINS:
        table[trial.name][SEAM.key] = seam(common.curve(trial, "flicker"))
    text = format_table(table, TABLE)
    write_json(common.output / "plans.json", {"table": table, "objects": common.names})
    write_text(common.output / "plans.md", text + "\n")
    for number, name in enumerate(common.names):
        _draw(common, number, name)
    return text


def seam(flicker: list[float | None]) -> float | None:
    """How much more neighbours in different blocks flicker than those in one; value i is of views i and i + 1."""
    there = [(i % BLOCK == BLOCK - 1, figure) for i, figure in enumerate(flicker) if figure is not None]
    sides = [[figure for between, figure in there if between == wanted] for wanted in (True, False)]
    return sum(sides[0]) / len(sides[0]) - sum(sides[1]) / len(sides[1]) if all(sides) else None


def _draw(common: Study, number: int, name: str) -> None:
    """The input and the views after it: the true ones, with anchors, and with the input as the only anchor."""
    item, views = common.scenes.objects[number], common.scenes.read(number).view_set()
    known = views.images[list(choose_views(item, views.cameras).inputs)]
    rows = {"true": REFERENCES[0], "with anchors": SLIDING, "anchored by the input alone": INPUT_ONLY}
    strips = [(text, torch.cat([known, common.images(trial, name)])) for text, trial in rows.items()]
    write_png(common.output / f"anchors_{name}.png", contact_sheet(strips, SHEET_COLUMNS))
