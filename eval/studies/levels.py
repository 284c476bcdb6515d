"""What the denoiser knows at each noise level: its error on noised true views, without sampling.

Sampled pictures add up the errors of all steps and the luck of the noise. Here every way of denoising sees the same
true views under the same noise, one evaluation each, so that small differences count: between a view alone and four at
once, with anchors and without, with renderings and without.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from eval.objects import sample_seed
from eval.protocols import ORBIT_TARGETS, orbit
from eval.report import plots
from eval.report.bootstrap import LEVEL, mean_interval
from eval.report.columns import Column
from eval.report.records import write_json
from eval.report.tables import Table, format_table, markdown_table
from eval.studies.plans import BLOCK
from eval.studies.trials import BAR
from mvgenvs.data.stored import CachedScenes
from mvgenvs.diffusion.codec import encode_rendering
from mvgenvs.diffusion.denoiser import Conditions, concatenate_conditions
from mvgenvs.diffusion.plans import make_plan
from mvgenvs.diffusion.renoising import ANCHOR_LEVELS
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.pipeline import MultiViewPipeline

SIGMAS = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
SETS = [block.new for block in make_plan("sliding", 1, ORBIT_TARGETS, BLOCK)]  # 0 is the input, from 1 on the targets
RENDERING = "the rendering itself"


@dataclass(frozen=True)
class Way:
    """One way of denoising a set of views. Anchors are true views."""

    name: str
    network: bool = True  # without it, its output is zero: the preconditioning alone, an untrained denoiser
    joint: bool = True
    input: bool = False  # an anchor
    neighbours: int = 0  # anchors: the targets before the set; the orbit is closed, so that the first set has some
    anchor_level: str = "clean"  # as in `SamplerOptions`
    rendered: bool = True  # otherwise no view of the set sees its rendering, as in the free branch of guidance

    def anchors(self, new: Sequence[int]) -> list[int]:
        """The anchors of the set `new`, as they are numbered there."""
        before = [(new[0] - 1 + offset) % ORBIT_TARGETS + 1 for offset in range(-self.neighbours, 0)]
        return [0] * self.input + before


ZERO, ALONE = Way("F = 0", network=False, joint=False), Way("alone", joint=False)
WAYS = (
    ZERO,
    ALONE,
    Way("joint"),
    Way("joint + input", input=True),
    Way("joint + input + 4 neighbours", input=True, neighbours=4),
    Way("joint + input, matched", input=True, anchor_level="matched"),
    Way("rendering dropped, joint + input", input=True, rendered=False),
)


@dataclass(frozen=True, eq=False)
class Orbit:
    """The input of an object and its targets, in this order, as the denoiser is shown them; a batch of one."""

    latents: Float[Tensor, "1 view c h w"]  # of the true views
    renders: Float[Tensor, "1 view c h w"]  # of the renderings
    conditions: Conditions
    dropped: Conditions  # without the renderings
    noise: Float[Tensor, "sigma view c h w"]  # standard normal, for each of `SIGMAS`; the same for every way


@dataclass(frozen=True)
class SetErrors:
    """Root mean square errors of x0 in latents, of the views of one set."""

    object: str
    view_ids: list[int]
    rmse: dict[str, list[list[float]]]  # name of the way -> for each of `SIGMAS` -> for each view


@torch.no_grad()
def measure(
    pipeline: MultiViewPipeline, scenes: CachedScenes, num_objects: int, seed: int = 0, ways: Sequence[Way] = WAYS
) -> list[SetErrors]:
    """The errors of all targets of the orbit of the first objects, with a progress bar.

    Raises `UserError` where an object lacks the views of the orbit.
    """
    found = []
    with tqdm(total=num_objects * len(SETS) * len(ways), desc="denoising", bar_format=BAR, smoothing=0) as progress:
        for number in range(num_objects):
            name = scenes.objects[number].name
            progress.set_postfix_str(name)
            view_ids, shown = look_round(pipeline, scenes, number, seed)
            for new in SETS:
                chosen = list(new)
                rmse = {RENDERING: _rmse(shown.renders[:, chosen], shown.latents[:, chosen]).tolist() * len(SIGMAS)}
                for way in ways:
                    rmse[way.name] = denoised_error(pipeline, shown, new, way).tolist()
                    progress.update()
                found.append(SetErrors(name, [view_ids[v] for v in new], rmse))
    return found


def look_round(pipeline: MultiViewPipeline, scenes: CachedScenes, number: int, seed: int) -> tuple[list[int], Orbit]:
    """Renders the NeRF of the input at each view of the orbit, and makes of it what sampling would. The views' ids."""
    item, views = scenes.objects[number], scenes.read(number).view_set()
    try:
        task = orbit(item.view_ids, views.cameras)
    except UserError as error:
        raise UserError(f"{item.folder}: {error}") from error
    members = [*task.inputs, *task.targets]
    views = views.select(members).to(pipeline.device)
    images, cameras = views.images[None], views.cameras.batched()
    codec, nerf, denoiser = pipeline.codec, pipeline.nerf, pipeline.denoiser
    rendering = nerf.render(nerf.encode(views.rgba[None, :1], cameras.select([0]), find_empty=True), cameras)
    renders = encode_rendering(codec, rendering.rgb, denoiser.config.latent_size)
    seen = renders if denoiser.sees_render_latents else torch.zeros_like(renders)
    dropped = torch.ones(1, len(members), dtype=torch.bool, device=pipeline.device)
    latents = codec.encode(images[0])
    draws = [torch.Generator().manual_seed(sample_seed(seed, f"{item.name}/{sigma}", 0)) for sigma in SIGMAS]
    shown = Orbit(
        latents[None],
        renders,
        denoiser.conditions(rendering, seen, cameras),
        denoiser.conditions(rendering, seen, cameras, dropped),
        torch.stack([torch.randn(latents.shape, generator=draw) for draw in draws]).to(latents),
    )
    return [item.view_ids[i] for i in members], shown


def denoised_error(
    pipeline: MultiViewPipeline, shown: Orbit, new: Sequence[int], way: Way
) -> Float[Tensor, "sigma new"]:
    """The error of the `new` views, all noise levels in one batch."""
    anchors = way.anchors(new)
    members = torch.tensor([*new, *anchors], device=pipeline.device)
    x0, noise = shown.latents[:, members], shown.noise[:, members]
    sigma = torch.tensor(SIGMAS, dtype=x0.dtype, device=x0.device)[:, None].repeat(1, len(members))
    sigma[:, len(new) :].clamp_(max=ANCHOR_LEVELS[way.anchor_level])
    conditions = (shown.conditions if way.rendered else shown.dropped).select(members)
    xt, each = x0 + sigma[..., None, None, None] * noise, concatenate_conditions([conditions] * len(SIGMAS), dim=0)
    with nullcontext() if way.network else pipeline.denoiser.unet.register_forward_hook(_zeroed):
        made = pipeline.denoiser(xt, sigma, each, joint=way.joint, num_anchors=len(anchors))
    return _rmse(made[:, : len(new)], x0[:, : len(new)])


def _zeroed(unet: nn.Module, inputs: Any, output: UNet2DConditionOutput) -> UNet2DConditionOutput:
    """A forward hook: the output of an untrained UNet, whose last layer is zero."""
    return UNet2DConditionOutput(sample=torch.zeros_like(output.sample))


def _rmse(a: Float[Tensor, "#set view c h w"], b: Float[Tensor, "#set view c h w"]) -> Float[Tensor, "set view"]:
    return (a - b).square().mean(dim=(-1, -2, -3)).sqrt()


def table(found: Sequence[SetErrors]) -> Table:
    """The mean error over the views of an object, then over objects: a row for each way, a column for each sigma."""
    objects = dict.fromkeys(errors.object for errors in found)
    rows: Table = {}
    for name in found[0].rmse:
        views = [np.concatenate([e.rmse[name] for e in found if e.object == wanted], axis=1) for wanted in objects]
        means = np.mean([errors.mean(axis=1) for errors in views], axis=0)
        rows[name] = {column.key: float(mean) for column, mean in zip(columns(), means, strict=True)}
    return rows


@dataclass(frozen=True)
class Change:
    """How much larger an error is than that of another way, in percent: the mean over sets, and its interval."""

    mean: float
    interval: tuple[float, float] | None


def changes(found: Sequence[SetErrors], against: str = ALONE.name) -> dict[str, list[Change]]:
    """Each way's errors beside those of `against`, set by set, at each of `SIGMAS`."""
    rmse = {name: np.array([np.mean(e.rmse[name], axis=1) for e in found]) for name in found[0].rmse}  # (set, sigma)
    made = {}
    for name in rmse:
        if name not in (against, RENDERING):
            percent = 100 * (rmse[name] / rmse[against] - 1)
            made[name] = [Change(float(p.mean()), mean_interval(p.tolist())) for p in percent.T]
    return made


def columns() -> list[Column]:
    return [Column(f"{s:g}", f"σ = {s:g}", "view", "low", 4, "root mean square error of x0 in latents") for s in SIGMAS]


def study(output: Path, pipeline: MultiViewPipeline, scenes: CachedScenes, num_objects: int, seed: int) -> str:
    """Writes levels.json, .md and .png into `output` and returns the text."""
    found = measure(pipeline, scenes, num_objects, seed)
    figures, differing = table(found), changes(found)
    text = "\n\n".join(
        [
            "Root mean square error of x0 in latents, mean over views, then over objects",
            format_table(figures, columns()),
            f"The same beside '{ALONE.name}' in percent, mean over {len(found)} sets and its {LEVEL:.0%} interval",
            markdown_table(
                ["", *(column.label for column in columns())],
                [[name, *map(_cell, row)] for name, row in differing.items()],
            ),
            "The intervals are too narrow for other objects than these: sets of one object resemble each other.",
        ]
    )
    content = {"sigmas": SIGMAS, "seed": seed, "table": figures, "sets": [asdict(errors) for errors in found]}
    changed = {name: [asdict(change) for change in row] for name, row in differing.items()}
    write_json(output / "levels.json", content | {"changes": changed})
    write_text(output / "levels.md", text + "\n")
    if plots.can_plot():
        _plot(output / "levels.png", figures, differing)
    return text


def _cell(change: Change) -> str:
    interval = "" if change.interval is None else " ({:+.2f} to {:+.2f})".format(*change.interval)
    return f"{change.mean:+.2f}{interval}"


def _plot(path: Path, figures: Table, differing: dict[str, list[Change]]) -> None:
    """The errors, and beside them the differences, which would not be seen there."""
    with plots.panel_picture(path, 2, (5.0, 4.0)) as (errors, percent):
        for name, row in figures.items():
            line = {"linestyle": ":", "color": "#777777"} if name == RENDERING else {"marker": "o"}
            (drawn,) = errors.plot(SIGMAS, list(row.values()), label=name, **line)
            if name in differing:
                percent.plot(SIGMAS, [change.mean for change in differing[name]], marker="o", color=drawn.get_color())
                for sigma, change in zip(SIGMAS, differing[name], strict=True):
                    if change.interval is not None:
                        percent.plot([sigma, sigma], change.interval, color=drawn.get_color(), linewidth=1)
        errors.set(yscale="log", title="root mean square error of x0 in latents ↓")
        percent.set_yscale("symlog", linthresh=1)
        percent.set_title(f"beside '{ALONE.name}', percent; linear within 1")
        for axes in (errors, percent):
            axes.set(xscale="log", xlabel="noise level σ")
            axes.set_xticks(SIGMAS, [f"{sigma:g}" for sigma in SIGMAS])
            axes.xaxis.minorticks_off()
        errors.figure.legend(*errors.get_legend_handles_labels(), loc="outside upper left", ncols=4)
