"""Sequence plans: how a long sequence is cut into sets, and which finished views anchor which new ones.

A plan is data: a list of blocks over one index space, known views first (0 .. known - 1), then the targets in order.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mvgenvs.errors import UserError


@dataclass(frozen=True)
class Block:
    """One set: the views that it makes and the finished views that it makes them with."""

    new: tuple[int, ...]
    anchors: tuple[int, ...]


def joint(num_known: int, num_targets: int, block: int, anchors: int) -> list[Block]:
    """All targets in one set, anchored by the known views. For short sequences: the cost grows quadratically."""
    targets = tuple(range(num_known, num_known + num_targets))
    return [Block(targets, tuple(range(num_known)))]


def sliding(num_known: int, num_targets: int, block: int, anchors: int) -> list[Block]:
    """`block` targets at a time, anchored by the known views and the last `anchors` finished targets."""
    end = num_known + num_targets
    blocks = []
    for start in range(num_known, end, block):
        finished = range(max(num_known, start - anchors), start)
        blocks.append(Block(tuple(range(start, min(start + block, end))), (*range(num_known), *finished)))
    return blocks


PLANS: dict[str, Callable[[int, int, int, int], list[Block]]] = {"joint": joint, "sliding": sliding}


def make_plan(name: str, num_known: int, num_targets: int, block: int = 4, anchors: int | None = None) -> list[Block]:
    """The plan called `name`; `anchors` defaults to the size of a block. Raises `UserError`."""
    if name not in PLANS:
        raise UserError(f"plan '{name}' is not implemented: use {' or '.join(PLANS)}")
    if block < 1 or num_targets < 1:
        raise UserError(f"a plan needs at least one target and blocks of at least one view, not {num_targets}, {block}")
    if anchors is not None and anchors < 0:
        raise UserError(f"the number of anchors must not be negative, but is {anchors}")
    return PLANS[name](num_known, num_targets, block, block if anchors is None else anchors)
