"""The categories of objects in OpenCars: their sources, and the families that are held out for validation and test.

A split holds whole families, so that no shape of the test set was seen in training in different paint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mvgenvs.data.opencars import (
    flightgear,
    furniture,
    opencity,
    procedural,
    scenery,
    sweethome3d,
    torcs,
    trigger,
    ufoai,
)
from mvgenvs.data.opencars.catalogue import Entry


@dataclass(frozen=True)
class Source:
    """A Debian package, the members that are needed from it, and the function that lists its objects."""

    package: str
    members: Sequence[str]
    entries: Callable[[Path], list[Entry]]
    kind: str = ""  # of those of its objects that do not state their own


@dataclass(frozen=True)
class Category:
    """A category of objects. Families in neither held-out split are for training."""

    sources: tuple[Source, ...] = ()
    # By split: "val" and "test", or a second pair, "val2" and "test2".
    held_out: Mapping[str, frozenset[str]] = field(default_factory=dict)
    generate: Callable[[int, int], list[Entry]] | None = None  # objects without a package, from their count and a seed

    def split_of(self, family: str) -> str:
        return next((split for split, families in self.held_out.items() if family in families), "train")


def _all_of(categories: Sequence[tuple[str, Category]]) -> Category:
    """The union of the categories, each with the kind of its objects; what one holds out is held out of all."""
    splits = sorted({split for _, category in categories for split in category.held_out})
    return Category(
        tuple(replace(source, kind=kind) for kind, category in categories for source in category.sources),
        {split: frozenset().union(*(c.held_out.get(split, ()) for _, c in categories)) for split in splits},
    )


CATEGORIES = {
    "cars": Category(
        sources=tuple(Source(s.PACKAGE, s.MEMBERS, s.cars) for s in (torcs, ufoai, sweethome3d, trigger, opencity)),
        held_out={
            "val": frozenset({"torcs_buggy", "sh3d_fordFocus", "ufo_4x4", "ocity_clior"}),
            "test": frozenset(
                {
                    "torcs_p406",
                    "torcs_155-DTM",
                    "torcs_baja-bug",
                    "trigger_evo",
                    "ufo_golf",
                    "ufo_landy",
                    "sh3d_seat_leon",
                    "sh3d_VW-new-beetle",
                }
            ),
        },
    ),
    "chairs": Category(
        sources=(Source(sweethome3d.PACKAGE, sweethome3d.MEMBERS, sweethome3d.chairs),),
        held_out={"val": sweethome3d.CHAIR_VAL, "test": sweethome3d.CHAIR_TEST},
    ),
    "vehicles": Category(
        sources=(Source(flightgear.PACKAGE, flightgear.MEMBERS, flightgear.vehicles),),
        held_out={"val2": flightgear.VAL2, "test2": flightgear.TEST2},
    ),
    "furniture": Category(
        sources=(
            Source(sweethome3d.PACKAGE, furniture.MEMBERS, furniture.objects),
            Source(furniture.PROGRAM, (furniture.DEFAULTS.file,), furniture.defaults),
        ),
        held_out={"val": sweethome3d.CHAIR_VAL, "test": sweethome3d.CHAIR_TEST},
    ),
    "aircraft": Category(
        sources=(Source(flightgear.PACKAGE, scenery.MEMBERS, scenery.aircraft),),
        held_out={"val": scenery.VAL, "test": scenery.TEST},
    ),
    "procedural-cars": Category(generate=procedural.cars),
    "procedural-shapes": Category(generate=procedural.shapes),
}
SCENERY = Category(
    sources=(Source(flightgear.PACKAGE, scenery.MEMBERS, scenery.objects),),
    held_out={"val": scenery.VAL, "test": scenery.TEST},
)
# Everything in a package: aircraft are part of the scenery, chairs of the furniture.
CATEGORIES["objects"] = _all_of(
    [
        ("car", CATEGORIES["cars"]),
        ("vehicle", CATEGORIES["vehicles"]),
        ("furniture", CATEGORIES["furniture"]),
        ("", SCENERY),
    ]
)
