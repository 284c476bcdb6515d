"""Sequence plans: how a long sequence is cut into sets, and which finished views anchor which new ones.

A plan is data: a list of blocks over one index space, known views first (0 .. known - 1), then the targets in order.
Under every plan but `joint` the sets and the finished views that later blocks still need are bounded, whatever the
length of the sequence.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from mvgenvs.errors import UserError

MAX_KNOWN = 8  # views that one NeRF is lifted from: up to 3 photos, as in training, and 5 made before [GeNVS]
MAX_KEYFRAMES = 32  # they are kept until the end: a longer sequence has them farther apart, not more of them
_BLOCK = {"autoregressive": 1, "unconditional": 2}  # defaults; elsewhere 4
_ANCHORS = {"autoregressive": 5}  # defaults; elsewhere as many as a block makes


@dataclass(frozen=True)
class Block:
    """One set: the views that it makes, and the finished views that it makes them with."""

    new: tuple[int, ...]
    anchors: tuple[int, ...] = ()  # they enter the set, re-noised
    known: tuple[int, ...] = ()  # what the NeRF of the new views is lifted from; without any, they are made without it
    again: bool = False  # the new views were made before, and are replaced


@dataclass(frozen=True)
class _Task:
    """What a plan is made for."""

    num_known: int
    num_targets: int
    block: int  # views made at a time
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
        """The views in blocks, the last of which may be smaller."""
        return [tuple(views[start : start + self.block]) for start in range(0, len(views), self.block)]

    def nearest(self, new: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """The candidates by their distance from the new views: in camera direction, or in index without cameras."""
        choice = np.array(candidates, dtype=int)
        if self.centers is None:
            distance = np.abs(choice - np.mean(new))
        else:
            centers = self.centers.astype(np.float64)
            directions = centers / np.linalg.norm(centers, axis=-1, keepdims=True).clip(1e-9)
            distance = -directions[choice] @ directions[list(new)].mean(axis=0)
        return choice[np.lexsort((choice, distance.round(6)))].tolist()  # rounded: both sides of a gap are as near


def joint(task: _Task) -> list[Block]:
    """All targets in one set, anchored by the known views. For short sequences: the cost grows quadratically."""
    return [Block(tuple(task.targets), task.inputs, task.inputs)]


def sliding(task: _Task) -> list[Block]:
    """A block at a time, anchored by the known views and the last finished targets."""
    return _chain(task, task.targets)


def autoregressive(task: _Task) -> list[Block]:
    """One view at a time: the known views, a few random earlier ones and the last one are its anchors, and the NeRF
    is lifted from all of them [GeNVS].

    The random ones come from a reservoir, which is at any time a uniform choice among all views before the last, but
    changes only slowly, so that no other views need to be kept (Vitter 1985, algorithm R).
    """
    chance = random.Random(task.seed)
    reservoir: list[int] = []
    offered = 0
    last: tuple[int, ...] = ()
    blocks = []
    for new in task.groups(task.targets):
        earlier = (*task.inputs, *sorted(reservoir), *last)
        blocks.append(Block(new, earlier, earlier))
        for view in (*last, *new[:-1]):
            offered += 1
            slot = len(reservoir) if len(reservoir) < task.anchors - 1 else chance.randrange(offered)
            if slot < task.anchors - 1:
                reservoir[slot : slot + 1] = [view]
        last = new[-1:] if task.anchors else ()
    return blocks


def keyframes(task: _Task) -> list[Block]:
    """First keyframes spread over the sequence, then the views between them [SEVA's two passes].

    There is a keyframe for every block of other views, in the middle of its share of the sequence: that suits open
    trajectories and loops alike. The keyframes are made like `sliding`; a block between them is anchored by the view
    before it and by the nearest keyframes. A sequence of one block has none.
    """
    if task.num_targets <= task.block:
        return sliding(task)
    count = min(-(-task.num_targets // (task.block + 1)), MAX_KEYFRAMES)
    keys = [task.targets[(2 * i + 1) * task.num_targets // (2 * count)] for i in range(count)]
    blocks = _chain(task, keys)
    for left, right in pairwise((task.num_known - 1, *keys, task.targets.stop)):
        for new in task.groups(range(left + 1, right)):
            before = [new[0] - 1] if new[0] > task.num_known else []
            nearest = [key for key in task.nearest(new, keys) if key not in before]
            anchors = sorted([*before, *nearest][: task.anchors])
            blocks.append(Block(new, (*task.inputs, *anchors), task.inputs))
    return blocks


def unconditional(task: _Task) -> list[Block]:
    """Without any image: groups of two views that attend to each other, anchored by the group before."""
    if task.num_known:
        raise UserError("plan 'unconditional' takes no known views: leave them out or choose another plan")
    return _chain(task, task.targets)


def _chain(task: _Task, views: Sequence[int]) -> list[Block]:
    """The views in blocks, each anchored by the known views and the last few of these views before it."""
    blocks = []
    for start, new in zip(range(0, len(views), task.block), task.groups(views), strict=True):
        anchors = (*task.inputs, *views[max(0, start - task.anchors) : start])
        blocks.append(Block(new, anchors, task.inputs))
    return blocks


PLANS: dict[str, Callable[[_Task], list[Block]]] = {
    "joint": joint,
    "sliding": sliding,
    "autoregressive": autoregressive,
    "keyframes": keyframes,
    "unconditional": unconditional,
}


def plan_sizes(name: str, block: int | None = None, anchors: int | None = None) -> tuple[int, int]:
    """Views made at a time and finished targets shown to them, with the plan's own defaults for what is None."""
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
) -> list[Block]:
    """The plan called `name`, checked.

    `block` and `anchors` default as in `plan_sizes`. `centers` are the places of all cameras, known ones first: they
    tell which keyframes are near. `seed` decides what is random in a plan. `close_loop` see there. Raises `UserError`.
    """
    if name not in PLANS:
        raise UserError(f"there is no plan '{name}': use {', '.join(PLANS)}, or give a list of blocks")
    block, anchors = plan_sizes(name, block, anchors)
    if block < 1 or num_targets < 1:
        raise UserError(f"a plan needs at least one target and blocks of at least one view, not {num_targets}, {block}")
    if anchors < 0:
        raise UserError(f"the number of anchors must not be negative, but is {anchors}")
    task = _Task(num_known, num_targets, block, anchors, centers, seed)
    plan = PLANS[name](task)
    plan = _closed(plan, task) if close_loop else plan
    check_plan(plan, num_known, num_targets)
    return plan


def _closed(plan: list[Block], task: _Task) -> list[Block]:
    """Makes the first views again in the end, anchored on both sides: the last views meet them, and they the following.

    As many anchors as other blocks have, half of them on either side, and at least one.
    """
    first, others = task.groups(task.targets)[0], task.targets[task.block :]
    side = max(1, task.anchors // 2)
    neighbours = sorted({*others[:side], *others[-side:]})
    if not neighbours:  # all views were made in one set
        return plan
    known = tuple(view for view in plan[-1].known if view not in first)
    return [*plan, Block(first, (*task.inputs, *neighbours), known, again=True)]


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
        finished |= set(block.new)
    if len(finished) < end:
        raise UserError(f"the plan never makes view {min(set(range(end)) - finished)}: every target needs a block")


def last_uses(plan: Sequence[Block]) -> dict[int, int]:
    """For each view that a block needs finished, the number of the last such block: until then it must be kept."""
    return {view: number for number, block in enumerate(plan) for view in (*block.anchors, *block.known)}


def independent(plan: Sequence[Block], num_known: int) -> list[Block]:
    """The same views, each from the known ones alone: no anchors, no NeRF of views made before. A baseline."""
    return [
        replace(block, anchors=(), known=tuple(view for view in block.known if view < num_known))
        for block in plan
        if not block.again
    ]
