"""A plan as a table and as a picture."""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import UInt8

from mvgenvs.diffusion.plans import Block

_COLOURS = {  # RGB
    "made": (40, 105, 200),
    "made again": (140, 60, 170),
    "anchor": (255, 170, 60),
    "NeRF": (0, 130, 70),
    "finished": (225, 225, 225),
}


def plan_table(plan: Sequence[Block], num_known: int) -> str:
    """One line per block. Targets have the numbers of their frames; i0, i1, … are the input views."""
    rows = [("block", "makes", "anchored by", "NeRF of")]
    for number, block in enumerate(plan):
        made = _ranges(block.new, num_known) + (" again" if block.again else "")
        rows.append((str(number), made, _ranges(block.anchors, num_known), _ranges(block.known, num_known)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _ranges(views: Sequence[int], num_known: int) -> str:
    """Views as "i0 3-6 9": input views, then targets, with runs of consecutive numbers joined."""
    targets = sorted(view - num_known for view in views if view >= num_known)
    starts = [i for i, view in enumerate(targets) if i == 0 or view != targets[i - 1] + 1]
    runs = [targets[a:b] for a, b in pairwise([*starts, len(targets)])]
    names = [f"i{view}" for view in sorted(views) if view < num_known]
    names += [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return " ".join(names) or "-"


def plan_picture(plan: Sequence[Block], num_known: int) -> UInt8[np.ndarray, "height width 3"]:
    """Blocks from top to bottom, views from left to right, known ones first.

    A block's new views are blue (violet if made before), its anchors orange, other finished views grey; a green bar
    marks the views that its NeRF is lifted from.
    """
    num_views = 1 + max(max((*block.new, *block.anchors, *block.known)) for block in plan)
    side = min(max(1600 // max(num_views, len(plan)), 2), 20)
    gap = side >= 6  # pixels between cells
    canvas = np.full((len(plan) * side, num_views * side, 3), 255, np.uint8)

    def paint(kind: str, views: Sequence[int], top: int, bottom: int) -> None:
        for view in views:
            canvas[top:bottom, view * side : (view + 1) * side - gap] = _COLOURS[kind]

    paint("finished", range(num_known), 0, len(canvas))
    for number, block in enumerate(plan):
        top, bottom = number * side, (number + 1) * side
        paint("finished", block.new, bottom, len(canvas))
        paint("made again" if block.again else "made", block.new, top, bottom)
        paint("anchor", block.anchors, top, bottom)
        paint("NeRF", block.known, bottom - gap - max(1, side // 4), bottom)
        if gap:
            canvas[bottom - 1] = 255
    legend = _legend()
    width = max(legend.shape[1], canvas.shape[1])
    parts = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in (legend, canvas)]
    return np.pad(np.concatenate(parts), ((6, 6), (6, 6), (0, 0)), constant_values=255)


def _legend() -> UInt8[np.ndarray, "height width 3"]:
    """A line of coloured squares and what they mean."""
    line = np.full((24, 110 * len(_COLOURS), 3), 255, np.uint8)
    for place, (kind, colour) in enumerate(_COLOURS.items()):
        line[2:14, 110 * place : 110 * place + 12] = colour
        cv2.putText(line, kind, (110 * place + 17, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return line
