"""Triangles of simple surfaces. A surface is an array of triangles, all facing outwards; they share no vertices."""

import numpy as np
from jaxtyping import Float

Triangles = Float[np.ndarray, "_ 3 3"]


def grid(points: Float[np.ndarray, "row column 3"]) -> Triangles:
    """The quads between rows and columns of points; columns x rows points to the outside.

    Triangles without area, as at poles, are left out.
    """
    a, b, c, d = points[:-1, :-1], points[:-1, 1:], points[1:, 1:], points[1:, :-1]
    triangles = np.stack([np.stack([a, b, c], axis=-2), np.stack([a, c, d], axis=-2)]).reshape(-1, 3, 3)
    return triangles[np.linalg.norm(np.cross(*_edges(triangles)), axis=-1) > 1e-13]


def strip(outer: Float[np.ndarray, "n 3"], inner: Float[np.ndarray, "n 3"]) -> Triangles:
    """The ring between two closed outlines."""
    return grid(np.stack([np.concatenate([line, line[:1]]) for line in (outer, inner)]))


def fan(outline: Float[np.ndarray, "n 3"], center: Float[np.ndarray, "3"]) -> Triangles:
    """The surface inside a closed outline."""
    return np.stack([outline, np.roll(outline, -1, axis=0), np.broadcast_to(center, outline.shape)], axis=1)


def lathe(profile: Float[np.ndarray, "n 2"], segments: int) -> Triangles:
    """Rotates a line of (x, radius), with the outside on its left, about the x axis."""
    angle = np.linspace(2 * np.pi, 0, segments + 1)
    x, radius = profile[:, :1], profile[:, 1:]
    points = np.stack([x + 0 * angle, radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return grid(points)


def box(center: tuple[float, ...], half: tuple[float, ...]) -> Triangles:
    """A box along the axes."""
    square = np.array([[[-1, -1], [1, -1]], [[-1, 1], [1, 1]]], float)  # row, column, (first, second axis)
    faces = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            points = np.empty((2, 2, 3))
            points[..., axis] = sign
            points[..., [(axis + 1) % 3, (axis + 2) % 3]] = square if sign > 0 else square[:, ::-1]
            faces.append(grid(points))
    return np.concatenate(faces) * np.array(half) + np.array(center)


def ellipsoid(center: tuple[float, ...], half: tuple[float, ...], segments: int = 10) -> Triangles:
    """An ellipsoid with axes along those of the world."""
    latitude = np.linspace(0, np.pi, segments // 2 + 2)
    profile = np.stack([-np.cos(latitude), np.sin(latitude)], axis=-1)
    return lathe(profile[::-1], segments) * np.array(half) + np.array(center)


def tube(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"], radius: float, sides: int = 6) -> Triangles:
    """A closed cylinder between two points."""
    length = float(np.linalg.norm(end - start))
    profile = np.array([[length, 0], [length, radius], [0, radius], [0, 0]])
    ahead = (end - start) / length
    aside = np.cross(ahead, np.eye(3)[np.abs(ahead).argmin()])
    aside /= np.linalg.norm(aside)
    return lathe(profile, sides) @ np.stack([ahead, aside, np.cross(ahead, aside)]) + start


def torus(ring: float, thickness: float, segments: int = 20) -> Triangles:
    """A ring of radius 1 - thickness about the y axis, scaled by `ring`."""
    around, across = np.meshgrid(*[np.linspace(0, 2 * np.pi, n + 1) for n in (segments, segments // 2)], indexing="ij")
    radius = 1 - thickness + thickness * np.cos(across)
    points = np.stack([radius * np.cos(around), thickness * np.sin(across), -radius * np.sin(around)], axis=-1)
    return grid(ring * points.swapaxes(0, 1))


def mirrored(triangles: Triangles) -> Triangles:
    """The same on the other side of the plane x = 0."""
    return (triangles * np.array([-1.0, 1, 1]))[:, ::-1]


def both_sides(triangles: Triangles) -> Triangles:
    """The triangles and their mirror images."""
    return np.concatenate([triangles, mirrored(triangles)])


def normals(triangles: Triangles) -> Float[np.ndarray, "_ 3"]:
    """Unit normals; zero where a triangle has no area."""
    normal = np.cross(*_edges(triangles))
    return normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)


def volume(triangles: Triangles) -> float:
    """The volume of a closed surface; negative if it is inside out."""
    return float(np.linalg.det(triangles).sum() / 6)


def _edges(triangles: Triangles) -> tuple[Float[np.ndarray, "_ 3"], Float[np.ndarray, "_ 3"]]:
    return triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
