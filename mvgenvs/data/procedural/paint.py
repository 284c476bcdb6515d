"""The paint of a car: a realistic colour, and sometimes a second one, stripes, checks or numbers."""

import colorsys
from collections.abc import Sequence

import numpy as np

from mvgenvs.data.procedural.atlas import Atlas, Colour, Panel

WORDS = ("TAXI", "RALLY", "EXPRESS", "TURBO", "SERVICE", "TEAM", "GT", "FRESH", "CARGO", "CITY", "NORD", "DELTA",
         "POST", "BAKERY", "MILK", "FAST", "POLICE", "RENT", "TOUR", "VOLT")  # fmt: skip
BODY_PANELS = ("left", "right", "top", "front", "rear")


def draw_colour(rng: np.random.Generator) -> Colour:
    """White, silver, grey or black for about half of the cars, otherwise a bright or muted colour."""
    kind = rng.choice(["white", "black", "grey", "silver", "bright", "muted"], p=[0.15, 0.1, 0.1, 0.13, 0.36, 0.16])
    tint = rng.uniform(-0.02, 0.02, 3)
    grey = {"white": (0.86, 0.97), "black": (0.06, 0.15), "grey": (0.25, 0.5), "silver": (0.6, 0.78)}
    if kind in grey:
        red, green, blue = np.clip(rng.uniform(*grey[kind]) + tint, 0, 1).tolist()
        return red, green, blue
    hue = float(
        rng.choice([0.0, 0.0, 0.01, 0.03, 0.08, 0.13, 0.15, 0.28, 0.38, 0.5, 0.56, 0.59, 0.61, 0.64, 0.66, 0.75, 0.93])
        + rng.normal(0, 0.02)
    )
    if kind == "bright":
        return colorsys.hsv_to_rgb(hue % 1, float(rng.uniform(0.7, 1)), float(rng.uniform(0.55, 1)))
    return colorsys.hsv_to_rgb(hue % 1, float(rng.uniform(0.25, 0.6)), float(rng.uniform(0.2, 0.75)))


def shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1, lighter above."""
    red, green, blue = (min(value * factor, 1.0) for value in colour)
    return red, green, blue


def contrast(colour: Colour, rng: np.random.Generator) -> Colour:
    """A colour that stands out from another."""
    for _ in range(10):
        other = draw_colour(rng)
        if np.abs(np.subtract(other, colour)).max() > 0.35:
            return other
    return (0.05, 0.05, 0.05) if sum(colour) > 1.5 else (0.95, 0.95, 0.95)


def paint_body(atlas: Atlas, colour: Colour, belt: float, race: bool, rng: np.random.Generator) -> None:
    """Fills the body's panels; `belt` is the height where a second colour begins, `race` makes stickers common."""
    for name in BODY_PANELS:
        atlas.panels[name].pixels[:] = np.round(255 * np.array(colour))
    second = contrast(colour, rng)
    chances = np.array([0.1, 0.2, 0.25, 0.15, 0.15, 0.15]) if race else np.array([0.68, 0.1, 0.08, 0.05, 0.05, 0.04])
    livery = rng.choice(["plain", "two-tone", "stripes", "flank", "checks", "patches"], p=chances)
    panels = [atlas.panels[name] for name in BODY_PANELS]
    if livery == "two-tone":
        _two_tone(atlas, second, belt, rng)
    elif livery == "stripes":
        _stripes(atlas, second, rng)
    elif livery == "flank":
        low, high = sorted(rng.uniform(0.25, 1.0, 2) * belt)
        for name in ("left", "right") if rng.random() < 0.7 else ("left", "right", "front", "rear"):
            panel = atlas.panels[name]
            panel.rectangle(panel.left, panel.right, low, max(high, low + 0.08), second)
    elif livery == "checks":
        _checks(atlas, second, belt, rng)
    elif livery == "patches":
        for panel in panels:
            _patches(panel, second, rng)
    if rng.random() < (0.8 if race else 0.07):
        _number(atlas, belt, rng)
    if rng.random() < (0.5 if race else 0.06):
        lettering = str(rng.choice(WORDS))
        s, height = rng.uniform(0.35, 0.65) * atlas.length, rng.uniform(0.12, 0.3)
        for name in ("left", "right"):
            atlas.panels[name].text(s, 0.7 * belt, height, lettering, second)
    if rng.random() < 0.5:
        _gloss(panels[:2], belt, rng)
    if rng.random() < 0.3:
        _flakes(panels, rng)


def _two_tone(atlas: Atlas, second: Colour, belt: float, rng: np.random.Generator) -> None:
    style = rng.choice(["roof", "lower", "bonnet"])
    for name in ("left", "right", "front", "rear"):
        panel = atlas.panels[name]
        if style == "roof":
            panel.rectangle(panel.left, panel.right, belt, panel.high, second)
        elif style == "lower":
            panel.rectangle(panel.left, panel.right, 0.0, belt * float(rng.uniform(0.4, 0.6)), second)
    top = atlas.panels["top"]
    if style == "roof":
        start, end = rng.uniform(0.28, 0.4) * atlas.length, rng.uniform(0.8, 1.0) * atlas.length
        top.rectangle(start, end, top.low, top.high, second)
    elif style == "bonnet":
        top.rectangle(0.0, 0.3 * atlas.length, top.low, top.high, second)


def _stripes(atlas: Atlas, second: Colour, rng: np.random.Generator) -> None:
    """Along bonnet, roof and boot: one, two, or one aside."""
    width, middle = rng.uniform(0.08, 0.3), rng.choice([0.0, 0.0, 0.25])
    offsets: Sequence[float] = (middle,) if rng.random() < 0.4 else (middle - width, middle + width)
    for offset in offsets:
        low, high = offset - 0.45 * width, offset + 0.45 * width
        atlas.panels["top"].rectangle(0.0, atlas.length, low, high, second)
        for name in ("front", "rear"):
            panel = atlas.panels[name]
            panel.rectangle(low, high, panel.low, panel.high, second)


def _checks(atlas: Atlas, second: Colour, belt: float, rng: np.random.Generator) -> None:
    size, rows = rng.uniform(0.1, 0.3), int(rng.integers(2, 4))
    bottom = belt * rng.uniform(0.4, 0.75)
    for name in ("left", "right"):
        for row in range(rows):
            for column in range(row % 2, int(atlas.length / size) + 1, 2):
                x, y = column * size, bottom + row * size
                atlas.panels[name].rectangle(x, x + size, y, y + size, second)


def _patches(panel: Panel, second: Colour, rng: np.random.Generator) -> None:
    """Slanted fields, different on each side."""
    for _ in range(int(rng.integers(1, 4))):
        x = panel.left + rng.uniform() * (panel.right - panel.left)
        width, slant = rng.uniform(0.15, 0.9), rng.uniform(-0.8, 0.8)
        points = [(x, panel.low), (x + width, panel.low), (x + width + slant, panel.high), (x + slant, panel.high)]
        panel.polygon(points, second if rng.random() < 0.6 else draw_colour(rng))


def _number(atlas: Atlas, belt: float, rng: np.random.Generator) -> None:
    """A race number on doors, and on bonnet or roof."""
    number, s = str(rng.integers(1, 100)), rng.uniform(0.42, 0.58) * atlas.length
    disc, ink = ((0.95, 0.95, 0.95), (0.05, 0.05, 0.05)) if rng.random() < 0.7 else ((0.1, 0.1, 0.1), (0.95, 0.9, 0.2))
    radius = 0.33 * belt
    for name in ("left", "right"):
        panel = atlas.panels[name]
        panel.disc(s, 0.62 * belt, radius, disc)
        panel.text(s, 0.62 * belt, 1.1 * radius, number, ink)
    top = atlas.panels["top"]
    place = rng.choice([0.15, 0.55]) * atlas.length
    top.disc(place, 0.0, radius, disc)
    top.text(place, 0.0, 1.1 * radius, number, ink)


def _gloss(panels: Sequence[Panel], belt: float, rng: np.random.Generator) -> None:
    """The look of metallic paint: lighter towards the belt, darker towards the sill, and an edge between."""
    strength = rng.uniform(0.05, 0.18)
    for panel in panels:
        rows = panel.pixels.shape[0]
        height = panel.high * (1 - (np.arange(rows) + 0.5) / rows)
        lift = 1 + strength * np.clip((height - 0.6 * belt) / (0.4 * belt), -1, 1)
        panel.pixels[:] = np.clip(panel.pixels * lift[:, None, None], 0, 255)
    edge = belt * rng.uniform(0.6, 0.85)
    for panel in panels:
        panel.lines([(panel.left, edge), (panel.right, edge)], (0.0, 0.0, 0.0), 0.25)


def _flakes(panels: Sequence[Panel], rng: np.random.Generator) -> None:
    for panel in panels:
        noise = rng.normal(0, 5, panel.pixels.shape[:2])
        panel.pixels[:] = np.clip(panel.pixels + noise[..., None], 0, 255)
