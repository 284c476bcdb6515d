"""Every parser of files of others, fed with damage: it gives something valid or its own error, soon, and never else.

Damage is found by hypothesis, from whole files: bytes changed, cut, doubled, and words put in place of others. It is
the same in every run; FUZZ_EXAMPLES=3000 tries more of it, and -rP shows what became of it.
"""

import copy
import io
import itertools
import json
import os
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from debs import write_deb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
from mvgenvs.data.streamed import read_index
from mvgenvs.errors import UserError
from mvgenvs.meshes.ac3d import read_ac3d
from mvgenvs.meshes.md2 import HEADER, read_md2
from mvgenvs.meshes.mesh import Mesh
from mvgenvs.meshes.obj import read_obj, read_obj_in_zip
from mvgenvs.photos import read_image
from mvgenvs.transforms import read_posed_frames, write_cameras

HOSTILE = (
    "", "0", "-1", "1e30", "-1e308", "1e999", "nan", "inf", "99999999999999999999", "1" * 400, "x", "[]", "{}", "null",
    "true", "../../etc/passwd", "/etc/passwd", "\\..\\x", "a" * 300, '"', "\0", "é", "1.5", "-2147483648", "65536",
)  # fmt: skip
EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 60)),
    derandomize=True,
    deadline=2000,  # milliseconds
    database=None,
    suppress_health_check=list(HealthCheck),
)
Seed = Callable[[Path], bytes]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, words: bool) -> bytes:
    """A file with up to four changes; with `words`, some of them put a hostile word in place of one of the file's."""
    data = whole
    for _ in range(draw(st.integers(1, 4))):
        kinds = ["cut", "flip", "double", "insert"] + ["word"] * 6 * words
        kind, at = draw(st.sampled_from(kinds)), draw(st.integers(0, max(0, len(data) - 1)))
        if kind == "cut":
            data = data[:at]
        elif kind == "flip":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif kind == "double":
            data = data[:at] + data[at // 2 :]
        elif kind == "insert":
            data = data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
        else:
            parts = data.split(b" ")
            place = draw(st.integers(0, len(parts) - 1))
            parts[place] = draw(st.sampled_from(HOSTILE)).encode() + (b"\n" if b"\n" in parts[place] else b"")
            data = b" ".join(parts)
    return data


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 0.5, 1e30, -1e30, float("nan"), float("inf"), 10**400, "", "x", "../../x", "\0", [], {}, [[]],
    [1, 2], ["x"], [0.1] * 6, {"a": 1}, "a" * 300, [[1, 0, 0, 0]] * 4,
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """JSON in which up to three values, of any depth, are odd or missing, so that it is JSON still."""
    content = json.loads(whole)
    for _ in range(draw(st.integers(1, 3))):
        at, key = content, None
        while isinstance(at, dict | list) and at:
            keys = sorted(at) if isinstance(at, dict) else range(len(at))
            parent, key = at, draw(st.sampled_from(keys))
            at = parent[key]
            if draw(st.integers(0, 3)) == 0:
                break
        if key is None:
            break
        if draw(st.integers(0, 5)) == 0:
            del parent[key]
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return json.dumps(content).encode()


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


@pytest.mark.parametrize("name", OF_JSON)
def test_odd_values_are_read_or_refused(name: str, tmp_path: Path) -> None:
    seed, file, parse, check = OF_JSON[name]
    whole, path, became = seed(tmp_path), tmp_path / file, Counter[str]()

    @EXAMPLES
    @given(changed(whole))
    def run(data: bytes) -> None:
        path.write_bytes(data)
        became[outcome(lambda: parse(path), check)] += 1

    run()
    print(f"{name}, odd values: {became['read']} read, {became['refused']} refused")


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    seed, file, parse, check, words = PARSERS[name]
    whole, path = seed(tmp_path), tmp_path / file
    path.write_bytes(whole)
    assert outcome(lambda: parse(path), check) == ("refused" if name == "mask" else "read")

    became = Counter[str]()

    @EXAMPLES
    @given(damaged(whole, words))
    def run(data: bytes) -> None:
        path.write_bytes(data)
        became[outcome(lambda: parse(path), check)] += 1

    run()
    print(f"{name}: {became['read']} read, {became['refused']} refused")


# Small files that stand for large ones


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [read_colour, read_image, lambda path: read_mask(path, (1, 1))])
def test_pictures_that_would_fill_the_memory_are_refused_unread(read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of(12_000, 12_000, zlib.compress(bytes(12_001 * 12_000))))
    assert (tmp_path / "a.png").stat().st_size < 200_000
    with pytest.raises(UserError, match="too large"):
        read(tmp_path / "a.png")


def test_members_that_would_fill_the_memory_are_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/car.obj", b"")
    content = (tmp_path / "a.zip").read_bytes()
    claims = content.replace(struct.pack("<III", 0, 2, 0), struct.pack("<III", 0, 2, 1 << 31))
    assert claims != content
    (tmp_path / "a.zip").write_bytes(claims)
    with pytest.raises(UserError, match="is the archive whole"):
        read_obj_in_zip(tmp_path / "a.zip", "m/car.obj")


def test_packages_that_unpack_to_too_much_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_deb(tmp_path / "a.deb", {"usr/a.obj": bytes(100_000), "usr/b.obj": bytes(100_000)}, compression="xz")
    for limit, size in (("MEMBER_BYTES", 99_999), ("ARCHIVE_BYTES", 150_000)):
        with monkeypatch.context() as patch, pytest.raises(UserError, match="more than is sensible"):
            patch.setattr(packages, limit, size)
            packages.unpack(path, ["*.obj"], tmp_path / "out")
        assert [p.name for p in tmp_path.iterdir()] == ["a.deb"]


@pytest.mark.parametrize("name", ["../x.obj", "/x.obj", "usr/../../x.obj", "..\\x.obj", "c:\\x.obj"])
def test_members_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    path = write_deb(tmp_path / "in/a.deb" if (tmp_path / "in").mkdir() is None else tmp_path, {name: b"v 0 0 0"})
    with pytest.raises(UserError, match="outside the folder"):
        packages.unpack(path, ["*"], tmp_path / "in/out")
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.deb"]


@pytest.mark.parametrize("name", ["../secret.png", "{}/secret.png", "a/../../secret.png", "..\\secret.png"])
def test_models_read_no_pictures_from_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "model/a.obj").write_bytes(obj(tmp_path / "model"))
    (tmp_path / "model/a.mtl").write_text(f"newmtl paint\nmap_Kd {name.format(tmp_path)}\n")
    with pytest.raises(UserError, match="there is no texture"):
        read_obj(tmp_path / "model/a.obj")


def test_yaml_that_stands_for_more_than_any_memory_is_refused(tmp_path: Path) -> None:
    pairs = itertools.pairwise("abcdefghijklmnopq")
    bomb = "a: &a [x, x]\n" + "".join(f"{after}: &{after} [*{before}, *{before}]\n" for before, after in pairs)
    others = ("a: &a {b: *a}\n", "[" * 5000, "x: 9999-99-99\n", "? [a]\n: 1\n", "a: !!python/object:os.x {}\n")
    for text in (bomb, *others):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(UserError):
            load_config(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_bytes(b"run:\n  output: caf\xe9\n")
    with pytest.raises(UserError, match="cannot read"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("# " + "x" * 1_000_000)
    with pytest.raises(UserError, match="longer than"):
        load_config(tmp_path / "a.yaml")
