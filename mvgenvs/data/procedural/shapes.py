"""Heaps of simple solids in all sorts of textures: geometry and texture without recognisable objects."""

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mvgenvs.data.procedural.paint import draw_colour
from mvgenvs.data.procedural.solids import Triangles, box, ellipsoid, lathe, normals, torus
from mvgenvs.meshes.mesh import Material, Mesh, MeshPart

MOST = 9  # solids in a heap
TEXTURE = 64  # pixels


def random_shape(rng: np.random.Generator) -> Mesh:
    """One to nine solids, each close to an earlier one; sometimes a heap and its mirror image."""
    parts: list[MeshPart] = []
    middles: list[np.ndarray] = []
    radii: list[float] = []  # of the solids, about
    for number in range(int(rng.integers(1, MOST + 1))):
        half = rng.uniform(0.25, 2.0, 3)
        solid = random_solid(rng) * half
        if rng.random() < 0.3:
            solid = _dented(solid, rng)
        middle, radius = np.zeros(3), float(half.mean())
        if parts:
            near = int(rng.integers(len(parts)))
            direction = rng.normal(size=3)
            direction *= rng.uniform(0.4, 0.9) * (radii[near] + radius) / np.linalg.norm(direction)
            middle = middles[near] + direction
        middles.append(middle)
        radii.append(radius)
        uvs = _mapped(solid, rng.uniform(0.2, 0.8))
        parts.append(_part(f"solid_{number}", solid @ _rotation(rng).T + middle, uvs, _texture(rng)))
    if rng.random() < 0.25:
        reflection = Mesh(tuple(parts)).transformed(np.diag([-1.0, 1, 1, 1]))
        parts += [replace(part, name=f"{part.name}_mirrored") for part in reflection.parts]
    return Mesh(tuple(parts), "CC0-1.0", "mvgenvs")


def random_solid(rng: np.random.Generator) -> Triangles:
    """A closed solid within [-1, 1] along each axis."""
    kind = str(rng.choice(["ellipsoid", "box", "cylinder", "cone", "torus"]))
    if kind == "ellipsoid":
        return ellipsoid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 20)
    if kind == "box":
        return box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    if kind == "torus":
        return torus(1.0, rng.uniform(0.15, 0.45), 24)
    tip = 1.0 if kind == "cylinder" else rng.uniform(0.0, 0.6)
    profile = np.array([[1, 0], [1, tip], [-1, 1], [-1, 0]])
    return lathe(profile, int(rng.choice([3, 4, 5, 6, 8, 24, 24, 24])))


def _dented(solid: Triangles, rng: np.random.Generator) -> Triangles:
    """Bends a solid by two smooth waves; equal points move alike, so that it stays closed."""
    for _ in range(2):
        wave, push = rng.normal(0, 1.5, 3), rng.normal(0, 0.12, 3)
        solid = solid + np.sin(solid @ wave + rng.uniform(0, 2 * np.pi))[..., None] * push
    return solid


def _rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A uniformly random rotation; in one of three cases only about the vertical axis."""
    if rng.random() < 1 / 3:
        angle = rng.uniform(0, 2 * np.pi)
        return np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    turned, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = turned * np.sign(np.diag(upper))
    return turned * np.sign(np.linalg.det(turned))


def _mapped(solid: Triangles, scale: float) -> Float[np.ndarray, "face 3 2"]:
    """Texture coordinates from the two axes along which a triangle mainly extends."""
    axis = np.abs(normals(solid)).argmax(axis=1)
    rows = np.arange(len(solid))
    return scale * np.stack([solid[rows, :, (axis + 1) % 3], solid[rows, :, (axis + 2) % 3]], axis=-1)


def _texture(rng: np.random.Generator) -> UInt8[np.ndarray, "h w 4"]:
    """Plain, noise, stripes, dots, checks or a gradient, between two colours; it repeats without a seam."""
    one, two = np.array(draw_colour(rng)), np.array(draw_colour(rng))
    kind = str(rng.choice(["plain", "noise", "stripes", "dots", "checks", "gradient"]))
    x, y = np.meshgrid(np.arange(TEXTURE) / TEXTURE, np.arange(TEXTURE) / TEXTURE)
    repeats = int(rng.integers(1, 5))
    if kind == "noise":
        cells = rng.random((4 * repeats, 4 * repeats)).astype(np.float32)
        tiled = cv2.resize(np.tile(cells, (3, 3)), (3 * TEXTURE, 3 * TEXTURE), interpolation=cv2.INTER_CUBIC)
        share = tiled[TEXTURE : 2 * TEXTURE, TEXTURE : 2 * TEXTURE].astype(float)
    elif kind == "stripes":
        share = ((x * repeats + y * int(rng.integers(-2, 3))) % 1 < rng.uniform(0.2, 0.8)).astype(float)
    elif kind == "dots":
        radius = rng.uniform(0.15, 0.45)
        share = (np.hypot(x * repeats % 1 - 0.5, y * repeats % 1 - 0.5) < radius).astype(float)
    elif kind == "checks":
        share = ((x * 2 * repeats).astype(int) + (y * 2 * repeats).astype(int)) % 2 * 1.0
    elif kind == "gradient":
        share = 0.5 + 0.5 * np.sin(2 * np.pi * (x + int(rng.integers(0, 2)) * y))
    else:
        share = np.zeros_like(x)
    rgb = np.clip(one + share[..., None] * (two - one), 0, 1)
    return np.concatenate([np.round(255 * rgb), np.full((TEXTURE, TEXTURE, 1), 255)], axis=-1).astype(np.uint8)


def _part(
    name: str, points: Triangles, uvs: Float[np.ndarray, "face 3 2"], texture: UInt8[np.ndarray, "h w 4"]
) -> MeshPart:
    corners = np.arange(3 * len(points)).reshape(-1, 3)
    return MeshPart(
        name, points.reshape(-1, 3), corners, uvs.reshape(-1, 2), Material(name, (1.0, 1.0, 1.0), 1.0, texture)
    )
