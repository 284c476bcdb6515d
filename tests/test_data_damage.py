"""Damaged packages, full disks, fields that are missing: one sentence, exit code 2, and nothing lost."""

import errno
import json
import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from build_contents import contents
from debs import write_deb
from fake_source import PACKAGE, TOYS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shapes import obj_text, toy_car
from tiny_data import write_opencars

from mvgenvs.cli import run_script
from mvgenvs.data import compact
from mvgenvs.data import pack as packing
from mvgenvs.data.compact import CompactScenes
from mvgenvs.data.opencars import __main__ as command
from mvgenvs.data.opencars import build as building
from mvgenvs.data.opencars import packages, sh3f
from mvgenvs.data.opencars.build import Recipe, build
from mvgenvs.data.opencars.categories import CATEGORIES
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.sheet import write_credits, write_sheet
from mvgenvs.data.stored import RECORD
from mvgenvs.errors import UserError
from mvgenvs.meshes.renderer import Renderer

RECIPE = Recipe("toys", size=32, views=3, spiral=3)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages of three cars, which the builder knows of."""
    try:
        Renderer(8)
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setitem(CATEGORIES, "toys", TOYS)
    monkeypatch.setattr(command, "CATEGORIES", ("toys",))
    write_toys(tmp_path / "debs", "saloon", "buggy", "estate-red")
    return tmp_path / "debs"


def write_toys(folder: Path, *names: str, version: str = "1.0-1") -> Path:
    files = {f"usr/{name}.obj": obj_text(toy_car()).encode() for name in names}
    return write_deb(folder / f"{PACKAGE}_{version}_all.deb", files, version)


def exit_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of the builder's command, and its error output without progress bars."""
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda: command.main([*words, "--category", "toys"]))
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return stopped.value.code, "\n".join(line for line in lines if line.startswith("error: "))


def test_a_damaged_package_loses_nothing_that_was_built(toys: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    words = ["--output", str(out), "--packages", str(toys), "--size", "32", "--views", "3", "--jobs", "1"]
    command.main([*words, "--category", "toys", "--only", "estate*"])
    before = contents(out)
    deb = write_toys(toys, "saloon", "estate-red", version="2.0-1")  # the newer one is taken
    deb.write_bytes(deb.read_bytes()[:-200])
    code, error = exit_of([*words, "--only", "saloon"], capsys)
    assert code == 2
    assert "toy-cars_2.0-1_all.deb is damaged" in error and error.endswith("fetched anew.")
    assert contents(out) == before
    deb.unlink()
    command.main([*words, "--category", "toys"])  # goes on with the old one
    assert {path: sum_ for path, sum_ in contents(out).items() if "estate" in path}.items() <= contents(out).items()
    assert len(list(out.rglob("metadata.json"))) == 3


def test_a_full_disk_while_unpacking_leaves_the_packages_alone(toys: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    before = contents(toys)
    monkeypatch.setattr(packages.shutil, "copyfileobj", full_disk)
    words = ["--output", str(tmp_path / "out"), "--packages", str(toys)]
    code, error = exit_of(words, capsys)
    assert code == 2
    assert "cannot unpack" in error and "(No space left on device): free space" in error
    assert contents(toys) == before


@pytest.mark.parametrize("write", [write_sheet, write_credits])
def test_a_full_disk_while_writing_the_sheet_leaves_the_old_one(
    toys: Path, tmp_path: Path, monkeypatch, write: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    build(out, toys, RECIPE)
    path = out / "sheet"
    write(out, "toys", path)
    before = path.read_bytes()
    monkeypatch.setattr("PIL.Image.Image.save", full_disk)
    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*sheet \(No space left on device\)"):
        write(out, "toys", path)
    assert path.read_bytes() == before and not list(out.glob(".sheet*"))


@pytest.mark.parametrize("key", ["source", "licence", "attribution"])
def test_credits_that_an_object_lacks_are_told(toys: Path, tmp_path: Path, key: str) -> None:
    out = tmp_path / "out"
    build(out, toys, RECIPE, only="saloon")
    path = out / "toys_test/saloon/metadata.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"saloon/metadata\.json lacks '{key}'"):
        write_credits(out, "toys", out / "toys.md")


def killed(_: object) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def test_a_process_that_is_killed_is_one_sentence(toys: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(building, "_start_worker", killed)
    with pytest.raises(UserError, match="a process was killed while it rendered: run this again, with fewer --jobs"):
        build(tmp_path / "out", toys, RECIPE, jobs=2)
    monkeypatch.undo()
    monkeypatch.setitem(CATEGORIES, "toys", TOYS)
    assert build(tmp_path / "out", toys, RECIPE) == 3


def test_a_package_without_a_version_is_told(tmp_path: Path) -> None:
    deb = write_deb(tmp_path / "cars_1_all.deb", {"a": b""}, version="1")
    from debs import _tar

    control = _tar({"control": b"Package: cars\n"}, "xz")
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": control}
    with deb.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in parts.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    with pytest.raises(UserError, match="does not tell its version"):
        packages.version(deb)


@pytest.mark.parametrize("line", ["modelRotation#1=1 0 0", "modelRotation#1=1 0 0 0 1 0 0 0 one", "model#2=/a.obj"])
def test_a_catalogue_that_is_damaged_is_one_sentence(tmp_path: Path, line: str) -> None:
    library = sh3f.Library("furniture", "a.sh3f", "CC0", "{title}")
    with zipfile.ZipFile(tmp_path / "a.sh3f", "w") as archive:
        archive.writestr(library.catalogue, f"name#1=Table\nmodel#1=/a/a.obj\ncreator#1=x\n{line}\n")
    with pytest.raises(UserError, match=r"cannot read .*a\.sh3f: is the package furniture whole"):
        sh3f.read_library(tmp_path, library)


def without(path: Path, key: str, of_object: bool) -> None:
    """Takes a field out of the header of a packed or a compact file."""
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["mvgenvs"])
    del (content["objects"][1] if of_object else content)[key]
    save_file(load_file(path), path, {"mvgenvs": json.dumps(content)})


@pytest.mark.parametrize("key", [*sorted(RECORD), "arrays", "size", "objects", "arrays of all"])
def test_a_packed_file_that_lacks_a_field_is_one_sentence(tmp_path: Path, key: str) -> None:
    root = write_opencars(tmp_path / "data", {"train": 2}, size=16)
    packing.main([str(root), "--size", "16", "--output", str(tmp_path / "packed")])
    without(tmp_path / "packed/train.safetensors", key.split()[0], key in (*RECORD, "arrays"))
    with pytest.raises(UserError, match=r"train\.safetensors lacks the records of its objects: pack"):
        open_scenes(tmp_path / "packed", "train", 16)


@pytest.mark.parametrize("key", [*sorted(RECORD), "size", "objects"])
def test_a_compact_file_that_lacks_a_field_is_one_sentence(tmp_path: Path, key: str) -> None:
    root = write_opencars(tmp_path / "data", {"train": 2}, size=16)
    compact.main(["pack", str(root), "--size", "16", "--output", str(tmp_path / "out")])
    without(tmp_path / "out/data.safetensors", key, key in RECORD)
    with pytest.raises(UserError, match="lacks the records of its objects: make it again"):
        CompactScenes(tmp_path / "out/data.safetensors")


def test_an_index_of_other_things_is_damaged(toys: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(out, toys, RECIPE, only="saloon")
    for objects in (None, 7):
        index = out / "toys.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"objects": objects}))
        with pytest.raises(UserError, match=r"toys\.json is damaged"):
            build(out, toys, RECIPE, only="saloon")
    assert (out / "toys_test/saloon/metadata.json").exists()
    assert torch.is_tensor(open_scenes(out, "test", 32).load(0).images)
