"""Only what is listed as ours is replaced or deleted, and one process writes at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvgenvs.errors import UserError
from mvgenvs.files import MACHINE
from mvgenvs.folders import LIST, OwnFolder, foreign_file, sweep

HOLD = """
import sys, time
from mvgenvs.folders import OwnFolder
folder = OwnFolder(sys.argv[1])
folder.add(["mine"])
print("locked", flush=True)
time.sleep(60)
"""


def test_what_is_claimed_may_be_replaced_and_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other")
    with OwnFolder(tmp_path) as folder:
        folder.claim(["report.md", "objects/a.json"])
        (tmp_path / "objects").mkdir()
        for name in ("report.md", "objects/a.json", f".report.md.{MACHINE}-123.unfinished"):
            (tmp_path / name).write_text("ours")
    with OwnFolder(tmp_path) as folder:
        folder.claim(["report.md"])
        folder.remove(["report.md", "objects/a.json", "other.txt"])
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


@pytest.mark.parametrize("name", ["report.md", "objects/a.json"])
def test_a_name_that_others_have_taken_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("other")
    with OwnFolder(tmp_path, "--to") as folder, pytest.raises(UserError, match="choose another --to"):
        folder.claim([name])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_a_folder_made_for_nothing_goes_and_one_that_was_there_stays(tmp_path: Path) -> None:
    with OwnFolder(tmp_path / "new"):
        pass
    (tmp_path / "old").mkdir()
    with OwnFolder(tmp_path / "old"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert not list((tmp_path / "old").iterdir())


def test_a_lock_is_held_against_other_processes_and_ends_with_its_holder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another run is writing"):
            OwnFolder(tmp_path)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with OwnFolder(tmp_path) as folder:
        assert folder.owns("mine")


def test_the_lock_does_not_wait(tmp_path: Path) -> None:
    with OwnFolder(tmp_path):
        begun = time.perf_counter()
        with pytest.raises(UserError, match="another run"):
            OwnFolder(tmp_path)
        assert time.perf_counter() - begun < 1


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    folder = OwnFolder(tmp_path)
    folder._file.close()
    folder._file = Path("/dev/full").open("a")  # noqa: SIM115
    with pytest.raises(UserError, match="No space left on device"):
        folder.claim(["report.md"])
    folder.close()


def test_the_list_is_whole_whenever_a_run_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that was being shortened was empty for a moment, after which our own files were someone else's."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with OwnFolder(tmp_path) as folder:
        folder.claim(["a", "b"])
        (tmp_path / "a").touch()
        monkeypatch.setattr(OwnFolder, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.remove(["b"])
        monkeypatch.undo()
        assert (tmp_path / LIST).read_text() == "a\nb\n"
    with OwnFolder(tmp_path) as folder:
        folder.check(["a"])
        folder.remove(["b"])
        with pytest.raises(UserError, match="another run"):
            OwnFolder(tmp_path)  # the shorter list is locked, too
        folder.add(["c"])
    assert (tmp_path / LIST).read_text() == "a\nc\n"
    assert {path.name for path in tmp_path.iterdir()} == {LIST, "a"}


def test_a_run_that_wrote_nothing_leaves_no_folders(tmp_path: Path) -> None:
    """They stood in the way of the same run, tried again."""
    with OwnFolder(tmp_path) as folder:
        folder.claim(["partial/frames/0.png", "others/1.png"])
        (tmp_path / "partial/frames").mkdir(parents=True)
        (tmp_path / "others").mkdir()
        (tmp_path / "others/mine.txt").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "others"]


def test_what_killed_runs_left_half_written_goes(tmp_path: Path) -> None:
    with OwnFolder(tmp_path) as folder:
        folder.claim(["a.json", "frames/0.png"])
        (tmp_path / "frames").mkdir()
        (tmp_path / "a.json").touch()
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        ours, other = f"{MACHINE}-{dead.pid}.unfinished", f"00000000-{dead.pid}.unfinished"
        left = [f".a.json.{ours}", f"frames/.0.png.{ours}"]
        others = [f".b.{MACHINE}-{os.getpid()}.unfinished", f".b.{other}", ".mine.unfinished", f".a.json.{dead.pid}"]
        for name in [*left, *others]:
            (tmp_path / name).touch()
    with OwnFolder(tmp_path):
        found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert found == {LIST, "a.json", *others}, "a living process's and another machine's stay"


def test_sweeping_leaves_what_is_not_ours(tmp_path: Path) -> None:
    root = tmp_path / "object"
    for name in ("rgb/0.png", "rgb/1.txt", "pose/0.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    ours = {"rgb/0.png", "pose/0.txt"}
    assert foreign_file(root, ours.__contains__) == root / "rgb/1.txt"
    sweep(root, ours.__contains__)
    assert [path for path in root.rglob("*") if path.is_file()] == [root / "rgb/1.txt"]
    assert not (root / "pose").exists()
    sweep(tmp_path / "nowhere", ours.__contains__)
