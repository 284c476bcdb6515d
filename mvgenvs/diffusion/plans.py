"""Sequence plans: how a long sequence is divided into sets, and which finished views are anchors of which new ones.

A plan is data: a list of blocks over one index space, known views first (0 .. known - 1), then the targets in order.
The size of a set is bounded, however long the sequence, under every plan except `joint`; the number of finished views
that later blocks still need, under every plan except `joint` and `stochastic`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from mvgenvs.errors import UserError

MAX_KNOWN = 8  # views that one NeRF is lifted from: up to 3 photos, as in training, and 5 generated views [GeNVS]
MAX_KEYFRAMES = 32  # they are kept until the end: in a longer sequence they are farther apart, not more
_BLOCK = {"autoregressive": 1, "stochastic": 1, "unconditional": 2}  # default views per block; other plans 4
_ANCHORS = {"autoregressive": 5}  # default anchors; other plans as many as views in a block


@dataclass(frozen=True)
class Block:
    """One set: the views that it generates, and the finished views that are denoised with them."""

    new: tuple[int, ...]
    anchors: tuple[int, ...] = ()  # they enter the set, re-noised
    known: tuple[int, ...] = ()  # the NeRF of the new views is lifted from these; if empty, there is no NeRF
    again: bool = False  # the new views were made before, and are replaced
    sigma: float | None = None  # what is made again starts from what it was, re-noised to this level; None: afresh
    stochastic: bool = False  # each sampler step sees one anchor alone, clean, drawn anew


@dataclass(frozen=True)
class _SequenceSpec:
    """The sequence that a plan is made for."""

    num_known: int
    num_targets: int
    block: int  # views per block
    anchors: int  # finished targets shown to each block
    centers: Float[np.ndarray, "view 3"] | None  # camera centres of known views and targets
    seed: int

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(range(self.num_known))

    @property
    def targets(self) -> range:
        return range(self.num_known, self.num_known + self.num_targets)

    def groups(self, views: Sequence[int]) -> list[tuple[int, ...]]:
        """The views in blocks; the last one may be smaller."""
        return [tuple(views[start : start + self.block]) for start in range(0, len(views), self.block)]

    def nearest(self, new: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """The candidates by distance from the new views: in camera direction, or in index if there are no cameras.

        Those that are equally near stay in their order.
        """
        choice = np.array(candidates, dtype=int)
        if self.centers is None:
            distance = np.abs(choice - np.mean(new))
        else:
            centers = self.centers.astype(np.float64)
            directions = centers / np.linalg.norm(centers, axis=-1, keepdims=True).clip(1e-9)
            distance = -directions[choice] @ directions[list(new)].mean(axis=0)
        order = distance.round(6).argsort(kind="stable")  # rounded: both sides of a gap are equally near
        return choice[order].tolist()


def joint(spec: _SequenceSpec) -> list[Block]:
    """All targets in one set, anchored by the known views. For short sequences: the cost grows quadratically."""
    return [Block(tuple(spec.targets), spec.inputs, spec.inputs)]


def sliding(spec: _SequenceSpec) -> list[Block]:
    """Block after block, anchored by the known views, the last finished targets, and the first ones where they are
    near again, as at the end of an orbit.
    """
    return _chain(spec, spec.targets)


def autoregressive(spec: _SequenceSpec) -> list[Block]:
    """One view at a time. Its anchors are the known views, a few random earlier views and the last one, and the NeRF is
    lifted from all of them [GeNVS].

    The random ones come from a reservoir (Vitter 1985, algorithm R): at any time a uniform choice among all views
    before the last, which changes slowly, so that no other views need to be kept.
    """
    chance = random.Random(spec.seed)
    reservoir: list[int] = []
    offered = 0
    last: tuple[int, ...] = ()
    blocks = []
    for new in spec.groups(spec.targets):
        earlier = (*spec.inputs, *sorted(reservoir), *last)
        blocks.append(Block(new, earlier, earlier))
        for view in (*last, *new[:-1]):
            offered += 1
            slot = len(reservoir) if len(reservoir) < spec.anchors - 1 else chance.randrange(offered)
            if slot < spec.anchors - 1:
                reservoir[slot : slot + 1] = [view]
        last = new[-1:] if spec.anchors else ()
    return blocks


def keyframes(spec: _SequenceSpec) -> list[Block]:
    """First keyframes spread over the sequence, then the views between them [SEVA's two passes].

    There is one keyframe per block of other views, in the middle of its section of the sequence, which suits open
    trajectories and loops alike. Keyframes are made as in `sliding`; a block between them is anchored by the view
    before it and the nearest keyframes. A sequence of one block has no keyframes.
    """
    if spec.num_targets <= spec.block:
        return sliding(spec)
    count = min(-(-spec.num_targets // (spec.block + 1)), MAX_KEYFRAMES)
    keys = [spec.targets[(2 * i + 1) * spec.num_targets // (2 * count)] for i in range(count)]
    blocks = _chain(spec, keys)
    for left, right in pairwise((spec.num_known - 1, *keys, spec.targets.stop)):
        for new in spec.groups(range(left + 1, right)):
            before = [new[0] - 1] if new[0] > spec.num_known else []
            nearest = [key for key in spec.nearest(new, keys) if key not in before]
            anchors = sorted([*before, *nearest][: spec.anchors])
            blocks.append(Block(new, (*spec.inputs, *anchors), spec.inputs))
    return blocks


def stochastic(spec: _SequenceSpec) -> list[Block]:
    """One view at a time. At each sampler step it is denoised beside one clean view, drawn anew and uniformly from the
    known and all finished views: stochastic conditioning [3DiM, Watson et al. 2022, arXiv 2210.04628]. The NeRF, if the
    denoiser sees any, is lifted from the known views. `anchors` has no effect: every finished view may be drawn.
    """
    return [Block(new, tuple(range(new[0])), spec.inputs, stochastic=True) for new in spec.groups(spec.targets)]


def unconditional(spec: _SequenceSpec) -> list[Block]:
    """Without any image: groups of two views that attend to each other, anchored by the group before."""
    if spec.num_known:
        raise UserError("plan 'unconditional' takes no known views: leave them out or choose another plan")
    return _chain(spec, spec.targets)


def _chain(spec: _SequenceSpec, views: Sequence[int]) -> list[Block]:
    """The views in blocks, each anchored by the known views and a few of `views` before it: one half are the last ones,
    the others the nearest of a few last and first ones. So the views of a loop's end also see its beginning.
    """
    blocks = []
    for start, new in zip(range(0, len(views), spec.block), spec.groups(views), strict=True):
        latest = list(views[max(0, start - spec.anchors) : start])[::-1]
        first = [view for view in views[: min(start, spec.anchors)] if view not in latest]
        sure = latest[: -(-spec.anchors // 2)]
        near = spec.nearest(new, [*latest[len(sure) :], *first])[: spec.anchors - len(sure)]
        blocks.append(Block(new, (*spec.inputs, *sorted([*sure, *near])), spec.inputs))
    return blocks


PLANS: dict[str, Callable[[_SequenceSpec], list[Block]]] = {
    "joint": joint,
    "sliding": sliding,
    "autoregressive": autoregressive,
    "keyframes": keyframes,
    "stochastic": stochastic,
    "unconditional": unconditional,
}


def plan_sizes(name: str, block: int | None = None, anchors: int | None = None) -> tuple[int, int]:
    """Views per block and finished targets shown to them, with the plan's defaults for None."""
    block = _BLOCK.get(name, 4) if block is None else block
    return block, _ANCHORS.get(name, block) if anchors is None else anchors


def make_plan(
    name: str,
    num_known: int,
    num_targets: int,
    block: int | None = None,
    anchors: int | None = None,
    *,
    centers: Float[np.ndarray, "view 3"] | None = None,
    seed: int = 0,
    close_loop: bool = False,
    resample: float | None = None,
) -> list[Block]:
    """The plan called `name`, checked.

    `block` and `anchors` default as in `plan_sizes`. `centers` are all camera centres, known ones first; they tell
    which keyframes are near. `seed` determines random choices. For `close_loop` and `resample` see `_closed` and
    `_resampled`. Raises `UserError`.
    """
    if name not in PLANS:
        raise UserError(f"there is no plan '{name}': use {', '.join(PLANS)}, or give a list of blocks")
    block, anchors = plan_sizes(name, block, anchors)
    if block < 1 or num_targets < 1:
        raise UserError(f"a plan needs at least one target and blocks of at least one view, not {num_targets}, {block}")
    if anchors < 0:
        raise UserError(f"the number of anchors must not be negative, but is {anchors}")
    spec = _SequenceSpec(num_known, num_targets, block, anchors, centers, seed)
    plan = PLANS[name](spec)
    plan = _closed(plan, spec) if close_loop else plan
    plan = _resampled(plan, spec, resample, close_loop) if resample is not None else plan
    check_plan(plan, num_known, num_targets)
    return plan


def _closed(plan: list[Block], spec: _SequenceSpec) -> list[Block]:
    """Adds a block that generates the first views again, so that they match the last views.

    It has as many anchors as other blocks, half of them before and half after the first views, at least one each.
    """
    first, others = spec.groups(spec.targets)[0], spec.targets[spec.block :]
    side = max(1, spec.anchors // 2)
    neighbours = sorted({*others[:side], *others[-side:]})
    if not neighbours:  # all views were made in one set
        return plan
    known = tuple(view for view in plan[-1].known if view not in first)
    return [*plan, Block(first, (*spec.inputs, *neighbours), known, again=True, stochastic=plan[-1].stochastic)]


def _resampled(plan: list[Block], spec: _SequenceSpec, sigma: float, close_loop: bool) -> list[Block]:
    """Adds a second pass: each few views are made again from themselves, re-noised to `sigma`, once those on both sides
    of them are there to be anchors. In a closed loop, the last views are beside the first.

    Anchors are as many as for other blocks, half of them on each side, at least one each.
    """
    made = {view: number for number, block in enumerate(plan) for view in block.new}  # for the last time
    side, end = max(1, spec.anchors // 2), spec.num_targets
    following: list[list[Block]] = [[] for _ in plan]
    for group in spec.groups(range(end)):
        near = [*range(group[0] - side, group[0]), *range(group[-1] + 1, group[-1] + 1 + side)]
        near = [i % end for i in near] if close_loop else [i for i in near if 0 <= i < end]
        new = tuple(spec.targets[i] for i in group)
        beside = sorted({spec.targets[i] for i in near} - set(new))
        if beside:
            again = Block(new, (*spec.inputs, *beside), spec.inputs, True, sigma, plan[-1].stochastic)
            following[max(made[view] for view in (*new, *beside))].append(again)
    return [each for block, after in zip(plan, following, strict=True) for each in (block, *after)]


def check_plan(plan: Sequence[Block], num_known: int, num_targets: int) -> None:
    """Raises `UserError` unless every target is made once, or again where a block says so, from finished views."""
    end = num_known + num_targets
    finished = set(range(num_known))
    for number, block in enumerate(plan):
        name = f"block {number} of the plan"
        for view in (*block.new, *block.anchors, *block.known):
            if not 0 <= view < end:
                raise UserError(f"{name} names view {view}, but there are only views 0 to {end - 1}, known ones first")
        for views in (block.new, block.anchors, block.known):
            if len(set(views)) < len(views):
                raise UserError(f"{name} names a view twice: {', '.join(map(str, views))}")
        if not block.new:
            raise UserError(f"{name} makes no view: leave it out")
        if len(block.known) > MAX_KNOWN:
            raise UserError(
                f"{name} lifts the NeRF from {len(block.known)} views, the model takes {MAX_KNOWN}: "
                "give fewer known views or anchors"
            )
        for view in (*block.anchors, *block.known):
            if view in block.new or view not in finished:
                raise UserError(f"{name} needs view {view} finished, but no earlier block makes it")
        for view in block.new:
            if view < num_known:
                raise UserError(f"{name} makes view {view}, which is a known view")
            if block.again != (view in finished):
                what = "again, but no earlier block does" if block.again else "a second time without saying 'again'"
                raise UserError(f"{name} makes view {view} {what}")
        if block.sigma is not None and not (block.again and block.sigma > 0):
            raise UserError(f"{name} has sigma {block.sigma}: only what is made again has one, and it is above 0")
        finished |= set(block.new)
    if len(finished) < end:
        raise UserError(f"the plan never makes view {min(set(range(end)) - finished)}: every target needs a block")


def last_uses(plan: Sequence[Block]) -> dict[int, int]:
    """For each view that a block needs finished, the number of the last such block: until then it must be kept."""
    return {
        view: number
        for number, block in enumerate(plan)
        for view in (*block.anchors, *block.known, *(() if block.sigma is None else block.new))
    }


def independent(plan: Sequence[Block], num_known: int) -> list[Block]:
    """The same views, each alone with only the known views as anchors, and no NeRF of generated views. A baseline."""
    return [
        replace(block, anchors=(), stochastic=False, known=tuple(view for view in block.known if view < num_known))
        for block in plan
        if not block.again
    ]
