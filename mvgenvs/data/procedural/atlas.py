"""One texture for a whole car: a panel for each side as seen straight on, drawn in metres."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mvgenvs.data.procedural.solids import Triangles, normals
from mvgenvs.meshes.mesh import Material, MeshPart

SIZE, MARGIN = 512, 3  # pixels; the margin keeps a neighbour's colour out of a panel's mipmaps
Colour = tuple[float, float, float]  # RGB in [0, 1]
# Row, column, height and width of each panel. Left and right are the car's own.
PLACES = {
    "left": (0, 0, 128, 512),
    "right": (128, 0, 128, 512),
    "top": (256, 0, 128, 512),
    "front": (384, 0, 128, 192),
    "rear": (384, 192, 128, 192),
    "wheel": (384, 384, 128, 128),
}


@dataclass(frozen=True, eq=False)
class Panel:
    """A rectangle of the texture. `left`, `right`, `low` and `high` are its edges in metres, as a viewer sees them."""

    pixels: UInt8[np.ndarray, "h w 3"]  # a view into the atlas
    left: float
    right: float  # may be less than `left`: then the axis runs to the viewer's left
    low: float
    high: float

    def place(self, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Points in metres as pixels (column, row) of the panel."""
        height, width = self.pixels.shape[:2]
        shares = (points - [self.left, self.high]) / [self.right - self.left, self.low - self.high]
        return MARGIN + shares.clip(0, 1) * (np.array([width, height]) - 2 * MARGIN)

    def polygon(self, points: object, colour: Colour, alpha: float = 1.0) -> None:
        """Fills a polygon."""
        pixels = np.round(self.place(np.asarray(points, float)) * 16 - 8).astype(np.int32)
        rgb = tuple(255 * value for value in colour)
        if alpha == 1:
            cv2.fillPoly(self.pixels, [pixels], rgb, cv2.LINE_AA, shift=4)
            return
        filled = self.pixels.copy()
        cv2.fillPoly(filled, [pixels], rgb, cv2.LINE_AA, shift=4)
        cv2.addWeighted(filled, alpha, self.pixels, 1 - alpha, 0, dst=self.pixels)

    def rectangle(self, x0: float, x1: float, y0: float, y1: float, colour: Colour) -> None:
        """Fills a rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, stretch: float = 1.0) -> None:
        """Fills a circle, or an ellipse `stretch` times as wide as it is high."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.polygon(np.stack([x + stretch * radius * np.cos(angle), y + radius * np.sin(angle)], -1), colour)

    def lines(self, points: object, colour: Colour, alpha: float = 1.0, thickness: int = 1) -> None:
        """An open line, `thickness` pixels wide."""
        pixels = np.round(self.place(np.asarray(points, float)) * 16 - 8).astype(np.int32)
        drawn = self.pixels.copy()
        rgb = tuple(255 * value for value in colour)
        cv2.polylines(drawn, [pixels], False, rgb, thickness, cv2.LINE_AA, shift=4)
        cv2.addWeighted(drawn, alpha, self.pixels, 1 - alpha, 0, dst=self.pixels)

    def text(self, x: float, y: float, height: float, lettering: str, colour: Colour) -> None:
        """Text of a height in metres, centred, legible to a viewer of the panel."""
        (width, letters), _ = cv2.getTextSize(lettering, cv2.FONT_HERSHEY_SIMPLEX, 1, 3)
        mask = np.zeros((letters + 8, width + 8), np.uint8)
        cv2.putText(mask, lettering, (4, letters + 2), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 3, cv2.LINE_AA)
        rows, columns = self.pixels.shape[:2]
        per_metre = np.array([columns / abs(self.right - self.left), rows / (self.high - self.low)])
        size = np.maximum(np.array([height * mask.shape[1] / mask.shape[0], height]) * per_metre, 2).astype(int)
        small = cv2.resize(mask, tuple(size.tolist()), interpolation=cv2.INTER_AREA)
        column, row = np.round(self.place(np.array([x, y])) - size / 2).astype(int)
        top, left = max(row, 0), max(column, 0)
        small = small[top - row : rows - row, left - column : columns - column]
        if not small.size:
            return
        target = self.pixels[top : top + small.shape[0], left : left + small.shape[1]]
        share = small[..., None] / 255
        target[:] = np.round(target * (1 - share) + share * 255 * np.array(colour))


class Atlas:
    """The texture of a car of a given length, width and height, and where its surfaces lie in it."""

    def __init__(self, length: float, width: float, height: float) -> None:
        self.length = length
        self.pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
        self.texture = np.full((SIZE, SIZE, 4), 255, np.uint8)  # the texture of all parts; see `bake`
        half = width / 2
        spans = {
            "left": (0.0, length, 0.0, height),
            "right": (length, 0.0, 0.0, height),
            "top": (0.0, length, -half, half),
            "front": (half, -half, 0.0, height),
            "rear": (-half, half, 0.0, height),
            "wheel": (-1.0, 1.0, -1.0, 1.0),
        }
        self.panels = {}
        for name, (row, column, rows, columns) in PLACES.items():
            view = self.pixels[row : row + rows, column : column + columns]
            self.panels[name] = Panel(view, *spans[name])

    def bake(self) -> None:
        """Copies what has been drawn into the texture of all parts."""
        self.texture[..., :3] = self.pixels

    def part(self, name: str, triangles: Triangles) -> MeshPart:
        """Painted triangles, each in the colours of the panel that it faces."""
        facing = normals(triangles)
        points = triangles + np.array([0, 0, self.length / 2])
        side, end = np.abs(facing[:, 0]), np.abs(facing[:, 2])
        up = np.abs(facing[:, 1])
        is_side = (side >= end) & (side >= 0.8 * up)
        is_end = ~is_side & (end >= 0.8 * up)
        uvs = np.empty((len(triangles), 3, 2))
        for panel, chosen, axes in (
            ("right", is_side & (facing[:, 0] > 0), (2, 1)),
            ("left", is_side & (facing[:, 0] <= 0), (2, 1)),
            ("front", is_end & (facing[:, 2] < 0), (0, 1)),
            ("rear", is_end & (facing[:, 2] >= 0), (0, 1)),
            ("top", ~is_side & ~is_end, (2, 0)),
        ):
            uvs[chosen] = self._uvs(panel, points[chosen][..., axes])
        return self._textured(name, triangles, uvs)

    def wheel(self, name: str, triangles: Triangles, radius: float) -> MeshPart:
        """A wheel about the x axis through the middle of its triangles, in the colours of the wheel's panel."""
        points = triangles.reshape(-1, 3)
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        return self._textured(name, triangles, self._uvs("wheel", (triangles - middle)[..., [2, 1]] / radius))

    def _uvs(self, panel: str, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        row, column, _, _ = PLACES[panel]
        pixel = self.panels[panel].place(points) + np.array([column, row])
        return pixel / SIZE * np.array([1, -1]) + np.array([0, 1])

    def _textured(self, name: str, triangles: Triangles, uvs: Float[np.ndarray, "face 3 2"]) -> MeshPart:
        return MeshPart(
            name,
            triangles.reshape(-1, 3),
            np.arange(3 * len(triangles)).reshape(-1, 3),
            uvs.reshape(-1, 2),
            Material("paint", (1.0, 1.0, 1.0), 1.0, self.texture),
        )


def plain(name: str, triangles: Triangles, colour: Colour, opacity: float = 1.0) -> MeshPart:
    """Triangles of one colour."""
    indices = np.arange(3 * len(triangles)).reshape(-1, 3)
    return MeshPart(name, triangles.reshape(-1, 3), indices, None, Material(name, colour, opacity))
