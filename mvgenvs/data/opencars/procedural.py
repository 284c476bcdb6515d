"""Objects made by `mvgenvs.data.procedural`: any number, each from the seed and its index alone."""

from collections.abc import Callable
from functools import partial

import numpy as np

from mvgenvs.data.opencars.catalogue import Entry, seed_of
from mvgenvs.data.procedural.cars import random_car
from mvgenvs.data.procedural.shapes import random_shape
from mvgenvs.meshes.mesh import Mesh

PACKAGE, VERSION = "mvgenvs", "1"  # raise the version if the same seed no longer makes the same objects


def cars(count: int, seed: int) -> list[Entry]:
    """Cars, each a family of its own."""
    return _entries(random_car, "car", count, seed)


def shapes(count: int, seed: int) -> list[Entry]:
    """Heaps of simple solids, each a family of its own."""
    return _entries(random_shape, "shape", count, seed)


def _entries(make: Callable[[np.random.Generator], Mesh], word: str, count: int, seed: int) -> list[Entry]:
    names = [f"procedural_{word}_{seed}_{number:06d}" for number in range(count)]
    return [Entry(name, name, PACKAGE, name, "CC0-1.0", "mvgenvs", partial(_made, make, name)) for name in names]


def _made(make: Callable[[np.random.Generator], Mesh], name: str) -> Mesh:
    return make(np.random.default_rng(seed_of(name)))
