"""A source of objects for the builder's tests: every OBJ of a package. Importable, as worker processes need it."""

from functools import partial
from pathlib import Path

from mvgenvs.data.opencars.catalogue import Entry
from mvgenvs.data.opencars.categories import Category, Source
from mvgenvs.meshes.files import load_mesh

PACKAGE = "toy-cars"


def entries(root: Path) -> list[Entry]:
    return [
        Entry(path.stem, path.stem.split("-")[0], PACKAGE, path.name, "CC0", "nobody", partial(load_mesh, path))
        for path in sorted(root.rglob("*.obj"))
    ]


TOYS = Category((Source(PACKAGE, ("usr/*",), entries),), {"val": frozenset({"buggy"}), "test": frozenset({"saloon"})})
