"""The whole way from views to a textured mesh: `mvgenvs.reconstruct`."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.reconstruction.formats import require_mesh_packages
from mvgenvs.reconstruction.fusion import fuse
from mvgenvs.reconstruction.observations import (
    ObservedViews,
    RenderField,
    check_views,
    observe,
    observed,
    surround_cameras,
)
from mvgenvs.reconstruction.surface import extract_surface
from mvgenvs.reconstruction.texture import paint
from mvgenvs.reconstruction.textured import TexturedMesh


def reconstruct(
    images: Float[Tensor, "view 3 h w"],
    cameras: Cameras,
    depth: Float[Tensor, "_ 1 _ _"] | None = None,
    opacity: Float[Tensor, "_ 1 _ _"] | None = None,
    field: RenderField | None = None,
    resolution: int = 112,
    texture_size: int = 1024,
) -> TexturedMesh:
    """A textured mesh, in the world of the cameras, of an object that these views show.

    images: views in [0, 1] on white, at least three; they give the colours.
    cameras: theirs, unbatched.
    depth, opacity: z-depth in world units, and how opaque each pixel is: the shape, unless there is a field.
    field: renders cameras with a batch axis of 1, such as `partial(pipe.nerf.render, scene)`. The shape is its surface,
        seen from all around; it also gives the colours of what the views do not show.
    resolution: cells along the diagonal of the object's box; about one for each pixel that the object is long.
    texture_size: texels along a side of the texture.

    Raises `UserError` if there are too few views, nothing is opaque, no shape is given, or the extra `mesh` is missing.
    """
    require_mesh_packages("a textured mesh")
    check_views(images, cameras)
    sources = [(images.detach().float().cpu(), cameras.to("cpu"))]
    if field is None:
        shape = observed(images, cameras, depth, opacity)
    else:
        shape = observe(field, surround_cameras())
        sources.append((shape.images, shape.cameras))
    return textured_mesh(shape, sources, resolution, texture_size)


def textured_mesh(
    shape: ObservedViews,
    sources: Sequence[tuple[Float[Tensor, "_ 3 _ _"], Cameras]],
    resolution: int = 112,
    texture_size: int = 1024,
) -> TexturedMesh:
    """The surface of `shape`, painted from views: those of the first source, and of the next where they see nothing.

    Raises `UserError` if nothing is opaque.
    """
    return paint(extract_surface(fuse(shape, resolution)), sources, texture_size)
