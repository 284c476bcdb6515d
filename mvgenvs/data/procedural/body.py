"""A car's lower body: cross-sections from nose to tail, with wheel arches, and a pit for a bed or a cockpit.

Axes of the results: x right, y up, z = s - length / 2 backwards, the ground at y = 0.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mvgenvs.data.procedural.form import Form
from mvgenvs.data.procedural.solids import Triangles, grid

Line = Float[np.ndarray, " n"]
LEVELS = np.array([0.0, 0.2, 0.45, 0.7, 0.9])  # rows of a side, as shares of its height
STEP = 1e-3  # between cross-sections on the two sides of an upright wall


@dataclass(frozen=True)
class Pit:
    """An opening in the body's top."""

    start: float  # along s
    end: float
    half: float  # half its width
    floor: float  # its height above the ground


@dataclass(frozen=True, eq=False)
class Body:
    """The surface of a lower body."""

    form: Form
    pit: Pit | None = None

    def half_width(self, s: Line) -> Line:
        """Half the width of the widest level, in plan."""
        f = self.form
        half, corner = f.body_width / 2, f.corner
        ahead, behind = np.clip(s, 0, corner) / corner, np.clip(f.length - s, 0, corner) / corner
        rounding = corner * (2 - np.sqrt(1 - (1 - ahead) ** 2) - np.sqrt(1 - (1 - behind) ** 2))
        taper_front = (1 - np.clip(s / (0.3 * f.length), 0, 1)) ** 2
        taper_rear = (1 - np.clip((f.length - s) / (0.3 * f.length), 0, 1)) ** 2
        width = half * (1 - 0.06 * taper_front - 0.05 * taper_rear)
        if f.kind == "single-seater":  # a needle's nose, pods beside the driver
            width = half * np.interp(s / f.length, [0, 0.12, 0.4, 0.48, 0.72, 1], [0.26, 0.34, 0.62, 1.0, 0.95, 0.42])
            rounding = 0.2 * rounding
        return np.maximum(width - 0.6 * rounding, 0.05)

    def top(self, s: Line) -> Line:
        """The height of bonnet, belt and boot."""
        f = self.form
        stations, heights = [0.0, f.cowl_s, f.base_rear_s, f.length], [f.nose, f.cowl, f.belt, f.tail]
        if f.kind == "lorry":  # a step behind the cab, down to the frame
            stations = [0.0, f.cowl_s, f.base_rear_s + 0.05, f.base_rear_s + 0.06, f.length]
            heights = [f.nose, f.cowl, f.belt, f.tail, f.tail]
        bonnet = np.clip(s / max(f.cowl_s, 0.1), 0, 1)
        ends = np.clip(np.minimum(s, f.length - s), 0, f.edge) / f.edge
        drop = 0.7 * f.edge * (1 - np.sqrt(1 - (1 - ends) ** 2))
        return np.interp(s, stations, heights) + f.hump * np.sin(np.pi * bonnet) - drop

    def bottom(self, s: Line) -> Line:
        """The lower edge of the sides: the sill, raised over the wheels."""
        f = self.form
        low = np.full_like(s, f.clearance)
        if f.open_wheels:
            return low
        radius = f.wheel_radius * 1.14
        for axle in (f.front_axle, f.rear_axle):
            inside = np.abs(s - axle) < radius
            arch = f.wheel_radius + np.sqrt(np.maximum(radius**2 - (s - axle) ** 2, 0))
            low = np.where(inside, np.maximum(low, arch), low)
        return np.minimum(low, self.top(s) - 0.05)

    def side(self, s: Line, level: Line) -> Line:
        """Half the width at a share `level` of the height."""
        f = self.form
        low, high = np.clip((0.5 - level) / 0.5, 0, 1), np.clip((level - 0.5) / 0.5, 0, 1)
        near = sum(np.exp(-(((s - axle) / (1.2 * f.wheel_radius)) ** 4)) for axle in (f.front_axle, f.rear_axle))
        flare = 1 + f.flare * near * (level < 0.8)
        return self.half_width(s) * (1 - f.tuck * low**2 - f.shoulder * high**2) * flare * (1 - f.flare)

    def top_edge(self, s: Line) -> Line:
        """Half the width of the flat top."""
        return np.maximum(self.side(s, np.ones_like(s)) - 0.6 * self.form.edge, 0.04)

    def placed(
        self, x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"], s: Float[np.ndarray, "*n"]
    ) -> Float[np.ndarray, "*n 3"]:
        """Points in the car's space; nose and tail bulge in the middle and lean back above the bumper."""
        f = self.form
        reach = min(0.6, 0.5 * f.front_axle)
        across = 1 - np.clip(np.abs(x) / (f.body_width / 2), 0, 1) ** 2
        front, rear = np.clip(1 - s / reach, 0, 1) ** 2, np.clip(1 - (f.length - s) / reach, 0, 1) ** 2
        bumper = 0.45 * f.nose + 0.25
        above = np.clip((y - bumper) / max(f.nose - bumper, 0.2), -0.5, 1.5)
        lean = np.where(above > 0, above**2, 0.8 * above**2)
        s = s + front * (f.lean_front * lean - f.bow_front * across)
        s = s - rear * (f.lean_rear * lean - f.bow_rear * across)
        return np.stack([x, y, s - f.length / 2], axis=-1)

    def stations(self) -> Line:
        """Positions of the cross-sections: dense at ends and arches."""
        f = self.form
        angles = np.cos(np.linspace(0, np.pi, 11)) * f.wheel_radius * 1.14
        ends = np.array([0, 0.03, 0.1, 0.2, 0.4])
        regular = np.arange(0.6, f.length - 0.5, 0.4)
        lines = [ends, f.length - ends, regular, np.array([f.cowl_s, f.base_rear_s])]
        for axle in (f.front_axle, f.rear_axle):
            lines += [axle + angles * (1 - STEP), axle + angles[[0, -1]] * (1 + STEP)]
        if f.kind == "lorry":
            lines += [f.base_rear_s + np.array([0.05, 0.06])]
        if self.pit:
            lines += [np.array([self.pit.start - STEP, self.pit.start, self.pit.end, self.pit.end + STEP])]
        return np.unique(np.clip(np.concatenate(lines), 0, f.length))

    def half_sections(self) -> Float[np.ndarray, "station column 3"]:
        """The right half of each cross-section, from the middle of the floor to the middle of the top."""
        f, s = self.form, self.stations()
        top, low = self.top(s), self.bottom(s)
        edge = self.top_edge(s)
        columns = [(0 * s, low)]
        for level in LEVELS:
            y = f.clearance + level * (top - f.clearance)
            y = np.maximum(y, low)
            columns.append((self.side(s, (y - f.clearance) / (top - f.clearance)), y))
        middle, deck = 0.75 * edge, top + 0.01 * (edge > 0.3)
        lip = edge
        inner = deck
        if self.pit:
            within = (s >= self.pit.start) & (s <= self.pit.end)
            half = np.minimum(self.pit.half, edge - 0.02)
            lip = np.where(within, half, edge)
            middle = np.where(within, half - 0.005, middle)
            inner = np.where(within, self.pit.floor, deck)
        columns += [(edge, top), (np.minimum(lip, edge), top), (middle, inner), (0 * s, inner + 0.01)]
        x, y = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
        return self.placed(x, y, np.broadcast_to(s[:, None], x.shape))

    def triangles(self) -> tuple[Triangles, Triangles]:
        """The painted triangles, and the dark ones: floor, wheel wells and the pit's inside."""
        right = self.half_sections()
        left = right * np.array([-1.0, 1, 1])
        last = right.shape[1] - 1
        shell = [grid(right[:, 1:-2]), grid(left[:, last - 2 : 0 : -1])]
        floor = [grid(right[:, :2]), grid(left[:, 1::-1])]
        first, after = self._pit_rows()
        deck, pit = [], []
        for half in (right[:, -3:], left[:, : last - 3 : -1]):
            deck += [grid(half[: first + 1]), grid(half[after:])]
            pit.append(grid(half[first : after + 1]))
        return np.concatenate([*shell, *deck, *self._caps(right)]), np.concatenate([*floor, *pit])

    def _pit_rows(self) -> tuple[int, int]:
        """The stations just before and just behind the pit; the last one twice if there is none."""
        s = self.stations()
        if not self.pit:
            return len(s) - 1, len(s) - 1
        first, after = np.searchsorted(s, [self.pit.start - STEP / 2, self.pit.end + STEP / 2]).tolist()
        return first - 1, after

    def _caps(self, right: Float[np.ndarray, "station column 3"]) -> list[Triangles]:
        """The flat ends, bowed like the rest."""
        f, caps = self.form, []
        across = np.linspace(1, -1, 7)
        for end, s in ((0, 0.0), (-1, f.length)):
            ring = right[end]
            x, y = ring[:, :1] * across, np.broadcast_to(ring[:, 1:2], (len(ring), 7))
            points = self.placed(x, y, np.full_like(x, s))
            caps.append(grid(points if end == 0 else points[:, ::-1]))
        return caps
