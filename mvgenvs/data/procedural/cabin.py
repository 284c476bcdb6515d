"""The cabin above a car's belt line: two sheets, belt and roof, and walls with windows between their edges."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from mvgenvs.data.procedural.body import Body
from mvgenvs.data.procedural.solids import Triangles, fan, grid, mirrored, strip

Line = Float[np.ndarray, " n"]
Sheet = Callable[[Line, Line], Float[np.ndarray, "n 3"]]  # of (t, a): front to back in [0, 1], left to right in [-1, 1]
SIDE_SAMPLES, END_SAMPLES, HEIGHTS = 4, 7, np.array([0.0, 0.5, 1.0])


@dataclass(frozen=True)
class Pane:
    """A window's place in its piece of wall: margins as shares of the piece, and the roundness of its corners."""

    left: float
    right: float
    low: float
    high: float
    rounding: float = 0.15


@dataclass(frozen=True, eq=False)
class Cabin:
    """The surfaces of a cabin."""

    painted: Triangles
    glass: Triangles
    belt: Sheet
    roof: Sheet


def sheets(body: Body, rng: np.random.Generator) -> tuple[Sheet, Sheet]:
    """The sheets of belt and roof."""
    f = body.form
    foot = np.array([f.cowl_s, f.base_rear_s])
    bow_front, bow_rear = rng.uniform(0.03, 0.12), rng.uniform(0.02, 0.1)
    taper, crown = rng.uniform(0.02, 0.1), rng.uniform(0.02, 0.05)
    widest = float(body.top_edge(foot.mean()[None])[0])

    def belt(t: Line, a: Line) -> Float[np.ndarray, "n 3"]:
        s = foot[0] + t * (foot[1] - foot[0])
        x = a * (body.top_edge(s) + 0.2 * f.edge)
        y = body.top(s) - 0.02
        s = s + (1 - a**2) * (bow_rear * t - bow_front * (1 - t))
        return np.stack([x, y, s - f.length / 2], axis=-1)

    def roof(t: Line, a: Line) -> Float[np.ndarray, "n 3"]:
        s = f.roof_front_s + t * (f.roof_rear_s - f.roof_front_s)
        x = a * widest * (1 - f.tumblehome) * (1 - taper * (2 * t - 1) ** 2)
        fall = f.roof_arc * (np.where(t < 0.4, (0.4 - t) / 0.4, (t - 0.4) / 0.6)) ** 2
        y = f.height - fall - crown * a**2 - 0.05 * a**6
        s = s + (1 - a**2) * (bow_rear * t - bow_front * (1 - t))
        return np.stack([x, y, s - f.length / 2], axis=-1)

    return belt, roof


def build_cabin(body: Body, rng: np.random.Generator) -> Cabin:
    """A closed cabin on a body."""
    f = body.form
    belt, roof = sheets(body, rng)
    boxy = f.kind in ("bus", "van", "lorry")
    breaks = _breaks(f.columns, f.kind, rng)
    pillar, high = rng.uniform(0.025, 0.06), rng.uniform(0.08, 0.16)
    low = rng.uniform(0.02, 0.1)
    length = f.base_rear_s - f.cowl_s
    panes: list[Pane | None] = []
    for column, (start, end) in enumerate(pairwise(breaks)):
        share = pillar / ((end - start) * length)
        first, last = column == 0, column == f.columns - 1
        post = rng.uniform(0.1, 0.3) if last and f.columns > 1 and not boxy else share
        panes.append(
            Pane(share * (1.6 if first else 1), max(share, post), low, high) if not (f.blind and not first) else None
        )
    side_painted, side_glass = _wall(lambda t: belt(t, np.ones_like(t)), lambda t: roof(t, np.ones_like(t)),
                                     breaks, panes, SIDE_SAMPLES)  # fmt: skip

    margin = rng.uniform(0.04, 0.09)
    wind = Pane(margin, margin, rng.uniform(0.02, 0.08), rng.uniform(0.06, 0.14), 0.1)
    low_rear = rng.uniform(0.05, 0.2)
    rear_margin = rng.uniform(0.06, 0.16)
    behind: Pane | None = Pane(rear_margin, rear_margin, low_rear, rng.uniform(0.1, 0.2), rng.uniform(0.08, 0.25))
    if (f.kind == "van" and f.blind and rng.random() < 0.5) or (f.kind == "lorry" and rng.random() < 0.6):
        behind = None
    whole = np.array([0.0, 1.0])
    front = _wall(lambda u: belt(0 * u, 2 * u - 1), lambda u: roof(0 * u, 2 * u - 1), whole, [wind], END_SAMPLES)
    doors = np.array([0.0, 0.5, 1.0]) if f.kind == "van" and rng.random() < 0.6 else whole
    rear = _wall(lambda u: belt(0 * u + 1, 1 - 2 * u), lambda u: roof(0 * u + 1, 1 - 2 * u), doors,
                 [behind] * (len(doors) - 1), END_SAMPLES if len(doors) == 2 else SIDE_SAMPLES)  # fmt: skip

    t = np.unique(np.concatenate([np.linspace(a, b, SIDE_SAMPLES) for a, b in pairwise(breaks)]))
    across = np.linspace(1, -1, 7)
    top = np.stack([roof(np.full_like(across, value), across) for value in t])
    painted = [side_painted, mirrored(side_painted), front[0], rear[0], grid(top)]
    glass = [side_glass, mirrored(side_glass), front[1], rear[1]]
    return Cabin(np.concatenate(painted), np.concatenate(glass), belt, roof)


def windscreen(body: Body, rng: np.random.Generator) -> tuple[Triangles, Triangles]:
    """A windscreen alone, for a car without a roof: its frame and its glass."""
    belt, roof = sheets(body, rng)
    height = 0.85

    def upper(u: Line) -> Float[np.ndarray, "n 3"]:
        low = belt(0 * u, 2 * u - 1)
        return low + height * (roof(0 * u, 2 * u - 1) - low)

    def lower(u: Line) -> Float[np.ndarray, "n 3"]:
        return belt(0 * u, 2 * u - 1)

    return _wall(lower, upper, np.array([0.0, 1.0]), [Pane(0.04, 0.04, 0.04, 0.1, 0.1)], END_SAMPLES)


def _breaks(columns: int, kind: str, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """Where the pieces of a side begin and end."""
    inner = np.linspace(0, 1, columns + 1)
    if kind not in ("bus", "lorry"):
        inner[1:-1] += rng.uniform(-0.05, 0.07, columns - 1) + (0.05 if columns == 2 else 0.0)
    return inner


def _wall(
    low: Callable[[Line], Float[np.ndarray, "n 3"]],
    high: Callable[[Line], Float[np.ndarray, "n 3"]],
    breaks: Float[np.ndarray, " n"],
    panes: list[Pane | None],
    samples: int,
) -> tuple[Triangles, Triangles]:
    """A wall between two edges, in pieces with a window each or none: its painted triangles and its panes."""

    def surface(u: Line, v: Line) -> Float[np.ndarray, "n 3"]:
        bottom = low(u)
        return bottom + v[:, None] * (high(u) - bottom)

    painted, glass = [], [np.empty((0, 3, 3))]
    for start, end, pane in zip(breaks[:-1], breaks[1:], panes, strict=True):
        u = np.linspace(0, 1, samples)
        if pane is None:
            rows = [surface(np.full(3, start + value * (end - start)), HEIGHTS) for value in u]
            painted.append(grid(np.stack(rows)))
            continue
        ones, zeros = np.ones(samples), np.zeros(samples)
        loop_u = np.concatenate([[0, 0], u[:-1], [1, 1], u[:0:-1]])
        loop_v = np.concatenate([[0, 0.5], ones[:-1], [1, 0.5], zeros[:-1]])
        corner = (np.abs(loop_u - 0.5) == 0.5) & (np.abs(loop_v - 0.5) == 0.5)
        pull = np.where(corner, 1 - pane.rounding * 0.5, 1.0)
        inner_u = pane.left + (1 - pane.left - pane.right) * (0.5 + (loop_u - 0.5) * pull)
        inner_v = pane.low + (1 - pane.low - pane.high) * (0.5 + (loop_v - 0.5) * pull)
        outline = surface(start + inner_u * (end - start), inner_v)
        middle = surface(np.array([start + inner_u.mean() * (end - start)]), np.array([inner_v.mean()]))[0]
        painted.append(strip(surface(start + loop_u * (end - start), loop_v), outline))
        glass.append(fan(outline, middle))
    return np.concatenate(painted), np.concatenate(glass)
