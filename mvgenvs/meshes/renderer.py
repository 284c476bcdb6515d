"""Renders meshes off-screen with OpenGL: anti-aliased images, mattes, and depth exact at pixel centres.

moderngl opens a context on EGL, so neither a screen nor a GPU is needed: Mesa's software rasteriser draws some tens of
views a second on one core. A GPU with an OpenGL driver is used if there is one. Lights are fixed in the world, surfaces
are matt and two-sided, the background is white.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mvgenvs.cameras import Cameras
from mvgenvs.meshes.egl import open_context
from mvgenvs.meshes.mesh import Mesh, MeshPart
from mvgenvs.meshes.normals import crease_normals
from mvgenvs.meshes.shaders import COLOUR_SHADER, DEPTH_SHADER, VERTEX_SHADER

SUPERSAMPLE = 2  # pixels rendered per pixel and axis, each of `MULTISAMPLE` coverage samples
MULTISAMPLE = 4
SOLID = 0.95  # surfaces of at least this opacity are drawn first and hide what is behind them
SURFACE = 0.15  # least opacity of surfaces in the depth map: windows are in it, fading shadows are not


@dataclass(frozen=True, eq=False)
class RenderedViews:
    """A mesh as the cameras see it."""

    images: UInt8[np.ndarray, "view h w 3"]  # RGB on white
    mask: UInt8[np.ndarray, "view h w"]  # the matte: how much of a pixel's light comes from the object, 0 to 255
    depth: Float[np.ndarray, "view h w"]  # z-depth at the pixel's centre of the first `SURFACE`; 0 if there is none


class Renderer:
    """Draws meshes for cameras of square or oblong images. Use in a `with` block, by one thread."""

    def __init__(self, size: int | tuple[int, int] = 128) -> None:
        """`size` is the side, or (height, width), of the images. Raises `UserError` if OpenGL is not available."""
        self.hw = (size, size) if isinstance(size, int) else size
        height, width = self.hw
        self._gl = open_context()
        self._gl.enable(self._gl.DEPTH_TEST)
        self._colour_program = self._gl.program(vertex_shader=VERTEX_SHADER, fragment_shader=COLOUR_SHADER)
        self._depth_program = self._gl.program(vertex_shader=VERTEX_SHADER, fragment_shader=DEPTH_SHADER)
        fine = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        samples = min(MULTISAMPLE, self._gl.max_samples)
        self._sampled = self._gl.framebuffer(
            [self._gl.renderbuffer(fine, 4, samples=samples)], self._gl.depth_renderbuffer(fine, samples=samples)
        )
        self._resolved = self._gl.framebuffer([self._gl.renderbuffer(fine, 4)])
        self._depth = self._gl.framebuffer(
            [self._gl.renderbuffer((width, height), 1, dtype="f4")], self._gl.depth_renderbuffer((width, height))
        )

    @property
    def device(self) -> str:
        """The renderer by OpenGL's name: "llvmpipe (LLVM 15.0.6, 256 bits)", or a GPU's."""
        return str(self._gl.info["GL_RENDERER"])

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self._gl.release()

    def render(self, mesh: Mesh, cameras: Cameras, lit: bool = True) -> RenderedViews:
        """Draws `mesh` for every camera, whose images must have the renderer's size.

        Unless it is `lit`, its colours are drawn as they are: those of textures that hold the light already.
        """
        if cameras.hw != self.hw:
            raise ValueError(f"the cameras' images are {cameras.hw}, the renderer's {self.hw}")
        low, high = mesh.bounds()
        center, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
        views = []
        with self._uploaded(mesh) as draws:
            for c2w, K in zip(cameras.c2w.double().numpy(), cameras.K.double().numpy(), strict=True):
                w2c = np.linalg.inv(c2w)
                distance = float((w2c[:3, :3] @ center + w2c[:3, 3])[2])
                clip = projection(K, self.hw, max(distance - radius, 0.01 * radius), distance + radius) @ w2c
                image, mask = self._colours(draws, clip, c2w[:3, 3], lit)
                views.append((image, mask, self._depths(draws, clip, c2w)))
        images, masks, depths = (np.stack(part) for part in zip(*views, strict=True))
        return RenderedViews(images, masks, depths)

    def _colours(
        self, draws: list["_Draw"], clip: Float[np.ndarray, "4 4"], eye: Float[np.ndarray, "3"], lit: bool
    ) -> Any:
        gl, program = self._gl, self._colour_program
        self._sampled.use()
        self._sampled.clear(1.0, 1.0, 1.0, 0.0)
        program["clip_from_world"].write(_columns(clip))
        program["eye"].value = tuple(eye)
        program["solid"].value = SOLID
        program["lit"].value = lit
        for draw_solid in (True, False):  # then the glass, which hides nothing, on top
            program["draw_solid"].value = draw_solid
            self._sampled.depth_mask = draw_solid
            if not draw_solid:
                gl.enable(gl.BLEND)
                gl.blend_func = gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ONE, gl.ONE_MINUS_SRC_ALPHA
            for draw in draws:
                if draw_solid or draw.has_glass:
                    draw.texture.use(0)
                    draw.colour.render()
        gl.disable(gl.BLEND)
        self._sampled.depth_mask = True
        gl.copy_framebuffer(self._resolved, self._sampled)
        fine = np.frombuffer(self._resolved.read(components=4), np.uint8)
        height, width = self.hw
        blocks = fine.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE, 4).astype(np.float32)
        pixels = np.round(blocks.mean(axis=(1, 3)))[::-1].astype(np.uint8)  # OpenGL's first row is the lowest
        return pixels[..., :3], pixels[..., 3]

    def _depths(
        self, draws: list["_Draw"], clip: Float[np.ndarray, "4 4"], c2w: Float[np.ndarray, "4 4"]
    ) -> Float[np.ndarray, "h w"]:
        program = self._depth_program
        self._depth.use()
        self._depth.clear(0.0, 0.0, 0.0, 0.0)
        program["clip_from_world"].write(_columns(clip))
        program["eye"].value = tuple(c2w[:3, 3])
        program["forward"].value = tuple(c2w[:3, 2])
        program["surface_opacity"].value = SURFACE
        for draw in draws:
            draw.texture.use(0)
            draw.depth.render()
        values = np.frombuffer(self._depth.read(components=1, dtype="f4"), np.float32)
        return values.reshape(self.hw)[::-1].copy()

    @contextmanager
    def _uploaded(self, mesh: Mesh) -> Iterator[list["_Draw"]]:
        """The mesh in OpenGL's memory: one draw for all parts with the same texture."""
        by_texture: dict[int, list[MeshPart]] = {}
        for part in mesh.parts:
            if len(part.triangles):
                by_texture.setdefault(id(part.material.texture), []).append(part)
        draws, buffers = [], []
        for parts in by_texture.values():
            vertices = np.concatenate([_vertices(part) for part in parts])
            pixels = parts[0].material.texture
            buffer, texture = self._gl.buffer(vertices.tobytes()), self._texture(pixels)
            layout = [(buffer, "3f 3f 2f 4f", "position", "normal", "uv", "paint")]
            depth_layout = [(buffer, "3f 3x4 2f 4f", "position", "uv", "paint")]
            has_glass = any(p.material.opacity < SOLID for p in parts) or (
                pixels is not None and bool((pixels[..., 3] < 255 * SOLID).any())
            )
            draws.append(
                _Draw(
                    self._gl.vertex_array(self._colour_program, layout),
                    self._gl.vertex_array(self._depth_program, depth_layout),
                    texture,
                    has_glass,
                )
            )
            buffers.append(buffer)
        try:
            yield draws
        finally:
            for draw, buffer in zip(draws, buffers, strict=True):
                for thing in (draw.colour, draw.depth, draw.texture, buffer):
                    thing.release()

    def _texture(self, pixels: UInt8[np.ndarray, "h w 4"] | None) -> Any:
        if pixels is None:
            pixels = np.full((1, 1, 4), 255, np.uint8)
        texture = self._gl.texture((pixels.shape[1], pixels.shape[0]), 4, np.ascontiguousarray(pixels[::-1]).tobytes())
        texture.build_mipmaps()
        texture.filter = (self._gl.LINEAR_MIPMAP_LINEAR, self._gl.LINEAR)
        return texture


@dataclass(frozen=True, eq=False)
class _Draw:
    colour: Any  # vertex arrays of the two programs over one buffer
    depth: Any
    texture: Any
    has_glass: bool


def projection(K: Float[np.ndarray, "3 3"], hw: tuple[int, int], near: float, far: float) -> Float[np.ndarray, "4 4"]:
    """OpenGL's clip coordinates from OpenCV camera coordinates; pixel (0, 0) spans [0, 1] x [0, 1]."""
    height, width = hw
    return np.array(
        [
            [2 * K[0, 0] / width, 2 * K[0, 1] / width, 2 * K[0, 2] / width - 1, 0],
            [0, -2 * K[1, 1] / height, 1 - 2 * K[1, 2] / height, 0],
            [0, 0, (far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, 1, 0],
        ]
    )


def _vertices(part: MeshPart) -> Float[np.ndarray, "corner 12"]:
    """Position, normal, texture coordinates and paint (RGBA) of each corner of each triangle."""
    corners = part.triangles.ravel()
    uvs = np.zeros((len(corners), 2)) if part.uvs is None else part.uvs[corners]
    paint = np.tile([*part.material.color, part.material.opacity], (len(corners), 1))
    if part.colors is not None:
        paint[:, :3] *= part.colors[corners]
    normals = crease_normals(part.positions, part.triangles).reshape(-1, 3)
    return np.concatenate([part.positions[corners], normals, uvs, paint], axis=1).astype(np.float32)


def _columns(matrix: Float[np.ndarray, "4 4"]) -> bytes:
    return matrix.T.astype(np.float32).tobytes()
