"""Cameras of COLMAP's sparse models, in text or binary form: cameras.txt and images.txt, or .bin.

COLMAP's cameras have OpenCV axes and pixel centres at +0.5, like ours; its poses map world to camera. Formats:
colmap.github.io/format.html. Only pinhole models are read: COLMAP's `image_undistorter` makes them of any other.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.limits import check_bytes

# The models in the order of their numbers in binary files.
MODELS = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE",
)  # fmt: skip
PARAMETERS = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4}  # f, cx, cy; fx, fy, cx, cy
NAMES = ("cameras", "images")
LONGEST = 30_000  # pixels of an image's side
FARTHEST = 1e7  # in a pose
POINT_BYTES = 24  # x, y, number of the 3-D point

T = TypeVar("T")


@dataclass(frozen=True)
class _Lens:
    size: tuple[int, int]  # height, width
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class _Image:
    name: str
    quaternion: tuple[float, ...]  # w, x, y, z; world to camera
    translation: tuple[float, ...]
    lens: int


def is_model(folder: Path) -> bool:
    """Whether the folder holds a sparse model."""
    return _suffix(folder) is not None


def read_colmap(folder: Path) -> tuple[list[str], Cameras]:
    """The names of a sparse model's images, in alphabetic order, and their cameras.

    Raises `UserError` if the model is damaged, its cameras are no pinholes, or its images differ in size.
    """
    suffix = _suffix(folder)
    if suffix is None:
        raise UserError(f"{folder} holds no COLMAP model: it needs cameras and images, both .bin or both .txt")
    paths = [folder / f"{name}{suffix}" for name in NAMES]
    read_lenses, read_images = (_text_lenses, _text_images) if suffix == ".txt" else (_binary_lenses, _binary_images)
    lenses = dict(_explained(paths[0], read_lenses))
    images = sorted(_explained(paths[1], read_images), key=lambda image: image.name)
    if not images:
        raise UserError(f"{paths[1]} holds no images")
    for image in images:
        if image.lens not in lenses:
            raise UserError(f"{paths[1]}: image {image.name} has camera {image.lens}, which {paths[0].name} lacks")
    sizes = {lenses[image.lens].size for image in images}
    if len(sizes) > 1:
        raise UserError(f"{paths[0]}: the images differ in size, and must not")
    K = torch.stack([_intrinsics(lenses[image.lens]) for image in images])
    c2w = torch.stack([_pose(image, paths[1]) for image in images])
    return [image.name for image in images], Cameras(c2w, K, sizes.pop())


def _suffix(folder: Path) -> str | None:
    """Binary files come first, as in COLMAP."""
    whole = (suffix for suffix in (".bin", ".txt") if all((folder / f"{name}{suffix}").is_file() for name in NAMES))
    return next(whole, None)


def _explained(path: Path, read: Callable[[Path], Iterator[T]]) -> list[T]:
    try:
        check_bytes(path)
        return list(read(path))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, struct.error, IndexError, MemoryError, OverflowError):
        raise UserError(f"{path} is damaged, or not in COLMAP's format") from None


def _lens(model: str, width: int, height: int, parameters: tuple[float, ...]) -> _Lens:
    if len(parameters) != PARAMETERS[model] or not 1 <= min(width, height) <= max(width, height) <= LONGEST:
        raise ValueError
    focal, centre = parameters[:-2], parameters[-2:]
    if not all(1e-3 <= f <= 1e7 for f in focal) or not all(abs(c) <= 1e7 for c in centre):
        raise ValueError
    return _Lens((height, width), parameters)


def _check_model(model: str, path: Path) -> None:
    if model not in PARAMETERS:
        raise UserError(
            f"{path}: the camera model {model} is not supported, only {' and '.join(PARAMETERS)} are: run COLMAP's "
            "image_undistorter"
        )


def _text_lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _text_lenses(path: Path) -> Iterator[tuple[int, _Lens]]:
    for line in _text_lines(path):
        if not line.strip():
            continue
        number, model, width, height, *parameters = line.split()
        _check_model(model, path)
        yield int(number), _lens(model, int(width), int(height), tuple(map(float, parameters)))


def _text_images(path: Path) -> Iterator[_Image]:
    """Each image has two lines; the second holds its points, and may be empty."""
    lines = iter(_text_lines(path))
    for line in lines:
        if not line.strip():
            continue
        _, *pose, lens, name = line.split(maxsplit=9)
        if len(pose) != 7:
            raise ValueError
        values = tuple(map(float, pose))
        yield _Image(name.strip(), values[:4], values[4:], int(lens))
        if len(list(map(float, next(lines, "").split()))) % 3:
            raise ValueError


def _binary_lenses(path: Path) -> Iterator[tuple[int, _Lens]]:
    content = path.read_bytes()
    (count,) = struct.unpack_from("<Q", content)
    at = 8
    for _ in range(count):
        number, model, width, height = struct.unpack_from("<iiQQ", content, at)
        name = MODELS[model] if 0 <= model < len(MODELS) else f"number {model}"
        _check_model(name, path)
        parameters = struct.unpack_from(f"<{PARAMETERS[name]}d", content, at + 24)
        at += 24 + 8 * len(parameters)
        yield number, _lens(name, width, height, parameters)


def _binary_images(path: Path) -> Iterator[_Image]:
    content = path.read_bytes()
    (count,) = struct.unpack_from("<Q", content)
    at = 8
    for _ in range(count):
        _, *pose, lens = struct.unpack_from("<I7dI", content, at)
        at += 64
        end = content.index(b"\0", at)
        name = content[at:end].decode()
        (points,) = struct.unpack_from("<Q", content, end + 1)
        at = end + 9 + POINT_BYTES * points
        yield _Image(name, tuple(pose[:4]), tuple(pose[4:]), lens)


def _intrinsics(lens: _Lens) -> Float[Tensor, "3 3"]:
    *focal, cx, cy = lens.parameters
    return torch.tensor([[focal[0], 0, cx], [0, focal[-1], cy], [0, 0, 1]], dtype=torch.float32)


def _pose(image: _Image, path: Path) -> Float[Tensor, "4 4"]:
    """The camera-to-world matrix."""
    q = torch.tensor(image.quaternion, dtype=torch.float64)
    t = torch.tensor(image.translation, dtype=torch.float64)
    if not (q.isfinite().all() and (t.abs() < FARTHEST).all() and 0.5 < q.norm() < FARTHEST):
        raise UserError(f"{path}: the pose of {image.name} is not a rotation and a translation of finite numbers")
    w, x, y, z = (q / q.norm()).tolist()
    turned = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3], c2w[:3, 3] = turned.T, -turned.T @ t
    return c2w.float()
