"""Every parser of files of others, fed with damage: it gives something valid or its own error, soon, and never else.

Damage is found by hypothesis, from whole files: bytes changed, cut, doubled, and words put in place of others. It is
the same in every run; FUZZ_EXAMPLES=3000 tries more of it, and -rP shows what became of it.
"""

import copy
import itertools
import json
import os
import struct
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
from parsers import HOSTILE, OF_JSON, PARSERS, colmap_binary, compacted, obj, outcome
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mvgenvs.colmap import read_colmap
from mvgenvs.config import load_config
from mvgenvs.data.compact import CompactScenes
from mvgenvs.data.images import read_colour, read_mask
from mvgenvs.data.opencars import packages
from mvgenvs.errors import UserError
from mvgenvs.meshes.files import load_mesh
from mvgenvs.meshes.obj import read_obj, read_obj_in_zip
from mvgenvs.photos import read_image

EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 60)),
    derandomize=True,
    deadline=2000,  # milliseconds
    database=None,
    suppress_health_check=list(HealthCheck),
)


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


def test_pictures_in_an_archive_are_no_larger_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(compacted(tmp_path))
    tensors, metadata = load_file(path), safe_open(path, framework="pt").metadata()
    for claim in (png_of(70_000, 70_000, b""), png_of(12_000, 12_000, zlib.compress(bytes(12_001 * 12_000))), b"x"):
        first = torch.frombuffer(bytearray(claim), dtype=torch.uint8)
        lengths = tensors["lengths"].clone()
        lengths[0] = len(claim)
        others = tensors["bytes"][int(tensors["lengths"][0]) :]
        save_file({**tensors, "lengths": lengths, "bytes": torch.cat([first, others])}, path, metadata)
        with pytest.raises(UserError, match="damaged or missing"):
            CompactScenes(path).load(0)


def test_names_of_others_leave_a_sentence_one_line(tmp_path: Path) -> None:
    of_no_camera = struct.pack("<I", 7) + b"\n\x1b[2m\0"
    (tmp_path / "images.bin").write_bytes(
        colmap_binary(tmp_path).replace(struct.pack("<I", 1) + b"a.png\0", of_no_camera)
    )
    with pytest.raises(UserError) as caught:
        read_colmap(tmp_path)
    assert str(caught.value).isprintable()
    assert str(UserError("a\nb\x1bc é 日本")) == r"a\nb\x1bc é 日本"


@pytest.mark.parametrize("line", ["0 1 0\n3 0 1 7", "0 nan 0\n3 0 1 2", "0 1e999 0\n3 0 1 2"])
def test_triangles_have_vertices_and_these_are_finite(line: str, tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    header = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "a.ply").write_text(f"{header}0 0 0\n1 0 0\n{line}\n")
    with pytest.raises(UserError, match=r"damaged|holds no triangles"):
        load_mesh(tmp_path / "a.ply")


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
