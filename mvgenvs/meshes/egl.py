"""OpenGL without a screen: a context on the first EGL device that is a GPU, or else on Mesa's software rasteriser."""

import functools
import os
from typing import Any

from mvgenvs.errors import UserError

SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")  # in the names of software renderers
CHOICE = "GLCONTEXT_DEVICE_INDEX"  # the variable by which users choose a device themselves, read by glcontext
MOST = 16  # devices to try; a machine has one for each GPU, and some have others for display or software
MISSING_LIBRARY = (
    "cannot open an OpenGL context on EGL ({}): on Debian or Ubuntu install libegl1, libgl1 and libgl1-mesa-dri"
)


def open_context() -> Any:
    """A moderngl context. Raises `UserError` if moderngl or OpenGL is not available."""
    # One core for each process, since the builder runs several. Must be set before Mesa starts.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    return _create(None if CHOICE in os.environ else best_device())


@functools.cache
def best_device() -> int:
    """The number of the first device that is a GPU, else of the first that works at all, else 0.

    Devices that fail are skipped: a GPU may be visible although we may not use it.
    """
    working = []
    for index in range(MOST):
        try:
            context = _create(index)
        except UserError:
            continue
        name = str(context.info["GL_RENDERER"]).lower()
        context.release()
        if not any(word in name for word in SOFTWARE):
            return index
        working.append(index)
    return working[0] if working else 0


def _create(device: int | None) -> Any:
    try:
        import moderngl
    except ImportError as error:
        raise UserError("rendering meshes needs moderngl: run `pip install 'mvgenvs[render]'`") from error
    options: Any = {"backend": "egl", "libgl": "libGL.so.1", "libegl": "libEGL.so.1", "device_index": device}
    try:
        return moderngl.create_context(standalone=True, require=330, **options)
    except Exception as error:  # glcontext raises plain Exceptions, whatever is missing
        raise UserError(MISSING_LIBRARY.format(str(error).rstrip("."))) from error
