"""Heaps of simple solids."""

import numpy as np

from mvgenvs.meshes.mesh import Mesh


def random_shape(rng: np.random.Generator) -> Mesh:
    """Nothing yet."""
    raise NotImplementedError
