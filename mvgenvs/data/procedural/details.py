"""Bolted-on parts: mirrors, bumpers, exhausts, spoilers, bars, signs, seats, cages, wings."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mvgenvs.data.procedural.atlas import Atlas, Colour, plain
from mvgenvs.data.procedural.body import Body
from mvgenvs.data.procedural.cabin import Sheet
from mvgenvs.data.procedural.fittings import BOXY, CHROME, DARK
from mvgenvs.data.procedural.form import Form
from mvgenvs.data.procedural.solids import Triangles, both_sides, box, ellipsoid, grid, lathe, tube
from mvgenvs.meshes.mesh import MeshPart


def bumper(body: Body, front: bool, y: float, height: float, depth: float) -> Triangles:
    """A bar around an end of the body."""
    f = body.form
    s = np.array([0.5, 0.25, 0.1, 0.03, 0.0])
    s = s if front else f.length - s
    x = body.side(s, np.full_like(s, 0.4)) + depth * np.array([0.0, 0.4, 0.7, 0.8, 0.7])
    plan_x = np.concatenate([x, x[-1] * np.linspace(0.6, -0.6, 4), -x[::-1]])
    plan_s = np.concatenate([s, np.full(4, s[-1]), s[::-1]])
    out = np.concatenate([[0, 0, 0.3, 0.7], np.ones(6), [0.7, 0.3, 0, 0]]) * depth * (-1 if front else 1)
    rows = []
    for level, share in ((0.0, -0.5), (0.15, 1.0), (0.85, 1.0), (1.0, -0.5)):
        points = body.placed(plan_x, np.full_like(plan_x, y + level * height), plan_s)
        rows.append(points + np.stack([0 * out, 0 * out, out * share], axis=-1))
    return grid(np.stack(rows) if front else np.stack(rows)[:, ::-1])


def fit(atlas: Atlas, body: Body, colour: Colour, roof: Sheet | None, rng: np.random.Generator) -> list[MeshPart]:
    """Parts that suit the car: always mirrors, the rest by chance."""
    f = body.form
    z = f.cowl_s + 0.3 - f.length / 2
    parts = []
    if f.kind != "single-seater":
        mirror_half = (0.09, rng.uniform(0.06, 0.09), 0.06) if f.kind not in ("bus", "lorry") else (0.07, 0.2, 0.06)
        x = float(body.half_width(np.array([f.cowl_s + 0.3]))[0])
        y = f.cowl + (0.09 if f.kind not in ("bus", "lorry") else 0.5)
        glass = both_sides(box((x + 0.02, y, z + 0.055), (0.07, 0.05, 0.012)))
        shape = (
            ellipsoid((x + 0.02, y, z), mirror_half, 8) if f.kind not in BOXY else box((x + 0.05, y, z), mirror_half)
        )
        parts.append(plain("mirrors", both_sides(shape), colour if rng.random() < 0.6 else DARK))
        parts.append(plain("mirror glass", glass, (0.6, 0.65, 0.7)))
    if not f.open_wheels and rng.random() < 0.45:
        height, depth = rng.uniform(0.1, 0.2), rng.uniform(0.04, 0.1)
        low = f.clearance + rng.uniform(0.05, 0.14)
        bars = np.concatenate([bumper(body, front, low, height, depth) for front in (True, False)])
        finish = (CHROME, DARK, (0.2, 0.2, 0.21), colour)[int(rng.choice(4, p=[0.25, 0.3, 0.25, 0.2]))]
        parts.append(plain("bumpers", bars, finish))
    if f.kind not in ("bus", "single-seater"):
        x = 0.3 * f.body_width * rng.uniform(0.6, 1.2)
        rear = f.length / 2
        pipe = tube(
            np.array([x, f.clearance + 0.03, rear - 0.4]), np.array([x, f.clearance + 0.03, rear + 0.06]), 0.04, 8
        )
        parts.append(plain("exhaust", both_sides(pipe) if rng.random() < 0.4 else pipe, (0.5, 0.5, 0.52)))
    if roof is not None:
        parts += _on_roof(f, roof, colour, rng)
    if f.kind in ("coupe", "sports", "sedan") and rng.random() < (0.45 if f.kind != "sedan" else 0.12):
        parts.append(_wing(body, colour, rng))
    if f.kind == "suv" and rng.random() < 0.25:
        spare = lathe(np.array([[0.2, 0], [0.2, 0.24], [0.16, 0.34], [0, 0.34], [0, 0]]), 16)
        spare = spare[..., [1, 2, 0]] + np.array([0, 0.62 * f.belt, f.length / 2])
        parts.append(plain("spare wheel", spare, (0.11, 0.11, 0.12)))
    return parts


def _on_roof(f: Form, roof: Sheet, colour: Colour, rng: np.random.Generator) -> list[MeshPart]:
    """Bars, a load, a taxi's sign or blue lamps."""
    t = np.linspace(0.12, 0.92, 5)
    parts = []
    if f.kind in ("estate", "suv", "mpv") and rng.random() < 0.5:
        line = roof(t, np.full(5, 0.82)) + np.array([0, 0.045, 0])
        rails = np.concatenate([tube(a, b, 0.022) for a, b in pairwise(line)])
        parts.append(plain("rails", both_sides(rails), CHROME if rng.random() < 0.5 else DARK))
        if rng.random() < 0.25:
            middle = roof(np.array([0.55]), np.zeros(1))[0]
            load = ellipsoid((middle[0], middle[1] + 0.2, middle[2]), (0.38, 0.19, 0.8), 10)
            parts.append(plain("roof box", load, (0.25, 0.26, 0.28)))
    top = roof(np.array([0.3]), np.zeros(1))[0]
    chance = rng.random()
    if f.kind in ("sedan", "estate", "mpv", "hatchback") and chance < 0.04:
        parts.append(plain("sign", box((0.0, top[1] + 0.07, top[2]), (0.25, 0.08, 0.06)), (0.95, 0.85, 0.2)))
    elif f.kind in ("sedan", "estate", "suv", "van") and chance < 0.08:
        parts.append(plain("blue lamps", box((0.0, top[1] + 0.06, top[2]), (0.5, 0.06, 0.09)), (0.1, 0.25, 0.9)))
    if f.kind in ("hatchback", "suv", "mpv", "estate") and rng.random() < 0.4:
        edge = roof(np.ones(5), np.linspace(0.9, -0.9, 5))
        lip = np.stack([edge, edge + np.array([0, -0.01, rng.uniform(0.1, 0.22)])])
        parts.append(plain("roof spoiler", grid(lip), colour if rng.random() < 0.7 else DARK))
    return parts


def _wing(body: Body, colour: Colour, rng: np.random.Generator) -> MeshPart:
    """A board on two posts above the boot."""
    f = body.form
    lift, half = rng.uniform(0.08, 0.28), 0.42 * f.width
    y, z = f.tail + lift, f.length / 2 - rng.uniform(0.1, 0.25)
    post = both_sides(box((0.7 * half, f.tail + lift / 2 - 0.02, z), (0.02, lift / 2 + 0.02, 0.06)))
    return plain(
        "wing", np.concatenate([box((0.0, y, z), (half, 0.02, 0.11)), post]), colour if rng.random() < 0.6 else DARK
    )


def seats(f: Form, deck: float, places: Sequence[float]) -> MeshPart:
    """Pairs of seats at places along s; their backs reach above the belt."""
    blocks = []
    rise = min(0.8 * (f.height - 0.1 - deck), 0.5)
    for s in places:
        z = s - f.length / 2
        back = box((0.2 * f.width, deck + 0.3 * rise, z), (0.1 * f.width, 0.4 * rise, 0.06))
        head = box((0.2 * f.width, deck + 0.85 * rise, z + 0.02), (0.05 * f.width, 0.15 * rise, 0.04))
        blocks += [both_sides(back), both_sides(head)]
    return plain("seats", np.concatenate(blocks), (0.16, 0.15, 0.15))


def cage(f: Form, colour: Colour, rng: np.random.Generator) -> list[MeshPart]:
    """A buggy's tubes, its axles and its spare lamps."""
    x, z = 0.42 * f.body_width, f.length / 2
    feet = {"front": f.cowl_s, "rear": f.base_rear_s}
    corners = {
        "a": np.array([x, f.cowl, feet["front"] - z]),
        "b": np.array([0.85 * x, f.height, f.roof_front_s - z]),
        "c": np.array([0.85 * x, f.height, f.roof_rear_s - z]),
        "d": np.array([x, f.belt, feet["rear"] - z]),
        "e": np.array([0.7 * x, f.tail, f.length - 0.1 - z]),
    }
    tubes = [both_sides(tube(corners[a], corners[b], 0.03)) for a, b in ("ab", "bc", "cd", "ce")]
    flip = np.array([-1.0, 1, 1])
    tubes += [tube(corners[key], corners[key] * flip, 0.03) for key in "bcd"]
    parts = [plain("cage", np.concatenate(tubes), DARK if rng.random() < 0.5 else colour)]
    if rng.random() < 0.5:
        roof = np.stack([np.stack([corners[k], corners[k] * flip]) for k in "bc"]) + np.array([0, 0.02, 0])
        parts.append(plain("roof", grid(roof), colour))
    lamps = both_sides(ellipsoid((0.3 * f.body_width, f.nose + 0.08, 0.15 - z), (0.1, 0.1, 0.06), 8))
    parts.append(plain("lamps", lamps, (0.9, 0.92, 0.9)))
    return [*parts, axles(f)]


def axles(f: Form) -> MeshPart:
    """Arms between body and open wheels."""
    x, z = f.width / 2 - f.wheel_width / 2, f.length / 2
    arms = []
    for axle in (f.front_axle, f.rear_axle):
        for offset in (-0.25, 0.2):
            arms.append(tube(np.array([0.05, f.wheel_radius + 0.04, axle + offset - z]),
                             np.array([x, f.wheel_radius, axle - z]), 0.03))  # fmt: skip
    return plain("axles", both_sides(np.concatenate(arms)), DARK)


def formula(atlas: Atlas, f: Form, second: Colour, rng: np.random.Generator) -> list[MeshPart]:
    """A single-seater's wings, engine cover, hoop, driver and arms."""
    z, half = f.length / 2, f.width / 2
    seat = f.cowl_s + 0.75
    wings = [box((0.0, f.clearance + 0.1, 0.05 - z), (0.95 * half, 0.015, 0.2)),
             both_sides(box((0.95 * half, f.clearance + 0.15, 0.05 - z), (0.015, 0.1, 0.25))),
             box((0.0, 0.92 * f.height, z - 0.1), (0.5 * f.width, 0.02, 0.18)),
             both_sides(box((0.5 * f.width, 0.72 * f.height, z - 0.1), (0.015, 0.25 * f.height, 0.24)))]  # fmt: skip
    cover = ellipsoid((0.0, f.belt, seat + 0.9 - z), (0.2, f.height - f.belt, 0.85), 12)
    helmet = ellipsoid((0.0, f.cowl + 0.2, seat - 0.15 - z), (0.13, 0.15, 0.15), 10)
    lamp = box((0.0, 0.35, z + 0.02), (0.05, 0.06, 0.05))
    return [plain("wings", np.concatenate(wings), second), atlas.part("cover", cover), plain("helmet", helmet, CHROME),
            plain("rear lamp", lamp, (0.85, 0.05, 0.05)), axles(f)]  # fmt: skip
