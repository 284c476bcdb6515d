"""The measures of a car, drawn from ranges of real ones. Lengths are in metres; `s` runs backwards from the nose."""

from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Kind:
    """A class of cars: the ranges its measures are drawn from."""

    share: float  # of all cars
    length: Range
    width: Range
    height: Range
    wheelbase: Range  # share of the length
    overhang: Range  # before the front axle, share of the length
    radius: Range  # of the wheels
    clearance: Range
    nose: Range  # heights as shares of the whole: the bonnet's front end,
    cowl: Range  # its rear end at the windscreen,
    belt: Range  # the foot of the rear window,
    tail: Range  # the boot's end
    cowl_gap: Range  # from the front axle back to the windscreen's foot
    screen: Range  # degrees that the windscreen leans from upright
    boot: Range  # from the rear window's foot to the tail
    rear: Range  # degrees that the rear window leans
    columns: tuple[int, ...] = (2, 3)  # of side windows
    tumblehome: Range = (0.1, 0.24)
    corner: Range = (0.1, 0.35)
    roof: bool = True
    blind: float = 0.0  # probability that the columns behind the front doors have no window


KINDS = {
    "sedan": Kind(.15, (4.1, 5.1), (1.66, 1.92), (1.36, 1.5), (.57, .62), (.17, .2), (.3, .355), (.14, .2), (.44, .53),
                  (.61, .67), (.64, .69), (.62, .69), (.3, .55), (52., 63.), (.4, .8), (48., 64.), (2, 3)),
    "hatchback": Kind(.15, (3.4, 4.4), (1.55, 1.84), (1.37, 1.56), (.59, .65), (.16, .19), (.28, .345), (.14, .2),
                      (.44, .53), (.59, .65), (.6, .66), (.58, .65), (.2, .5), (48., 62.), (.03, .2), (15., 48.),
                      (1, 2, 3)),
    "estate": Kind(.09, (4.2, 5.0), (1.66, 1.9), (1.4, 1.55), (.57, .62), (.17, .2), (.3, .355), (.14, .2), (.44, .52),
                   (.59, .65), (.62, .66), (.6, .65), (.3, .55), (50., 62.), (.03, .12), (10., 42.), (3,)),
    "coupe": Kind(.09, (3.9, 4.9), (1.62, 1.92), (1.22, 1.4), (.56, .61), (.17, .21), (.29, .36), (.12, .17),
                  (.44, .52), (.62, .68), (.66, .72), (.62, .72), (.4, .75), (56., 65.), (.2, .6), (60., 73.), (1, 2)),
    "sports": Kind(.07, (3.8, 4.7), (1.75, 2.02), (1.05, 1.25), (.55, .6), (.18, .23), (.3, .36), (.09, .13), (.4, .5),
                   (.62, .69), (.7, .76), (.66, .78), (.05, .5), (61., 68.), (.4, .9), (64., 75.), (1, 2), (.18, .32)),
    "suv": Kind(.1, (3.8, 5.1), (1.72, 2.02), (1.6, 1.95), (.56, .62), (.16, .19), (.34, .42), (.2, .3), (.5, .58),
                (.58, .64), (.58, .64), (.56, .62), (.25, .5), (38., 54.), (.02, .12), (6., 35.), (2, 3), (.06, .16)),
    "mpv": Kind(.06, (3.9, 5.1), (1.68, 2.0), (1.58, 1.85), (.58, .64), (.16, .19), (.3, .35), (.14, .2), (.4, .48),
                (.55, .6), (.55, .6), (.54, .59), (.05, .3), (50., 62.), (.02, .1), (8., 26.), (3,), (.08, .18)),
    "pickup": Kind(.08, (4.6, 5.9), (1.72, 2.05), (1.6, 1.92), (.56, .61), (.16, .18), (.33, .42), (.2, .32),
                   (.52, .58), (.58, .63), (.58, .63), (.56, .62), (.3, .55), (38., 54.), (1.5, 2.3), (2., 12.),
                   (1, 2), (.06, .16)),
    "roadster": Kind(.04, (3.6, 4.6), (1.55, 1.88), (1.12, 1.32), (.57, .62), (.17, .2), (.28, .34), (.11, .16),
                     (.46, .54), (.64, .7), (.66, .72), (.62, .7), (.45, .8), (50., 62.), (.6, 1.), (50., 60.), (1,),
                     roof=False),
    "van": Kind(.06, (4.2, 6.5), (1.78, 2.1), (1.85, 2.7), (.56, .62), (.15, .18), (.3, .37), (.16, .22), (.36, .44),
                (.46, .54), (.46, .54), (.45, .53), (-.1, .25), (28., 52.), (.02, .06), (1., 6.), (2, 3, 4), (.03, .1),
                (.06, .2), blind=.65),
    "bus": Kind(.04, (7., 12.5), (2.2, 2.55), (2.7, 3.3), (.48, .56), (.18, .24), (.44, .52), (.25, .35), (.34, .42),
                (.38, .46), (.38, .46), (.37, .44), (-9., -9.), (3., 14.), (.03, .08), (1., 8.), (4, 5, 6, 7),
                (.0, .05), (.06, .3)),
    "lorry": Kind(.05, (5.4, 8.5), (1.95, 2.5), (2.5, 3.5), (.52, .6), (.15, .2), (.38, .5), (.35, .5), (.36, .44),
                  (.42, .48), (.42, .48), (.26, .3), (-9., .4), (6., 24.), (3.4, 6.), (0., 4.), (1, 1, 2), (.02, .08),
                  (.06, .2)),
    "single-seater": Kind(.02, (3.8, 5.2), (1.6, 2.), (.95, 1.1), (.58, .64), (.18, .22), (.28, .34), (.06, .1),
                          (.3, .36), (.52, .58), (.52, .6), (.4, .5), (.6, .9), (40., 50.), (1., 1.4), (50., 60.),
                          roof=False),
    "buggy": Kind(.03, (2.8, 3.7), (1.5, 1.85), (1.35, 1.65), (.6, .66), (.16, .2), (.32, .4), (.2, .32), (.38, .46),
                  (.5, .56), (.5, .56), (.46, .54), (.35, .6), (35., 50.), (.5, .8), (30., 50.), roof=False),
}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """The measures of one car."""

    kind: str
    length: float
    width: float
    height: float
    clearance: float
    front_axle: float
    rear_axle: float
    wheel_radius: float
    wheel_width: float
    nose: float
    cowl: float
    belt: float
    tail: float
    cowl_s: float
    roof_front_s: float
    roof_rear_s: float
    base_rear_s: float
    columns: int  # of windows on each side
    blind: bool
    roof: bool
    tumblehome: float
    corner: float  # radius of the body's corners in plan
    edge: float  # radius between the body's sides and its top
    tuck: float  # how far the sides turn in, as a share of the width: at the sill,
    shoulder: float  # and at the belt
    flare: float  # how far the wheel arches protrude
    bow_front: float  # how far the middle of the nose protrudes,
    bow_rear: float
    lean_front: float  # and how far its upper end is set back
    lean_rear: float
    hump: float  # of the bonnet
    roof_arc: float

    @property
    def open_wheels(self) -> bool:
        """Wheels beside the body, not under it."""
        return self.kind in ("single-seater", "buggy")

    @property
    def body_width(self) -> float:
        return self.width * {"single-seater": 0.46, "buggy": 0.66}.get(self.kind, 1.0)


def draw_form(rng: np.random.Generator) -> Form:
    """A car's measures."""
    shares = np.array([kind.share for kind in KINDS.values()])
    name = str(rng.choice(list(KINDS), p=shares / shares.sum()))
    kind = KINDS[name]

    def pick(bounds: Range) -> float:
        return _pick(rng, bounds)

    length, width, height = pick(kind.length), pick(kind.width), pick(kind.height)
    nose, cowl, belt, tail = (height * pick(share) for share in (kind.nose, kind.cowl, kind.belt, kind.tail))
    wheelbase, front_axle = length * pick(kind.wheelbase), length * pick(kind.overhang)
    boxy = name in ("bus", "lorry", "van")
    plump = not boxy and rng.random() < 0.2  # the roundness of older cars
    cowl_s, roof_front_s, roof_rear_s, base_rear_s = _draw_cabin(
        rng, name, length, front_axle, height - cowl, height - belt
    )
    long_roof = roof_rear_s - roof_front_s
    columns = int(rng.choice(kind.columns))
    if name == "pickup":
        columns = 1 if long_roof < 1.0 else 2
    return Form(
        kind=name,
        length=length,
        width=width,
        height=height,
        clearance=pick(kind.clearance),
        front_axle=front_axle,
        rear_axle=front_axle + wheelbase,
        wheel_radius=pick(kind.radius),
        wheel_width=pick((0.17, 0.26)) * (1.7 if name == "single-seater" else 1.3 if name in ("bus", "lorry") else 1),
        nose=nose,
        cowl=cowl,
        belt=belt,
        tail=tail,
        cowl_s=cowl_s,
        roof_front_s=roof_front_s,
        roof_rear_s=roof_rear_s,
        base_rear_s=base_rear_s,
        columns=columns,
        blind=bool(rng.random() < kind.blind),
        roof=kind.roof,
        tumblehome=pick(kind.tumblehome),
        corner=pick(kind.corner),
        edge=pick((0.03, 0.07)) if boxy else pick((0.16, 0.26)) if plump else pick((0.05, 0.14)),
        tuck=pick((0.0, 0.04)) if boxy else pick((0.03, 0.1)),
        shoulder=pick((0.0, 0.03)) if boxy else pick((0.02, 0.09)),
        flare=0.0 if boxy or name == "single-seater" else pick((0.0, 0.05)),
        bow_front=pick((0.02, 0.08)) if boxy else pick((0.04, 0.22)),
        bow_rear=pick((0.0, 0.04)) if boxy else pick((0.02, 0.12)),
        lean_front=pick((0.0, 0.08)) if boxy or name == "suv" else pick((0.02, 0.22)),
        lean_rear=pick((0.0, 0.03)) if boxy or name == "pickup" else pick((-0.02, 0.14)),
        hump=pick((0.05, 0.11)) if plump else pick((0.0, 0.05)),
        roof_arc=pick((0.01, 0.04)) if boxy else pick((0.03, 0.1)),
    )


def _draw_cabin(
    rng: np.random.Generator, name: str, length: float, front_axle: float, rise_front: float, rise_rear: float
) -> tuple[float, float, float, float]:
    """How far back the windscreen's foot, the roof's front and rear ends and the rear window's foot lie.

    `rise_front` and `rise_rear` are the heights of the two windows.
    """
    kind = KINDS[name]
    gap = _pick(rng, kind.cowl_gap)
    cowl_s = max(front_axle + gap, _pick(rng, (0.04, 0.16)))
    base_rear_s = length - _pick(rng, kind.boot)
    if name == "lorry":
        base_rear_s = cowl_s + _pick(rng, (1.5, 2.1))
    roof_front_s = cowl_s + rise_front * np.tan(np.deg2rad(_pick(rng, kind.screen)))
    roof_rear_s = base_rear_s - rise_rear * np.tan(np.deg2rad(_pick(rng, kind.rear)))
    if roof_rear_s - roof_front_s < 0.7:  # the roof keeps a length: the rear window stands steeper
        roof_front_s = min(roof_front_s, base_rear_s - 1.0)
        roof_rear_s = min(roof_front_s + 0.7, base_rear_s - 0.03)
    return cowl_s, float(roof_front_s), float(roof_rear_s), base_rear_s


def _pick(rng: np.random.Generator, bounds: Range) -> float:
    return float(rng.uniform(*bounds))
