"""Variants of a car: different body paint and proportions; glass, tyres and lights stay as they are."""

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mvgenvs.meshes.mesh import Mesh, MeshPart

STRETCH = 0.08  # proportions change by up to this share along each axis
# Words in the names of parts and materials that are not painted with the body.
UNPAINTED = (
    "glass", "window", "windscreen", "windshield", "vitre", "tyre", "tire", "wheel", "rim", "rubber", "pneu", "light",
    "lamp", "chrome", "mirror", "plate", "interior", "seat", "black", "driver",
)  # fmt: skip


def repainted(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """A variant of a car that is y-up with its front to -z, at any scale."""
    turn, strength, brightness = rng.uniform(0.08, 0.92), rng.uniform(0.35, 0.9), rng.uniform(0.6, 1.25)
    tint = rng.uniform()
    stretch = rng.uniform(1 - STRETCH, 1 + STRETCH, 3)
    textures: dict[int, UInt8[np.ndarray, "h w 4"]] = {}  # one array may serve many parts, before and after

    def paint(rgb: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        return _paint(rgb, turn, tint, strength, brightness)

    def painted(part: MeshPart) -> MeshPart:
        material = part.material
        names = f"{part.name} {material.name}".lower()
        if material.opacity < 0.95 or any(word in names for word in UNPAINTED):
            return part
        texture = material.texture
        if texture is None:
            red, green, blue = paint(np.array(material.color)).tolist()
            return replace(part, material=replace(material, color=(red, green, blue)))
        if id(texture) not in textures:
            colours = paint(texture[..., :3].astype(np.float32) / 255)
            textures[id(texture)] = np.concatenate([np.round(colours * 255).astype(np.uint8), texture[..., 3:]], -1)
        return replace(part, material=replace(material, texture=textures[id(texture)]))

    return replace(mesh, parts=tuple(_stretched(painted(part), stretch) for part in mesh.parts))


def _paint(
    rgb: Float[np.ndarray, "*n 3"], turn: float, tint: float, strength: float, brightness: float
) -> Float[np.ndarray, "*n 3"]:
    """Rotates hues by `turn` of a circle; bright greys (white, silver) get the hue `tint`; dark greys stay."""
    flat = rgb.reshape(-1, 1, 3).astype(np.float32)
    hue, saturation, value = np.moveaxis(cv2.cvtColor(flat, cv2.COLOR_RGB2HSV), -1, 0)  # hue in degrees
    grey = saturation < 0.15
    body = ~grey | (value > 0.35)
    hue = np.where(grey, 360 * tint, (hue + 360 * turn) % 360)
    saturation = np.where(grey & body, strength, saturation)
    value = np.where(body, np.clip(value * brightness, 0, 1), value)
    turned = cv2.cvtColor(np.stack([hue, saturation, value], axis=-1).astype(np.float32), cv2.COLOR_HSV2RGB)
    return turned.reshape(rgb.shape).clip(0, 1)


def _stretched(part: MeshPart, stretch: Float[np.ndarray, "3"]) -> MeshPart:
    """Stretches a part with the car; a single wheel moves with it, and stays round."""
    plain = replace(part, positions=part.positions * stretch)
    if not part.name.startswith("wheel") or not len(part.triangles):
        return plain
    used = part.positions[np.unique(part.triangles)]
    center, size = (used.min(axis=0) + used.max(axis=0)) / 2, np.ptp(used, axis=0)
    if size[2] > 1.3 * size[1]:  # several wheels in one part
        return plain
    round_stretch = np.array([stretch[0], np.sqrt(stretch[1] * stretch[2]), np.sqrt(stretch[1] * stretch[2])])
    return replace(part, positions=(part.positions - center) * round_stretch + center * stretch)
