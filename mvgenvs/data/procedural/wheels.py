"""Wheels: a tyre and a dished rim rotated about the axle, and the picture of its face."""

import numpy as np

from mvgenvs.data.procedural.atlas import Colour, Panel
from mvgenvs.data.procedural.form import Form
from mvgenvs.data.procedural.solids import Triangles, lathe

TYRE: Colour = (0.09, 0.09, 0.1)


def wheel(form: Form, front: bool, side: int) -> Triangles:
    """One wheel in place, its face outwards; `side` is 1 on the right, -1 on the left."""
    r, half = form.wheel_radius, form.wheel_width / 2
    profile = np.array(
        [[half - 0.04, 0.0], [half - 0.05, 0.5 * r], [half - 0.01, 0.68 * r], [half, 0.8 * r], [half - 0.03, r],
         [-half + 0.03, r], [-half, 0.8 * r], [-half, 0.0]]
    )  # fmt: skip
    turned = lathe(profile, 20)
    if side < 0:
        turned = (turned * np.array([-1.0, 1, 1]))[:, ::-1]
    track = form.width / 2 - half - (0.0 if form.open_wheels else 0.03)
    axle = form.front_axle if front else form.rear_axle
    return turned + np.array([side * track, r, axle - form.length / 2])


def draw_wheel(panel: Panel, colour: Colour, rng: np.random.Generator) -> None:
    """The face of all wheels of a car: tyre, rim, spokes or holes, hub."""
    panel.pixels[:] = np.round(255 * np.array(TYRE))
    metal = rng.uniform(0.55, 0.85)
    rim: Colour = (metal, metal, metal + 0.02)
    if rng.random() < 0.12:
        rim = (0.2, 0.2, 0.22)
    elif rng.random() < 0.08:
        rim = colour
    dark: Colour = (0.13, 0.13, 0.14)
    style = str(rng.choice(["spokes", "double", "holes", "cap", "wire"], p=[0.45, 0.15, 0.2, 0.12, 0.08]))
    size = rng.uniform(0.62, 0.74)
    panel.disc(0.0, 0.0, size, rim)
    count = int(rng.integers(4, 9))
    angles = np.arange(count) * 2 * np.pi / count + rng.uniform(0, 1)
    if style in ("spokes", "double", "wire"):
        panel.disc(0.0, 0.0, 0.87 * size, dark)
        width = {"spokes": rng.uniform(0.05, 0.13), "double": 0.035, "wire": 0.015}[style]
        apart = (-0.12, 0.12) if style == "double" else (0.0, 0.3) if style == "wire" else (0.0,)
        for angle in (angle + offset for angle in angles for offset in apart):
            along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
            ends = [0.9 * size * along + width * across, 0.9 * size * along - width * across]
            panel.polygon([*ends, -1.3 * width * across, 1.3 * width * across], rim)
    elif style == "holes":
        for angle in angles:
            panel.disc(0.6 * size * np.cos(angle), 0.6 * size * np.sin(angle), 0.1, dark)
    else:
        panel.disc(0.0, 0.0, 0.5 * size, (0.85, 0.85, 0.87))
    panel.disc(0.0, 0.0, rng.uniform(0.1, 0.2), rim if rng.random() < 0.6 else dark)
