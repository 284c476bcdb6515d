import subprocess
from pathlib import Path

import pytest
from debs import write_deb

from mvgenvs.data.opencars import packages
from mvgenvs.errors import UserError

FILES = {"usr/share/cars/a.obj": b"v 0 0 0\n", "usr/share/cars/b.png": b"\x89PNG", "usr/share/doc/copyright": b"free"}


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_only_the_members_asked_for_are_unpacked(tmp_path, compression):
    deb = write_deb(tmp_path / "cars_1.0-1_all.deb", FILES, compression=compression)
    root = packages.unpack(deb, ["usr/share/*.obj", "usr/share/doc/*"], tmp_path / "out")
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    found.pop(packages.COMPLETE)
    assert found == {name: FILES[name] for name in ("usr/share/cars/a.obj", "usr/share/doc/copyright")}


def test_the_version_is_that_of_the_control_file(tmp_path):
    assert packages.version(write_deb(tmp_path / "cars_x_all.deb", FILES, "2:0.6+dfsg-5")) == "2:0.6+dfsg-5"


def test_a_finished_package_is_not_unpacked_again_and_a_half_one_is_replaced(tmp_path):
    deb = write_deb(tmp_path / "cars_1.0-1_all.deb", FILES)
    root = packages.unpack(deb, ["*.obj"], tmp_path / "out")
    mine = root / "usr/share/cars/a.obj"
    mine.write_bytes(b"mine")
    packages.unpack(deb, ["*.obj"], root)
    assert mine.read_bytes() == b"mine"
    packages.unpack(deb, ["*.obj", "*.png"], root)  # more is asked for: begins anew
    assert mine.read_bytes() == FILES["usr/share/cars/a.obj"]


def test_a_killed_unpacking_begins_anew(tmp_path, monkeypatch):
    deb = write_deb(tmp_path / "cars_1.0-1_all.deb", FILES)
    copy = packages.shutil.copyfileobj

    def killed(source, target):
        copy(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(packages.shutil, "copyfileobj", killed)
        packages.unpack(deb, ["*.obj"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    root = packages.unpack(deb, ["*.obj"], tmp_path / "out")
    assert (root / "usr/share/cars/a.obj").read_bytes() == FILES["usr/share/cars/a.obj"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [deb.name, "out"]


def test_files_of_others_stay_when_a_package_is_unpacked(tmp_path):
    deb = write_deb(tmp_path / "cars_1.0-1_all.deb", FILES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").touch()
    with pytest.raises(UserError, match="out was not unpacked by this program"):
        packages.unpack(deb, ["*.obj"], tmp_path / "out")
    assert (tmp_path / "out/mine.txt").exists()
    root = packages.unpack(deb, ["*.obj"], tmp_path / "new")
    (root / "mine.txt").touch()
    packages.unpack(deb, ["*.obj", "*.png"], root)
    assert (tmp_path / ".new.old/mine.txt").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_package_is_one_sentence(tmp_path, damage):
    deb = write_deb(tmp_path / "cars_1.0-1_all.deb", {f"usr/{i}.obj": bytes(range(256)) * 40 for i in range(20)})
    content = bytearray(deb.read_bytes())
    if damage == "cut":
        content = content[: len(content) * 2 // 3]
    elif damage == "flipped":
        content[-100] ^= 255
    elif damage == "other":
        content = bytearray(b"PK\x03\x04 this is a zip")
    else:
        content = bytearray()
    deb.write_bytes(content)
    with pytest.raises(UserError, match=f"{deb.name} is damaged .*fetched anew"):
        packages.unpack(deb, ["*.obj"], tmp_path / "out")
    assert not (tmp_path / "out" / packages.COMPLETE).exists()


def test_members_that_would_land_outside_are_refused(tmp_path):
    deb = write_deb(tmp_path / "cars_1.0-1_all.deb", {"../evil.obj": b"x"})
    with pytest.raises(UserError, match="outside"):
        packages.unpack(deb, ["*.obj"], tmp_path / "out")
    assert not (tmp_path / "evil.obj").exists()


def test_packages_that_lie_there_are_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched"))
    deb = write_deb(tmp_path / "cars_1.0-1_all.deb", FILES)
    assert packages.fetch(["cars"], tmp_path) == {"cars": deb}


def test_without_apt_one_sentence_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    write_deb(tmp_path / "cars_1.0-1_all.deb", FILES)
    with pytest.raises(UserError, match=rf"put planes_\*_all\.deb of Debian into {tmp_path} .*--packages"):
        packages.fetch(["cars", "planes"], tmp_path)


def test_what_apt_complains_of_is_handed_on(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda _: "/usr/bin/apt-get")
    answer = subprocess.CompletedProcess([], 100, "", "W: hm\nE: Unable to locate package cars\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(UserError, match=r"Unable to locate package cars.*apt-get update"):
        packages.fetch(["cars"], tmp_path)


def test_a_package_has_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    """Half a package, of a full disk or a killed run, was taken for one that lies there."""

    def apt(command, cwd, **_):
        assert Path(cwd) != tmp_path
        write_deb(Path(cwd) / "cars_1.0-1_all.deb", FILES)
        return subprocess.CompletedProcess(command, code, "", "E: No space left on device\n")

    monkeypatch.setattr(packages.shutil, "which", lambda _: "/usr/bin/apt-get")
    monkeypatch.setattr(subprocess, "run", apt)
    code = 100
    with pytest.raises(UserError, match="No space left on device"):
        packages.fetch(["cars"], tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".fetching").mkdir()
    (tmp_path / ".fetching/cars_0.9_all.deb").write_text("left by a killed run")
    code = 0
    assert packages.fetch(["cars"], tmp_path) == {"cars": tmp_path / "cars_1.0-1_all.deb"}
    assert [path.name for path in tmp_path.iterdir()] == ["cars_1.0-1_all.deb"]
