"""A procedural car: measures, body, cabin, wheels, fittings and paint from one stream of random numbers."""

import numpy as np

from mvgenvs.data.procedural.atlas import Atlas, Colour, plain
from mvgenvs.data.procedural.body import Body, Pit
from mvgenvs.data.procedural.cabin import build_cabin, windscreen
from mvgenvs.data.procedural.details import cage, fit, formula, seats
from mvgenvs.data.procedural.fittings import DARK, draw_fittings
from mvgenvs.data.procedural.form import Form, draw_form
from mvgenvs.data.procedural.paint import contrast, draw_colour, paint_body
from mvgenvs.data.procedural.solids import Triangles, box, grid, lathe
from mvgenvs.data.procedural.wheels import draw_wheel, wheel
from mvgenvs.meshes.mesh import Mesh, MeshPart

SEE_THROUGH = 0.2  # share of cars whose glass shows seats


def random_car(rng: np.random.Generator) -> Mesh:
    """A car, y up, front to -z, in metres, its wheels on y = 0, symmetric in shape."""
    form = draw_form(rng)
    body = Body(form, _pit(form))
    atlas = Atlas(form.length, form.width, form.height)
    colour = draw_colour(rng)
    race = form.kind in ("single-seater", "buggy") or rng.random() < 0.1
    paint_body(atlas, colour, form.belt, race, rng)
    plastic: Colour = DARK if rng.random() < 0.6 else (0.28, 0.28, 0.29)
    draw_fittings(atlas, body, colour, plastic, rng)
    draw_wheel(atlas.panels["wheel"], colour, rng)

    painted, dark = body.triangles()
    parts = [atlas.part("body", painted), plain("floor", dark, (0.06, 0.06, 0.065))]
    for name, front, side in (("fl", True, -1), ("fr", True, 1), ("rl", False, -1), ("rr", False, 1)):
        parts.append(atlas.wheel(f"wheel_{name}", wheel(form, front, side), form.wheel_radius))
    clear = bool(rng.random() < SEE_THROUGH)
    roof = None
    if form.roof:
        cabin = build_cabin(body, rng)
        roof = cabin.roof
        parts.append(atlas.part("cabin", cabin.painted))
        parts += [*_glass(cabin.glass, clear, rng)]
        if clear:
            span = np.linspace(form.cowl_s + 0.9, form.base_rear_s - 0.4, max(form.columns, 1))
            parts += [seats(form, form.belt, span.tolist()), _deck(body)]
    elif form.kind == "roadster":
        frame, glass = windscreen(body, rng)
        parts += [atlas.part("frame", frame), *_glass(glass, True, rng)]
        parts.append(seats(form, form.belt - 0.12, [form.base_rear_s - 0.35]))
    elif form.kind == "buggy":
        parts += [*cage(form, colour, rng), seats(form, form.belt, [form.base_rear_s - 0.3])]
    else:
        parts += formula(atlas, form, contrast(colour, rng), rng)
    if form.kind == "lorry":
        parts += _load(atlas, form, colour, rng)
    parts += fit(atlas, body, colour, roof, rng)
    atlas.bake()
    return Mesh(tuple(parts), "CC0-1.0", "mvgenvs")


def _pit(f: Form) -> Pit | None:
    """A pickup's bed or an open car's cockpit."""
    half = f.body_width / 2
    if f.kind == "pickup":
        return Pit(f.base_rear_s + 0.12, f.length - 0.12, 0.84 * half, 0.62 * f.belt)
    if f.kind in ("roadster", "buggy"):
        return Pit(f.cowl_s + 0.25, f.base_rear_s - 0.1, 0.8 * half, 0.5 * f.belt)
    if f.kind == "single-seater":
        return Pit(f.cowl_s + 0.3, f.cowl_s + 1.0, 0.24, 0.2)
    return None


def _glass(triangles: Triangles, clear: bool, rng: np.random.Generator) -> list[MeshPart]:
    """Panes: mostly dark and opaque."""
    tone = rng.uniform(0.06, 0.24)
    colour: Colour = (tone, tone + rng.uniform(0, 0.03), tone + rng.uniform(0.0, 0.08))
    if rng.random() < 0.1:
        colour = (0.45, 0.55, 0.62)
    return [plain("glass", triangles, colour, rng.uniform(0.45, 0.75) if clear else 1.0)]


def _deck(body: Body) -> MeshPart:
    """A dark floor at the belt line, visible through the windows."""
    f = body.form
    s = np.linspace(f.cowl_s + 0.05, f.base_rear_s - 0.05, 6)
    x = body.top_edge(s)
    rows = [np.stack([side * x, body.top(s) + 0.02, s - f.length / 2], axis=-1) for side in (-1, 1)]
    return plain("deck", grid(np.stack(rows)), (0.1, 0.1, 0.11))


def _load(atlas: Atlas, f: Form, colour: Colour, rng: np.random.Generator) -> list[MeshPart]:
    """A lorry's load: a box, a flat bed with boards, or a tank."""
    start, end = f.base_rear_s + 0.15, f.length
    middle, half = (start + end) / 2 - f.length / 2, (end - start) / 2
    kind = str(rng.choice(["box", "bed", "tank"], p=[0.65, 0.2, 0.15]))
    own = colour if rng.random() < 0.4 else draw_colour(rng)
    if kind == "bed":
        boards = rng.uniform(0.25, 0.5)
        walls = [
            box((side * 0.48 * f.width, f.tail + boards / 2, middle), (0.03, boards / 2, half)) for side in (-1, 1)
        ]
        walls += [
            box((0.0, f.tail + boards / 2, middle + side * half), (0.48 * f.width, boards / 2, 0.03))
            for side in (-1, 1)
        ]
        return [plain("bed", np.concatenate([*walls, box((0.0, f.tail, middle), (0.5 * f.width, 0.05, half))]), own)]
    if kind == "tank":
        radius = min(0.48 * f.width, (f.height - f.tail) / 2)
        profile = np.array([[half, 0], [half, 0.8], [half - 0.15, 1], [-half + 0.15, 1], [-half, 0.8], [-half, 0]])
        tank = lathe(profile * [1, radius], 20)[..., [1, 2, 0]] + np.array([0, f.tail + radius, middle])
        return [plain("tank", tank, own)]
    top = f.height * rng.uniform(0.96, 1.0) + rng.uniform(0, 0.2)
    load = box((0.0, (f.tail + top) / 2, middle), (0.5 * f.width, (top - f.tail) / 2, half))
    for name in ("left", "right"):
        panel = atlas.panels[name]
        panel.rectangle(start - 0.05, f.length, f.tail, panel.high, own)
        if rng.random() < 0.5:
            ink = contrast(own, rng)
            panel.text(
                (start + end) / 2, (f.tail + top) / 2, rng.uniform(0.3, 0.7), str(rng.choice(["CARGO", "MILK"])), ink
            )
    atlas.panels["rear"].rectangle(-f.width, f.width, f.tail, f.height, own)
    atlas.panels["rear"].lines([(0, f.tail), (0, f.height)], DARK, 0.7)
    atlas.panels["top"].rectangle(start - 0.05, f.length, -f.width, f.width, own)
    return [atlas.part("box", load)]
