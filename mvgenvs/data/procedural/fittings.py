"""Drawings on a body: lamps, grille, plates, doors, handles, dark plastic below."""

import numpy as np

from mvgenvs.data.procedural.atlas import Atlas, Colour, Panel
from mvgenvs.data.procedural.body import Body
from mvgenvs.data.procedural.form import Form
from mvgenvs.data.procedural.paint import shade

DARK: Colour = (0.07, 0.07, 0.08)
CHROME: Colour = (0.78, 0.79, 0.81)
CLEAR: Colour = (0.9, 0.93, 0.95)
AMBER: Colour = (0.95, 0.55, 0.1)
BOXY = ("bus", "van", "lorry")


def draw_fittings(atlas: Atlas, body: Body, colour: Colour, plastic: Colour, rng: np.random.Generator) -> None:
    """Draws all of them over the paint."""
    form = body.form
    front, rear = body.half_width(np.array([0.05, form.length - 0.05])).tolist()
    plate = f"{rng.choice(list('ABKLMX'))} {rng.integers(100, 999)}"
    _sides(atlas, form, plastic, rng)
    _front(atlas, form, front, plate, plastic, rng)
    _rear(atlas, form, rear, plate, colour, plastic, rng)
    _top(atlas, form, rng)


def _sides(atlas: Atlas, f: Form, plastic: Colour, rng: np.random.Generator) -> None:
    """Doors between the axles, handles, sills, rims of the wheel arches, a fuel flap."""
    sill = f.clearance + rng.uniform(0.04, 0.16)
    front = max(f.cowl_s, f.front_axle + (0 if f.kind in BOXY else f.wheel_radius))
    if f.kind in ("bus", "lorry"):
        front = 0.25
    end = f.rear_axle - 0.6 * f.wheel_radius if f.columns > 1 else front + 1.3
    doors = 2 if f.columns >= 2 and f.kind not in BOXY and f.kind not in ("coupe", "sports") else 1
    edges = np.linspace(front, min(end, f.base_rear_s), doors + 1)
    strip, rims = rng.random() < 0.3, rng.random() < 0.3
    handle = CHROME if rng.random() < 0.4 else DARK
    for name in ("left", "right"):
        panel = atlas.panels[name]
        panel.rectangle(0.0, f.length, 0.0, sill, plastic)
        if strip:
            panel.rectangle(0.1, f.length - 0.1, 0.5 * f.belt, 0.5 * f.belt + 0.07, DARK)
        for axle in (f.front_axle, f.rear_axle):
            angle = np.linspace(-0.2, np.pi + 0.2, 20)
            radius = 1.16 * f.wheel_radius
            arc = np.stack([axle + radius * np.cos(angle), f.wheel_radius + radius * np.sin(angle)], axis=-1)
            panel.lines(arc, plastic if rims else DARK, 0.9 if rims else 0.5, 4 if rims else 2)
        if f.open_wheels:
            continue
        for edge in edges:
            panel.lines([(edge, sill), (edge, 0.5 * (f.height + f.belt))], DARK, 0.65)
        panel.lines([(edges[0], sill), (edges[-1], sill)], DARK, 0.65)
        for edge in edges[1:]:
            panel.rectangle(edge - 0.24, edge - 0.07, 0.84 * f.belt, 0.84 * f.belt + 0.045, handle)
    if f.kind in BOXY and f.kind != "bus":
        for name in ("left", "right"):
            atlas.panels[name].lines([(f.length * 0.62, sill), (f.length * 0.62, 0.9 * f.height)], DARK, 0.5)
    atlas.panels["right"].disc(f.rear_axle, 0.8 * f.belt, 0.07, shade(plastic, 1.5))


def _front(atlas: Atlas, f: Form, half: float, plate: str, plastic: Colour, rng: np.random.Generator) -> None:
    """Head lamps left and right, a grille between, a plate and an intake below."""
    panel = atlas.panels["front"]
    panel.rectangle(f.width, -f.width, 0.0, f.clearance + rng.uniform(0.02, 0.14), plastic)
    if f.kind == "single-seater":
        return
    y = min(0.82 * f.nose, 0.95)
    height, outer = rng.uniform(0.1, 0.2), half - 0.06
    width = min(rng.uniform(0.22, 0.42), 0.5 * half)
    style = str(rng.choice(["round", "twin", "rectangle", "slant", "slim"], p=[0.18, 0.1, 0.24, 0.3, 0.18]))
    grille_low, grille_half = y - rng.uniform(0.06, 0.22), max(outer - width - rng.uniform(0.02, 0.2), 0.12)
    mesh = DARK if rng.random() < 0.75 else CHROME
    kind = str(rng.choice(["bars", "frame", "kidney", "closed"], p=[0.4, 0.3, 0.1, 0.2]))
    if kind == "kidney":
        for side in (-1, 1):
            panel.rectangle(side * 0.03, side * 0.2, grille_low, y + 0.06, CHROME)
            panel.rectangle(side * 0.05, side * 0.18, grille_low + 0.02, y + 0.04, DARK)
    elif kind != "closed":
        if kind == "frame":
            panel.rectangle(-grille_half - 0.02, grille_half + 0.02, grille_low - 0.02, y + 0.07, CHROME)
        panel.rectangle(-grille_half, grille_half, grille_low, y + 0.05, mesh)
        for line in np.arange(grille_low + 0.03, y + 0.03, 0.05):
            panel.lines([(-grille_half, line), (grille_half, line)], shade(plastic, 2.5), 0.6)
    for side in (-1, 1):
        _head_lamp(panel, style, side, outer, width, y, height)
    low = f.clearance + 0.12
    if rng.random() < 0.75:
        intake = half * rng.uniform(0.4, 0.85)
        panel.rectangle(-intake, intake, low, low + rng.uniform(0.06, 0.14), DARK)
    if rng.random() < 0.4:
        for side in (-1, 1):
            panel.disc(side * 0.72 * half, low + 0.06, 0.055, CLEAR, 1.2)
    if rng.random() < 0.85:
        _plate(panel, low + 0.16, plate, rng)
    for name in ("left", "right"):  # lamps reach around the corner
        if style in ("slant", "rectangle", "slim"):
            atlas.panels[name].rectangle(0.0, rng.uniform(0.08, 0.22), y - height / 2, y + height / 3, CLEAR)
        if rng.random() < 0.5:
            atlas.panels[name].rectangle(0.02, 0.14, 0.66 * y, 0.66 * y + 0.05, AMBER)


def _head_lamp(panel: Panel, style: str, side: int, outer: float, width: float, y: float, height: float) -> None:
    if style in ("round", "twin"):
        radius = 0.6 * height + 0.03
        for x in (outer - radius, outer - 3.1 * radius)[: 2 if style == "twin" else 1]:
            panel.disc(side * x, y, 1.2 * radius, CHROME)
            panel.disc(side * x, y, radius, CLEAR)
            panel.disc(side * x, y, 0.4 * radius, (0.6, 0.65, 0.7))
        return
    inner, low, high = outer - width, y - height / 2, y + height / 2
    if style == "slim":
        low = y
    raised = {"slant": 0.35, "slim": 0.2}.get(style, 0.0) * height
    corners = np.array(
        [(outer + 0.06, low + raised), (inner, low), (inner + 0.02, high - raised), (outer + 0.06, high)]
    )
    frame = corners.mean(axis=0) + 1.12 * (corners - corners.mean(axis=0))
    panel.polygon(frame * [side, 1], DARK)
    panel.polygon(corners * [side, 1], CLEAR)
    panel.disc(side * (outer - 0.4 * width), (low + high) / 2, 0.28 * (high - low), (0.55, 0.6, 0.66))
    if style == "rectangle":
        panel.rectangle(side * (outer + 0.06), side * (outer - 0.02), low, high, AMBER)


def _rear(
    atlas: Atlas, f: Form, half: float, plate: str, colour: Colour, plastic: Colour, rng: np.random.Generator
) -> None:
    """Red lamps left and right, a plate, the gap of the boot, a bumper below."""
    panel = atlas.panels["rear"]
    bumper = f.clearance + rng.uniform(0.08, 0.32)
    panel.rectangle(-f.width, f.width, 0.0, bumper, plastic if rng.random() < 0.6 else shade(colour, 0.9))
    panel.rectangle(-f.width, f.width, 0.0, f.clearance + 0.06, DARK)
    panel.lines([(-f.width, bumper), (f.width, bumper)], DARK, 0.7)
    red: Colour = (rng.uniform(0.65, 0.9), rng.uniform(0.02, 0.1), rng.uniform(0.02, 0.1))
    if f.kind == "single-seater":
        panel.rectangle(-0.08, 0.08, 0.25, 0.35, red)
        return
    top = f.tail - 0.06
    tall = f.kind in (*BOXY, "hatchback", "estate", "suv", "mpv", "pickup")
    style = str(rng.choice(["upright", "level", "round", "band", "wedge"],
                           p=[0.55, 0.12, 0.1, 0.05, 0.18] if tall else [0.08, 0.42, 0.14, 0.12, 0.24]))  # fmt: skip
    width, height = rng.uniform(0.24, 0.42) * half, rng.uniform(0.11, 0.18)
    if style == "upright":
        width, height = rng.uniform(0.12, 0.2), min(rng.uniform(0.25, 0.5), top - bumper - 0.05)
    if f.kind in ("lorry", "bus"):
        top = min(top, 1.2)
    low, outer = max(top - height, bumper + 0.03), half - 0.03
    gap, rounds = rng.uniform(0.6, 0.8) * half, int(rng.integers(1, 3))
    for side in (-1, 1):
        panel.lines([(side * gap, bumper), (side * gap, top + 0.1)], DARK, 0.5)
    if style == "band":
        panel.rectangle(-outer, outer, top - 0.1, top, red)
    for side in (-1, 1):
        if style == "round":
            radius = min(0.5 * height + 0.04, 0.12)
            for number in range(rounds):
                panel.disc(side * (outer - 0.04 - radius * (1 + 2.2 * number)), top - radius, radius, red)
            continue
        inner = outer - width
        drop = 0.5 * height if style == "wedge" else 0.0
        panel.polygon([(side * x, v) for x, v in ((outer + 0.05, low - 0.015), (inner - 0.02, low + drop - 0.015),
                       (inner - 0.02, top + 0.015), (outer + 0.05, top + 0.015))], DARK)  # fmt: skip
        panel.polygon([(side * x, v) for x, v in ((outer + 0.05, low), (inner, low + drop), (inner, top),
                       (outer + 0.05, top))], red)  # fmt: skip
        part = low + rng.uniform(0.3, 0.4) * (top - low)
        if rng.random() < 2:
            panel.rectangle(side * (inner + 0.1 * width), side * (outer - 0.1 * width), part, part + 0.2 * (top - low),
                            AMBER if style == "upright" else CLEAR)  # fmt: skip
    if style != "round":
        for name in ("left", "right"):
            atlas.panels[name].rectangle(f.length - rng.uniform(0.08, 0.2), f.length + 0.1, low, top, red)
    _plate(panel, bumper + 0.04 if rng.random() < 0.4 else max(0.5 * (bumper + top) - 0.06, bumper), plate, rng)
    if rng.random() < 0.4:
        panel.disc(0.0, top - 0.03, 0.04, CHROME)
    if rng.random() < 0.3:
        panel.text(0.45 * half, 0.5 * (bumper + top) + 0.1, 0.06, str(rng.choice(["GTI", "2.0", "S4", "XL"])), CHROME)


def _plate(panel: Panel, y: float, lettering: str, rng: np.random.Generator) -> None:
    half, height = ((0.26, 0.115), (0.16, 0.16))[int(rng.random() < 0.25)]
    ground: Colour = (0.93, 0.93, 0.93) if rng.random() < 0.7 else (0.95, 0.8, 0.2)
    panel.rectangle(-half - 0.012, half + 0.012, y - 0.012, y + height + 0.012, DARK)
    panel.rectangle(-half, half, y, y + height, ground)
    panel.text(0.0, y + height / 2, 0.75 * height, lettering, DARK)


def _top(atlas: Atlas, f: Form, rng: np.random.Generator) -> None:
    """The bonnet's edges, and a roof window now and then."""
    panel, half = atlas.panels["top"], f.body_width / 2
    if f.kind not in ("bus", "lorry", "single-seater"):
        for side in (-0.78, 0.78):
            panel.lines([(0.1, side * half), (f.cowl_s, side * half)], DARK, 0.45)
        panel.lines([(0.12, -0.78 * half), (0.12, 0.78 * half)], DARK, 0.3)
    if f.roof and rng.random() < 0.15 and f.kind not in BOXY:
        start, end = f.roof_front_s + 0.2, f.roof_front_s + 0.2 + rng.uniform(0.3, 0.7)
        panel.rectangle(start, min(end, f.roof_rear_s - 0.15), -0.45 * half, 0.45 * half, (0.1, 0.12, 0.15))
    if f.kind not in BOXY and rng.random() < 0.08:
        panel.rectangle(0.45 * f.cowl_s, 0.7 * f.cowl_s, -0.3 * half, 0.3 * half, DARK)
