"""Every parser of files of others: a whole file, how it is read, and what must hold of what was read."""

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from debs import write_deb
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import ring_cameras
from tiny_data import toy_views, write_capture, write_opencars

from mvgenvs.colmap import read_colmap
from mvgenvs.config import load_config
from mvgenvs.data.captures import CaptureScenes
from mvgenvs.data.compact import CompactScenes, compact
from mvgenvs.data.images import read_colour, read_depth, read_mask
from mvgenvs.data.opencars import packages
from mvgenvs.data.pack import pack
from mvgenvs.data.packed import PackedScenes
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.shards import write_shards
from mvgenvs.data.streamed import ShardScenes, read_index
from mvgenvs.errors import UserError
from mvgenvs.meshes.ac3d import read_ac3d
from mvgenvs.meshes.files import load_mesh
from mvgenvs.meshes.md2 import HEADER, read_md2
from mvgenvs.meshes.mesh import Mesh
from mvgenvs.meshes.obj import read_obj, read_obj_in_zip
from mvgenvs.photos import read_image
from mvgenvs.transforms import read_posed_frames, write_cameras

HOSTILE = (
    "", "0", "-1", "1e30", "-1e308", "1e999", "nan", "inf", "99999999999999999999", "1" * 400, "x", "[]", "{}", "null",
    "true", "../../etc/passwd", "/etc/passwd", "\\..\\x", "a" * 300, '"', "\0", "é", "1.5", "-2147483648", "65536",
)  # fmt: skip
Seed = Callable[[Path], bytes]


def outcome(parse: Callable[[], object], check: Callable[[object], object]) -> str:
    """What became of it: an error of our own, or something that passes the check; anything else is raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = parse()
    except UserError as error:
        assert "\n" not in str(error) and 0 < len(str(error)) < 1000, "one sentence"
        return "refused"
    check(found)
    return "read"


# What whole files look like


def ac3d(folder: Path) -> bytes:
    return b"""AC3Db
MATERIAL "paint" rgb 1 0 0  amb 0.2 0.2 0.2  emis 0 0 0  spec 1 1 1  shi 10  trans 0
OBJECT world
kids 1
OBJECT poly
name "body"
data 4
abcd
loc 0 1 0
rot 1 0 0 0 1 0 0 0 1
numvert 4
0 0 0
1 0 0
1 1 0
0 1 0
numsurf 2
SURF 0x10
mat 0
refs 3
0 0 0
1 1 0
2 1 1
SURF 0x14
mat 0
refs 4
0 0 0
1 1 0
2 1 1
3 0 1
kids 0
"""


def obj(folder: Path) -> bytes:
    (folder / "a.mtl").write_text("newmtl paint\nKd 1 0 0\nd 0.5\nmap_Kd a.png\n")
    cv2.imwrite(str(folder / "a.png"), np.zeros((4, 4, 3), np.uint8))
    corners = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0.5\nvt 0 0\nvt 1 0\nvt 1 1\n"
    return f"mtllib a.mtl\no car\n{corners}usemtl paint\nf 1/1 2/2 3/3\nf -4 -3 -2 -1\ng rest\nf 1//1 2//1 4\n".encode()


def mtl(folder: Path) -> bytes:
    (folder / "car.obj").write_bytes(obj(folder))
    return b"newmtl paint\nKd 1 0 0\nd 0.5\nTr 0.5\nmap_Kd -s 1 1 1 a.png\nnewmtl other\nKd 0.5\n"


def md2(folder: Path) -> bytes:
    frame = np.array([0.1] * 3 + [0.0] * 3, "<f4").tobytes() + bytes(16) + bytes(range(12))
    blocks = [b"skin".ljust(64, b"\0"), bytes(12), np.array([0, 1, 2, 0, 1, 2], "<u2").tobytes(), frame]
    starts = [HEADER.size + sum(map(len, blocks[:i])) for i in range(5)]
    counts = [1, 3, 3, 1, 0, 1]
    return HEADER.pack(b"IDP2", 8, 8, 8, len(frame), *counts, *starts[:4], starts[4], starts[4]) + b"".join(blocks)


def transforms(folder: Path) -> bytes:
    write_cameras(folder / "transforms.json", ring_cameras(2, 32), ["a.png", "b.png"])
    content = json.loads((folder / "transforms.json").read_text())
    more = {"k1": 0.01, "distortion_params": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "train_filenames": ["a.png"], "k3": 0.0}
    content["frames"][0] |= {"mask_path": "m.png", "depth_path": "d.npy", "is_fisheye": False, "rolling_shutter": [0]}
    return json.dumps(content | more).encode()


def capture(folder: Path) -> bytes:
    return (write_capture(folder / "car", toy_views(1, 2)) / "transforms.json").read_bytes()


def colmap_text(folder: Path) -> bytes:
    (folder / "cameras.txt").write_text("# cameras\n1 PINHOLE 64 48 60 60 32 24\n2 SIMPLE_PINHOLE 64 48 60 32 24\n")
    return b"# images\n1 1 0 0 0 0 0 1 1 a.png\n3 4 -1 5 6 2\n2 0.9 0.1 0 0 0 0.5 1 2 b.png\n\n"


def colmap_cameras(folder: Path) -> bytes:
    (folder / "images.txt").write_bytes(colmap_text(folder))
    return (folder / "cameras.txt").read_bytes()


def colmap_binary(folder: Path) -> bytes:
    lens = struct.pack("<QiiQQ4d", 1, 1, 1, 64, 48, 60, 60, 32, 24)
    (folder / "cameras.bin").write_bytes(lens)
    image = struct.pack("<I7dI", 1, 1, 0, 0, 0, 0, 0, 1, 1) + b"a.png\0" + struct.pack("<Q2dq", 1, 3.0, 4.0, -1)
    return struct.pack("<Q", 1) + image


def colmap_binary_cameras(folder: Path) -> bytes:
    (folder / "images.bin").write_bytes(colmap_binary(folder))
    return (folder / "cameras.bin").read_bytes()


def small_scenes(folder: Path):
    return open_scenes(write_opencars(folder / "data", {"train": 1}, views=2, size=8), "train", 8)


def packed(folder: Path) -> bytes:
    pack(small_scenes(folder), 8, folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


def compacted(folder: Path) -> bytes:
    compact(small_scenes(folder), 2, 80, 8, folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


def index_of_shards(folder: Path) -> bytes:
    write_shards(small_scenes(folder), 8, "train", folder, 1)
    return (folder / "train.shards.json").read_bytes()


def header_of(seed: Seed) -> Seed:
    """The JSON in the header of a safetensors file, which stays beside it as whole.safetensors."""

    def header(folder: Path) -> bytes:
        seed(folder)
        with safe_open(folder / "whole.safetensors", framework="pt") as file:
            return file.metadata()["mvgenvs"].encode()

    return header


def with_header(path: Path) -> Path:
    """The whole file with the header in `path` in place of its own."""
    tensors, target = load_file(path.with_name("whole.safetensors")), path.with_name("train.safetensors")
    save_file(tensors, target, {"mvgenvs": path.read_text()})
    return target


def picture(suffix: str) -> Seed:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 4), np.uint8)
    return lambda folder: cv2.imencode(suffix, pixels[..., :3] if suffix == ".jpg" else pixels)[1].tobytes()


def depth(folder: Path) -> bytes:
    return cv2.imencode(".png", np.arange(1600, dtype=np.uint16).reshape(40, 40))[1].tobytes()


def array(folder: Path) -> bytes:
    np.save(buffer := io.BytesIO(), np.ones((4, 4), np.float32))
    return buffer.getvalue()


def zipped(folder: Path) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/car.obj", obj(folder))
        archive.writestr("m/a.mtl", (folder / "a.mtl").read_bytes())
        archive.writestr("m/a.png", (folder / "a.png").read_bytes())
    return buffer.getvalue()


def deb(folder: Path) -> bytes:
    files = {"usr/share/a.obj": b"v 0 0 0\n" * 20, "usr/share/b.obj": b"f 1 2 3"}
    return write_deb(folder / "whole.deb", files, compression="gz").read_bytes()


def pose(folder: Path) -> bytes:
    write_opencars(folder / "data", {"train": 1}, views=2, size=8)
    return (folder / "data/cars_train/train-0/pose/000000.txt").read_bytes()


def intrinsics(folder: Path) -> bytes:
    pose(folder)
    return (folder / "data/cars_train/train-0/intrinsics.txt").read_bytes()


def metadata(folder: Path) -> bytes:
    pose(folder)
    return (folder / "data/cars_train/train-0/metadata.json").read_bytes()


def read_opencars(path: Path) -> object:
    """The first object of the data set that holds this file."""
    return open_scenes(path.parents[[folder.name for folder in path.parents].index("data")], "train", 8).load(0)


def shard(folder: Path) -> bytes:
    index_of_shards(folder)
    return (folder / "train-000000.tar").read_bytes()


def of_trimesh(suffix: str) -> Seed:
    """A triangle, as trimesh writes it."""

    def seed(folder: Path) -> bytes:
        trimesh = pytest.importorskip("trimesh")
        mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0.5]], [[0, 1, 2]], process=False)
        content = mesh.export(file_type=suffix)
        return content.encode() if isinstance(content, str) else content

    return seed


def settings_file(folder: Path) -> bytes:
    return b"optim:\n  lr: 1e-3\n  steps: 7\n  betas: [0.9, 0.99]\nrun:\n  train: [nerf]\n  output: x\n  seed: 64\n"


# What must hold of what is read


def whole_mesh(mesh: object) -> None:
    assert isinstance(mesh, Mesh)
    for part in mesh.parts:
        assert np.isfinite(part.positions).all()
        assert len(part.triangles) == 0 or 0 <= part.triangles.min() <= part.triangles.max() < len(part.positions)
        assert part.uvs is None or part.uvs.shape == (len(part.positions), 2)


def whole_cameras(found: object) -> None:
    cameras = found[1] if isinstance(found, tuple) else found.cameras  # type: ignore[attr-defined]
    assert cameras.c2w.isfinite().all()
    assert cameras.K.isfinite().all()
    assert (cameras.K[:, [0, 1], [0, 1]] > 0).all()
    assert torch.linalg.det(cameras.c2w[:, :3, :3]).sub(1).abs().max() < 0.1
    assert max(cameras.hw) <= 30_000


def whole_views(found: object) -> None:
    assert found.images.shape[0] == found.cameras.num_views  # type: ignore[attr-defined]
    assert found.images.isfinite().all()  # type: ignore[attr-defined]


def inside(folder: object) -> None:
    assert isinstance(folder, Path)
    assert all(path.resolve().is_relative_to(folder.resolve()) for path in folder.rglob("*"))


def anything(found: object) -> None:
    assert found is not None


def unpacked(path: Path) -> Path:
    return packages.unpack(path, ["*"], path.parent / f"out{len(list(path.parent.iterdir()))}")


SRN = "data/cars_train/train-0"
# By parser: a whole file, its name, how it is read, what must hold, whether it is made of words.
PARSERS: dict[str, tuple[Seed, str, Callable[[Path], object], Callable[[object], object], bool]] = {
    "AC3D": (ac3d, "a.ac", read_ac3d, whole_mesh, True),
    "OBJ": (obj, "a.obj", read_obj, whole_mesh, True),
    "MTL": (mtl, "a.mtl", lambda path: read_obj(path.parent / "car.obj"), whole_mesh, True),
    "MD2": (md2, "a.md2", read_md2, whole_mesh, False),
    "transforms.json": (transforms, "t.json", lambda path: read_posed_frames(path, rectify=True), whole_cameras, True),
    "cameras.json": (transforms, "t.json", read_posed_frames, whole_cameras, True),
    "capture": (
        capture, "car/transforms.json", lambda path: CaptureScenes(path.parent, "train", 16).load(0), whole_views, True,
    ),
    "COLMAP images.txt": (colmap_text, "images.txt", lambda path: read_colmap(path.parent), whole_cameras, True),
    "COLMAP cameras.txt": (colmap_cameras, "cameras.txt", lambda path: read_colmap(path.parent), whole_cameras, True),
    "COLMAP images.bin": (colmap_binary, "images.bin", lambda path: read_colmap(path.parent), whole_cameras, False),
    "COLMAP cameras.bin": (
        colmap_binary_cameras, "cameras.bin", lambda path: read_colmap(path.parent), whole_cameras, False,
    ),
    "packed": (
        packed, "train.safetensors", lambda path: PackedScenes(path.parent, "train", 8).load(0), whole_views, True,
    ),
    "compact": (compacted, "c.safetensors", lambda path: CompactScenes(path).load(0), whole_views, True),
    "shards' index": (index_of_shards, "train.shards.json", read_index, anything, True),
    "shard": (
        shard, "train-000000.tar", lambda path: ShardScenes(path.parent, "train", 8).load(0), whole_views, False,
    ),
    "SRN pose": (pose, f"{SRN}/pose/000000.txt", read_opencars, whole_views, True),
    "SRN intrinsics": (intrinsics, f"{SRN}/intrinsics.txt", read_opencars, whole_views, True),
    "SRN metadata": (metadata, f"{SRN}/metadata.json", read_opencars, whole_views, True),
    "glTF": (of_trimesh("glb"), "a.glb", load_mesh, whole_mesh, False),
    "PLY": (of_trimesh("ply"), "a.ply", load_mesh, whole_mesh, False),
    "STL": (of_trimesh("stl"), "a.stl", load_mesh, whole_mesh, False),
    "OFF": (of_trimesh("off"), "a.off", load_mesh, whole_mesh, True),
    "PNG": (picture(".png"), "a.png", read_colour, anything, False),
    "WebP": (picture(".webp"), "a.webp", read_colour, anything, False),
    "JPEG": (picture(".jpg"), "a.jpg", lambda path: read_image(path), anything, False),
    "PNG photo": (picture(".png"), "a.png", lambda path: read_image(path), anything, False),
    "mask": (depth, "a.png", lambda path: read_mask(path, (40, 40)), anything, False),
    "depth": (depth, "a.png", lambda path: read_depth(path, (40, 40)), anything, False),
    "npy": (array, "a.npy", lambda path: read_depth(path, (4, 4)), anything, True),
    "zip": (zipped, "a.zip", lambda path: read_obj_in_zip(path, "m/car.obj"), whole_mesh, False),
    "deb": (deb, "a.deb", unpacked, inside, False),
    "YAML": (settings_file, "a.yaml", load_config, anything, True),
}  # fmt: skip


# Those whose files are JSON, which damage of their bytes would hardly leave so.
OF_JSON: dict[str, tuple[Seed, str, Callable[[Path], object], Callable[[object], object]]] = {
    "transforms.json": (transforms, "t.json", lambda path: read_posed_frames(path, rectify=True), whole_cameras),
    "cameras.json": (transforms, "t.json", read_posed_frames, whole_cameras),
    "capture": (
        capture, "car/transforms.json", lambda path: CaptureScenes(path.parent, "train", 16).load(0), whole_views,
    ),
    "shards' index": (index_of_shards, "train.shards.json", read_index, anything),
    "packed": (
        header_of(packed), "h.json", lambda path: PackedScenes(with_header(path).parent, "train", 8).load(0),
        whole_views,
    ),
    "compact": (header_of(compacted), "h.json", lambda path: CompactScenes(with_header(path)).load(0), whole_views),
}  # fmt: skip
