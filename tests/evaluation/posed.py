"""Views written to folders in every form that `eval.score` reads."""

import struct
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.media import write_png
from mvgenvs.transforms import write_cameras


def write_views(
    folder: Path, images: Float[Tensor, "view 3 h w"], cameras: Cameras, file: str = "cameras.json"
) -> Path:
    """As infer_multiview.py does; `file` may be transforms.json, too."""
    names = [f"frames/{number:03d}.png" for number in range(len(images))]
    _write_images(folder, names, images)
    write_cameras(folder / file, cameras, names)
    return folder


def write_colmap(
    folder: Path,
    images: Float[Tensor, "view 3 h w"],
    cameras: Cameras,
    binary: bool = False,
    model: str = "PINHOLE",
    more: tuple[float, ...] = (),
) -> Path:
    """A sparse model in `folder`/sparse/0, one camera for each image, and the images last to first.

    `more` parameters follow those of a pinhole.
    """
    names = [f"{number:03d}.png" for number in range(len(images))]
    _write_images(folder / "images", names, images)
    sparse = folder / "sparse/0"
    sparse.mkdir(parents=True)
    height, width = cameras.hw
    order = list(reversed(range(len(images))))
    lenses, poses = [], []
    for i in order:
        K = cameras.K[i].double()
        focal = K.diag()[:1] if model.startswith("SIMPLE") else K.diag()[:2]
        lenses.append((i + 1, model, width, height, [*focal.tolist(), *K[:2, 2].tolist(), *more]))
        w2c = torch.linalg.inv(cameras.c2w[i].double())
        poses.append((10 + i, [*_quaternion(w2c[:3, :3].numpy()), *w2c[:3, 3].tolist()], i + 1, names[i]))
    if binary:
        _write_binary(sparse, lenses, poses)
        return folder
    text = "".join(f"{n} {m} {w} {h} {' '.join(map(repr, p))}\n" for n, m, w, h, p in lenses)
    (sparse / "cameras.txt").write_text("# Camera list\n" + text)
    points = ("", "1.5 2.5 -1 3.0 4.0 7")  # none, and two
    text = "".join(f"{n} {' '.join(map(repr, pose))} {lens} {name}\n{points[n % 2]}\n" for n, pose, lens, name in poses)
    (sparse / "images.txt").write_text("# Image list\n" + text)
    return folder


def _write_binary(sparse: Path, lenses: list, poses: list) -> None:
    numbers = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "OPENCV": 4}
    content = struct.pack("<Q", len(lenses))
    for number, model, width, height, parameters in lenses:
        content += struct.pack("<iiQQ", number, numbers[model], width, height)
        content += struct.pack(f"<{len(parameters)}d", *parameters)
    (sparse / "cameras.bin").write_bytes(content)
    content = struct.pack("<Q", len(poses))
    for number, pose, lens, name in poses:
        points = number % 3
        content += struct.pack("<I7dI", number, *pose, lens) + name.encode() + b"\0"
        content += struct.pack("<Q", points) + struct.pack("<ddq", 1.0, 2.0, -1) * points
    (sparse / "images.bin").write_bytes(content)


def _quaternion(rotation: np.ndarray) -> list[float]:
    """w, x, y, z, by way of the axis and the angle."""
    turn = cv2.Rodrigues(rotation)[0][:, 0]
    angle = np.linalg.norm(turn)
    axis = turn / angle if angle > 0 else turn
    return [float(np.cos(angle / 2)), *(axis * np.sin(angle / 2)).tolist()]


def _write_images(folder: Path, names: list[str], images: Float[Tensor, "view 3 h w"]) -> None:
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(folder / name, image)
