"""Each kind of fault, tried on a job: afterwards the same command must finish, as if there had been none."""

import contextlib
import errno
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import load_file, save_file

from campaign.children import (
    End,
    Fault,
    attempt,
    finish,
    jumping_clock,
    killed_at,
    no_file_beyond,
    no_memory_beyond,
    refused_from,
    start,
)
from campaign.jobs import Job
from mvgenvs.parts import checkpoints

KILLED, REFUSED = -9, 2


class Trials:
    """Tries faults on one job, in folders below `work`, and counts what became of them."""

    def __init__(self, name: str, job: Job, work: Path, seed: int = 0) -> None:
        self.name, self.job, self.work = name, job, work / f"trials-{name}"
        self.rng = random.Random(f"{name} {seed}")
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._number = 0
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        whole = self.work / "whole"
        end = attempt(job.run, whole)
        assert end.code == 0, end.output
        self.seconds, self.expected, self.names = end.seconds, job.digest(whole), names(whole)

    def folder(self) -> Path:
        self._number += 1
        return self.work / f"out-{self._number:03d}"

    def judge(self, what: str, folder: Path) -> None:
        """The same command, undisturbed: it must finish, with the same results, and leave nothing else."""
        self.counts[what] += 1
        end = attempt(self.job.run, folder)
        if end.code:
            self.problem(what, f"does not go on: {end.output[-2000:]}")
        else:
            self.compare(what, folder)
        shutil.rmtree(folder, ignore_errors=True)

    def compare(self, what: str, folder: Path) -> None:
        found = self.job.digest(folder)
        if differing := sorted(name for name in found | self.expected if found.get(name) != self.expected.get(name)):
            self.problem(what, f"{len(differing)} results differ, {differing[:4]}")
        if left := sorted(names(folder) - self.names):
            self.problem(what, f"leaves {left[:4]}")

    def problem(self, what: str, text: str) -> None:
        self.problems.append(f"{self.name}, {what}: {text}")
        print(f"PROBLEM {self.problems[-1]}", flush=True)

    def refused(self, what: str, end: End) -> None:
        """A run that cannot go on must say so in one sentence."""
        if end.code == 0:
            self.counts[f"{what}, not in the way"] += 1
        elif end.code != REFUSED or "Traceback" in end.output:
            self.problem(what, f"ends with code {end.code}: {end.output[-2500:]}")

    # Kills

    def kills(self, count: int, at_changes: bool) -> None:
        """Kills at random moments, or just before random changes of files, up to three for each folder."""
        changes = 40
        while count > 0:
            folder = self.folder()
            for _ in range(min(count, self.rng.randint(1, 3))):
                if at_changes:
                    end = attempt(self.job.run, folder, killed_at(self.rng.randrange(changes)))
                else:
                    end = attempt(self.job.run, folder, kill_after=self.rng.uniform(0.05, 1) * self.seconds)
                if end.code != KILLED:
                    if end.code != 0:
                        self.problem("kill", f"ends with code {end.code}: {end.output[-2000:]}")
                    changes = max(5, changes // 2)
                    break
                self.counts["kills at changes" if at_changes else "kills at moments"] += 1
                count -= 1
            self.judge("killed runs", folder)

    def little_memory(self, mebibytes: int) -> None:
        """The job must do with so much memory, and give the same."""
        folder = self.folder()
        end = attempt(self.job.run, folder, no_memory_beyond(mebibytes))
        self.counts["in little memory"] += 1
        if end.code:
            self.problem("memory", f"cannot do with {mebibytes} MiB: {end.output[-2000:]}")
        else:
            self.compare("memory", folder)

    # A disk that is full, or read only

    def refusals(self, what: str, faults: dict[str, Fault]) -> None:
        for name, fault in faults.items():
            folder = self.folder()
            self.refused(f"{what}, {name}", attempt(self.job.run, folder, fault))
            self.judge(what, folder)

    def full_from_changes(self, numbers: list[int]) -> None:
        self.refusals("disk full from a change on", {f"{number}": refused_from(number) for number in numbers})

    def full_for_files(self, rooms: list[int]) -> None:
        self.refusals("no room for a file", {f"{room} bytes": no_file_beyond(room) for room in rooms})

    def full_disks(self, count: int) -> None:
        """A small disk of its own, of a random size; then the same disk, larger. Needs the right to mount one."""
        used = sum(path.stat().st_size for path in (self.work / "whole").rglob("*") if path.is_file()) // 1024
        for _ in range(count):
            room = self.rng.randint(4, max(8, int(1.2 * used)))
            with disk(self.work / "disk", room) as place:
                if place is None:
                    return
                self.refused(f"full disk of {room} KiB", attempt(self.job.run, place / "out"))
                subprocess.run(["mount", "-o", "remount,size=512m", str(place)], check=True)
                self.judge("full disks", place / "out")

    def read_only(self) -> None:
        with disk(self.work / "disk", 1024) as place:
            if place is None:
                return
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            end = attempt(self.job.run, place / "out")
            self.refused("read-only disk", end)
            if end.code == 0:
                self.problem("read-only disk", "says nothing")
            subprocess.run(["mount", "-o", "remount,rw,size=512m", str(place)], check=True)
            self.judge("read-only disks", place / "out")

    # Others

    def two_runs(self) -> None:
        """The second of two runs in one folder is refused, and does not disturb the first."""
        folder = self.folder()
        child = start(self.job.run, folder)
        time.sleep(0.4 * self.seconds)
        end = attempt(self.job.run, folder)
        first = finish(child)
        if first.code:
            self.problem("two runs", f"the first ends with code {first.code}: {first.output[-1500:]}")
        if end.code != REFUSED or "another run" not in end.sentence:
            self.problem("two runs", f"the second ends with code {end.code}: {end.output[-1500:]}")
        self.compare("two runs", folder)
        self.counts["two runs"] += 1

    def clock(self) -> None:
        folder = self.folder()
        end = attempt(self.job.run, folder, jumping_clock(self.rng.randrange(1000)))
        if end.code:
            self.problem("jumping clock", end.output[-1500:])
        self.judge("jumping clocks", folder)

    def killed_worker(self, run: Callable[[Path], object]) -> None:
        """One of the processes that `run`, the job with such, has started is killed."""
        folder = self.folder()
        child = start(run, folder)
        worker = None
        while worker is None and os.waitid(os.P_PID, child.number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.05)
            worker = next(iter(children_of(child.number)), None)
        time.sleep(0.2 * self.seconds)
        if worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        end = finish(child)
        self.refused("killed worker", end)
        if end.code and (end.code != REFUSED or "was killed" not in end.output):
            self.problem("killed worker", f"is not told: {end.code} {end.output[-1500:]}")
        self.judge("killed workers", folder)

    def damaged_checkpoints(self, kinds: dict[str, Callable[[Path], None]]) -> None:
        """The newest checkpoint of a stopped run is damaged: the one before it is taken, and said."""
        stopped = self.folder()
        while True:
            shutil.rmtree(stopped, ignore_errors=True)
            end = attempt(self.job.run, stopped, kill_after=self.rng.uniform(0.6, 0.9) * self.seconds)
            if end.code == KILLED and len(checkpoints(stopped)) > 1:
                break
        for name, damage in kinds.items():
            folder = self.folder()
            shutil.copytree(stopped, folder)
            newest = checkpoints(folder)[-1]
            damage(newest)
            end = attempt(self.job.run, folder)
            if end.code:
                self.problem(f"checkpoint with {name}", f"ends with code {end.code}: {end.output[-1500:]}")
            else:
                if f"{newest.name} is damaged" not in end.output:
                    self.problem(f"checkpoint with {name}", "was not found to be damaged")
                self.compare(f"checkpoint with {name}", folder)
            self.counts["damaged checkpoints"] += 1
            shutil.rmtree(folder)


def names(folder: Path) -> set[str]:
    """All files, hidden ones too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".mvgenvs"}


def children_of(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in found.read_text().split()] if found.exists() else []


@contextlib.contextmanager
def disk(place: Path, kibibytes: int) -> Iterator[Path | None]:
    """A disk of that size, mounted at `place`; None where that is not allowed."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(place)]
    try:
        made = subprocess.run(command, capture_output=True).returncode == 0
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM):
            raise
        made = False
    try:
        yield place if made else None
    finally:
        if made:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def cut(name: str) -> Callable[[Path], None]:
    """Half of a file is gone."""

    def damage(checkpoint: Path) -> None:
        path = next(checkpoint.glob(name))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def without(name: str) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        path = next(checkpoint.glob(name))
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def spoiled(checkpoint: Path) -> None:
    """One weight is not a number."""
    path = next(checkpoint.glob("state/model*.safetensors"))
    tensors = load_file(path)
    tensors[sorted(tensors)[0]].view(-1)[0] = torch.nan
    save_file(tensors, path, {"format": "pt"})


def noise(name: str) -> Callable[[Path], None]:
    """A file of the same length that holds something else."""

    def damage(checkpoint: Path) -> None:
        path = next(checkpoint.glob(name))
        path.write_bytes(random.Random(0).randbytes(path.stat().st_size))

    return damage


class Program:
    """What ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], NoReturn], tuple[int]]:
        return os._exit, (3,)


def program(name: str) -> Callable[[Path], None]:
    """A file of somebody else's, which runs when it is read as pickle and torch read files that they trust."""

    def damage(checkpoint: Path) -> None:
        next(checkpoint.glob(name)).write_bytes(pickle.dumps(Program()))

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "half its weights": cut("state/model*.safetensors"),
    "half its optimiser": cut("state/optimizer.bin"),
    "half its random state": cut("state/random_states_0.pkl"),
    "NaN weights": spoiled,
    "no state": without("state"),
    "no step.json": without("step.json"),
    "half its configuration": cut("config.yaml"),
    "noise for weights": noise("state/model*.safetensors"),
    "noise for averages": noise("state/custom_checkpoint_1.pkl"),
    "a program for averages": program("state/custom_checkpoint_1.pkl"),
    "a program for an optimiser": program("state/optimizer.bin"),
}
