"""The interface between a source of objects and the builder: entries that can be loaded."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from mvgenvs.meshes.mesh import Mesh


@dataclass(frozen=True)
class Entry:
    """One object of the data set before it is rendered."""

    id: str  # "torcs_car1-trb1_berniw3"; unique, and the name of its folder
    family: str  # objects of one shape in different paint share a family: "torcs_car1-trb1"
    package: str  # the Debian package it comes from
    file: str  # its main file, relative to the package's root; "archive.zip!member" inside an archive
    licence: str
    attribution: str
    load: Callable[[], Mesh]  # y up, front to -z if known, at any scale and place; raises UserError if damaged
    kind: str = ""  # its kind, if its category has several: "aircraft", "person"
    front: bool = True  # False: its front is unknown, or it has none


def seed_of(*keys: object) -> int:
    """A seed that depends on all the keys, and on nothing else."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, keys)).encode()).digest()[:8], "big")
