"""Writes videos. The only module that needs PyAV, which is large: training does without."""

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from mvgenvs.files import written
from mvgenvs.media import to_uint8

FPS = 12
MIN_VIDEO_SIDE = 256  # pixels; players show smaller videos as tiny stamps


class VideoWriter:
    """Writes an H.264 MP4 that plays in browsers (yuv420p, index in front), frame by frame, in constant memory.

    A context manager: the file gets its name when the block ends without an error; otherwise nothing is left behind.
    Small frames are enlarged by a whole factor to at least 256 pixels; odd sides lose a pixel.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._writing = written(Path(path))
        self._temporary = self._writing.__enter__()
        try:
            self._container = av.open(
                os.fspath(self._temporary), mode="w", format="mp4", options={"movflags": "+faststart"}
            )
        except OSError as error:
            self._writing.__exit__(type(error), error, error.__traceback__)
            raise
        self._stream: av.VideoStream | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, image: UInt8[np.ndarray, "h w 3"] | Float[Tensor, "3 h w"]) -> None:
        """Appends an RGB frame, 8-bit or in [0, 1]; all frames have the size of the first."""
        pixels = to_uint8(image) if isinstance(image, Tensor) else image
        scale = max(1, -(-MIN_VIDEO_SIDE // min(pixels.shape[:2])))
        if scale > 1:
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LANCZOS4)
        pixels = np.ascontiguousarray(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2], dtype=np.uint8)
        if self._stream is None:
            stream = self._container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "17"})
            stream.height, stream.width, stream.pix_fmt = pixels.shape[0], pixels.shape[1], "yuv420p"
            self._stream = stream
        if pixels.shape[:2] != (self._stream.height, self._stream.width):
            raise ValueError("all frames of a video must have one size")
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if self._stream is None:
                self._temporary.unlink(missing_ok=True)
        except OSError as failure:  # of a full disk; one in the block before it is the first cause
            kind, error, trace = (
                (type(failure), failure, failure.__traceback__) if kind is None else (kind, error, trace)
            )
        self._writing.__exit__(kind, error, trace)
