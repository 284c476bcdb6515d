"""Road vehicles of FlightGear's scenery: cars, vans, buses, lorries, and the vehicles of airports and building sites.

Left out of the 281 models in the two folders: light halos, signs, buildings and grounds; containers, skips and barrels;
trains, ships, aircraft; towed objects (trailers, dollies, carts, power units); groups of several objects (luggage
trains, GPU-ba, tractor5-aero); boxes with pictures on them (bus-muc-2, busgr-ba, fire-truck-ba); belt and container
loaders, whose front cannot be told from their back; models with a baked shadow or light beams (hummerh2-ba,
fedextruck-ba, YellowContainerTruck); supacat_winch, which is folded; hoskosh-ti-1500 and its twin fire-truck-muc; and
the second of two models in a held-out family (DPostTruck, VWJetta_S1).
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.meshes.ac3d import read_ac3d
from mvgenvs.meshes.mesh import Mesh, MeshPart

PACKAGE = "flightgear-data-base"
DATA = "usr/share/games/flightgear/Scenery/Models"
STREET, AIRPORT = "Transport", "Airport/Vehicle"
MEMBERS = (f"{DATA}/{STREET}/*", f"{DATA}/{AIRPORT}/*")

GROUND, LARGE = 0.01, 0.1  # metres, square metres

LICENCE = "GPL-2+"
AUTHORS = "Curtis L. Olson and the FlightGear team"  # neither the package nor the files say more

VAL2 = frozenset(
    f"fgfs_{family}"
    for family in (
        "vwgolf", "vwpassat", "mazda_wagon", "it_policecar", "rover", "traffic", "containertruck", "bussmall",
    )
)  # fmt: skip
TEST2 = frozenset(
    f"fgfs_{family}"
    for family in ("bmw3", "honda", "volvoxc90", "gr_policar", "voyager", "vanwhite", "consdumptruck", "tourbus")
)


@dataclass(frozen=True)
class _Shape:
    """Models of one family: one shape in different paint, or with its body lifted to another height."""

    family: str
    folder: str
    front: str  # the axis of the files along which it drives; +y is up in all of them
    names: str
    on_ground: bool = False  # has a shadow on the ground, and wheels painted on squares that reach into the ground


_SHAPES = (
    _Shape("110bus", STREET, "-x", "110Bus"),
    _Shape("containertruck", STREET, "-x", "BlueContainerTruck"),
    _Shape("catering", STREET, "-x", "CCS_catering_truck"),
    _Shape("norberttruck", STREET, "-z", "Norberttruck"),
    _Shape("trailertruck", STREET, "-x", "Trailer"),
    _Shape("vwpassat", STREET, "-z", "VWPassat_S1"),
    _Shape("bmw3", STREET, "-z", "bmw3silver"),
    _Shape("stepvan", STREET, "-z", "boxtruckusps mxvtftrboxfedtruck"),
    _Shape("bulldozer", STREET, "-z", "bulldozer"),
    _Shape("citybus", STREET, "+z", "bus-ba"),
    _Shape("citybus", STREET, "-x", "bus-muc"),
    _Shape("bendybus", STREET, "+z", "bus_bi-ba bus_bi_turn-ba"),
    _Shape("bussmall", STREET, "-z", "bussmallwhite"),
    _Shape("camaro", STREET, "-z", "camaroblack camaroblue camarored camarowhite"),
    _Shape("comtruck", STREET, "-z", "comtruckwhite1"),
    _Shape("consbrooms", STREET, "-z", "consbrooms1"),
    _Shape("consdigger", STREET, "-z", "consdigger1"),
    _Shape("consdumptruck", STREET, "-z", "consdumptruck1"),
    _Shape("consforklift", STREET, "-z", "consforklift1"),
    _Shape("consgrader", STREET, "-z", "consgrader1"),
    _Shape("consroller", STREET, "-z", "consroller1"),
    _Shape("dodgeram", STREET, "-z", "dodgeramblue dodgeramgreen dodgeramred dodgeramwhite dodgeramyellow"),
    _Shape("forklift", STREET, "-z", "forklift"),
    _Shape("gr_van", STREET, "-z", "gr_paramedic1"),
    _Shape("gr_policar", STREET, "-z", "gr_policar1"),
    _Shape("hatchback", STREET, "-x", "hatchback_black hatchback_blue hatchback_green hatchback_red hatchback_silver"),
    _Shape("honda", STREET, "-z", "honda1"),
    _Shape("hondacrv", STREET, "-z", "hondacrvblack hondacrvred hondacrvsilver"),
    _Shape("it_policecar", STREET, "+z", "it_policecar1"),
    _Shape("mazda_wagon", STREET, "-z", "mazda_wagontaxi"),
    _Shape("transit_bus", STREET, "-z", "minibusblue1 minibusgreen1 minibuswhite1", on_ground=True),
    _Shape("motorhome", STREET, "-x", "motorhome"),
    _Shape("semi", STREET, "-z", "mxvtfedtr mxvtftrwh mxvtftrwhshort"),
    _Shape("pickup", STREET, "-z", "pickupblue pickupwhite pickupyelwhite"),
    _Shape("transit_pickup", STREET, "-z", "pickupred1 pickupwhite1 vanyellow1", on_ground=True),
    _Shape("steamroller", STREET, "-z", "steamroller"),
    _Shape("camry", STREET, "-z", "tcamryblack tcamryblue tcamryred tcamrysilver"),
    _Shape("tourbus", STREET, "-z", "tourbus1"),
    _Shape("boxtruck", STREET, "-x", "truck"),
    _Shape("van", STREET, "-x", "van-blue-muc van_blue_dirty van_red van_silver"),
    _Shape("transit_van", STREET, "-z", "vantransitwhite1 vanwhite1", on_ground=True),
    _Shape("vanwhite", STREET, "-z", "vanwhite"),
    _Shape("volvoxc90", STREET, "-z", "volvoxc90s1"),
    _Shape("voyager", STREET, "-z", "voyager1"),
    _Shape("vwgolf", STREET, "+z", "vwgolfsilver"),
    _Shape("yard-tractor", STREET, "-x", "yard-tractor"),
    _Shape("f600", AIRPORT, "-x", "94-f600-fuel-yellow-hi"),
    _Shape("sprinter308", AIRPORT, "-x", "BFD_Sprinter_308"),
    _Shape("catering", AIRPORT, "-x", "CCS_catering_truck1 CCS_catering_truck2"),
    _Shape("cobus", AIRPORT, "-x", "Cobus_2700s Cobus_3000"),
    _Shape("followme", AIRPORT, "-x", "EDDI-FollowMe EDDT-FollowMe"),
    _Shape(
        "cateringtruck",
        AIRPORT,
        "-x",
        "EDXW_Cateringtruck0Level_blank EDXW_Cateringtruck1700Level_blank EDXW_Cateringtruck2000Level_blank "
        "EDXW_Cateringtruck4000Level_blank",
    ),
    _Shape("sprinter215", AIRPORT, "-x", "ELW_Sprinter_215"),
    _Shape("firetruck730", AIRPORT, "+x", "FireTruck_7.30m"),
    _Shape("fueltruck730", AIRPORT, "-x", "Fuel_Truck"),
    _Shape("sprinter515", AIRPORT, "-x", "RTW_Sprinter_515 RTW_Sprinter_515_BL"),
    _Shape("gwg_man", AIRPORT, "-x", "RW_GWG_MAN"),
    _Shape("panther8x8", AIRPORT, "-x", "Rosenbauer_FLF_Panther8x8 Rosenbauer_FLF_Panther8x8SWB"),
    _Shape("vfaeg", AIRPORT, "-x", "Rosenbauer_FLF_VFAEG"),
    _Shape("tlf5500", AIRPORT, "-x", "Rosenbauer_TLF_5500"),
    _Shape("airstairs", AIRPORT, "-z", "airstairs-gen"),
    _Shape(
        "catrucklar",
        AIRPORT,
        "-z",
        "airvehcatgourmet1 catrucklar-servair320cm catruckmed-servair190cm catruckmed-servairstowed",
    ),
    _Shape("transit_pickup", AIRPORT, "-z", "airvehpickupgreen1 airvehpickupwhite1", on_ground=True),
    _Shape("anac-fire", AIRPORT, "-x", "anac-fire"),
    _Shape("transit_box", AIRPORT, "-z", "boxvan-white boxvan-yellow", on_ground=True),
    _Shape(
        "catruckmed",
        AIRPORT,
        "-z",
        "catruckmed-gategourmet catruckmed-gategourmet3m catruckmed-gategourmet45m catruckmed-jetblue "
        "catruckmed-jetblue3m catruckmed-lsg catruckmed-lsg3m catruckmed-lsg45",
    ),
    _Shape("citerne", AIRPORT, "+x", "citerne-ba"),
    _Shape("cobus2700", AIRPORT, "-z", "cobus2700-gen"),
    _Shape("crashtender", AIRPORT, "-x", "crashtender"),
    _Shape("dicingtruck", AIRPORT, "-z", "dicingtruck dicingtruckblue"),
    _Shape("dragon", AIRPORT, "+z", "dragon-ba"),
    _Shape("firetruck-muc", AIRPORT, "-x", "fire-truck-muc-2"),
    _Shape("firetruck-K", AIRPORT, "-x", "firetruck-K firetruck-K-SANR"),
    _Shape("fourgon", AIRPORT, "-z", "fourgon-ba"),
    _Shape("fueltruck", AIRPORT, "-x", "fueltruck1"),
    _Shape("gr_van", AIRPORT, "-z", "gr_van-followme van-aegean"),
    _Shape("groundforce_bus", AIRPORT, "-x", "groundforce_bus"),
    _Shape("hatchback", AIRPORT, "-x", "hatchback_red_follow_me"),
    _Shape("larfueltruck", AIRPORT, "-z", "larfueltruck-bp larfueltruck-white"),
    _Shape("servisair", AIRPORT, "-z", "larfueltruck-servisair"),
    _Shape("cobus3000", AIRPORT, "-z", "lirq_cobus3000"),
    _Shape("stairs", AIRPORT, "-z", "lirq_pass1 stairs2-lirq stairs3-lirq stairs4-lirq"),
    _Shape("medfueltruck", AIRPORT, "-z", "medfueltruck-asig medfueltruck-servisair medfueltruck-swissport"),
    _Shape("bpfueltruck", AIRPORT, "-z", "medfueltruck-bp"),
    _Shape("medpushback", AIRPORT, "-z", "medpushbacksouthwest"),
    _Shape("medtruck-servair", AIRPORT, "-z", "medtruck-servair"),
    _Shape("passerelle", AIRPORT, "+x", "passerelle-ba"),
    _Shape("rover", AIRPORT, "-z", "rover-aegean"),
    _Shape("smfueltruck", AIRPORT, "-z", "smfueltruck-gen"),
    _Shape("supertug", AIRPORT, "-z", "supertug"),
    _Shape("sweeper", AIRPORT, "-z", "sweeper-lirq"),
    _Shape("tank1", AIRPORT, "-x", "tank1-ba"),
    _Shape("tractor1", AIRPORT, "-z", "tractor1-southwest"),
    _Shape("tractor2", AIRPORT, "-z", "tractor2-delta tractor2-gen tractor2-united"),
    _Shape("tractor3", AIRPORT, "-z", "tractor3-delta tractor3-gen tractor3-united"),
    _Shape("tractor4-blue", AIRPORT, "-z", "tractor4-blue"),
    _Shape("tractor4-olympic", AIRPORT, "-z", "tractor4-olympic"),
    _Shape("traffic", AIRPORT, "-z", "traffic-ba"),
)


def vehicles(root: Path) -> list[Entry]:
    """The vehicles, by id. `root` is the unpacked package."""
    entries = [
        Entry(
            id=f"fgfs_{name}",
            family=f"fgfs_{shape.family}",
            package=PACKAGE,
            file=f"{DATA}/{shape.folder}/{name}.ac",
            licence=LICENCE,
            attribution=f"{name} of FlightGear's scenery by {AUTHORS}",
            load=partial(_load, root / DATA / shape.folder / f"{name}.ac", shape),
        )
        for shape in _SHAPES
        for name in shape.names.split()
    ]
    return sorted(entries, key=lambda entry: entry.id)


def _load(path: Path, shape: _Shape) -> Mesh:
    mesh = read_ac3d(path)
    return (_off_the_ground(mesh) if shape.on_ground else mesh).oriented(shape.front, up="+y")


def _off_the_ground(mesh: Mesh) -> Mesh:
    """The mesh without large triangles that touch the ground (y = 0): shadows, and the squares of wheels."""

    def kept(part: MeshPart) -> MeshPart:
        corners = part.positions[part.triangles]
        areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
        return replace(part, triangles=part.triangles[(corners[..., 1].min(axis=1) > GROUND) | (areas < LARGE)])

    return replace(mesh, parts=tuple(kept(part) for part in mesh.parts))
