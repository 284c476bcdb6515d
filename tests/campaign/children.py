"""One run of a job in a process of its own, with a fault: it is killed, or the system refuses what it asks for."""

import contextlib
import errno
import fcntl
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mvgenvs.errors import UserError

Fault = Callable[[Path], None]  # called in the child, with the job's folder, before the job
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
GROWTH = ("os.mkdir",)  # what a full disk refuses, besides files
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
F_SETPIPE_SZ, ROOM = 1031, 1 << 20  # Linux's


@dataclass(frozen=True)
class End:
    """How a child ended."""

    code: int  # 0 done, 2 refused with a sentence, 1 a traceback; -9 killed
    output: str
    seconds: float

    @property
    def sentence(self) -> str:
        """The last line that it printed."""
        return (self.output.strip().splitlines() or [""])[-1]


@dataclass(frozen=True)
class Child:
    """A job at work."""

    number: int  # of its process, and of its group
    output: int  # the end of a pipe, which is neither on a disk nor limited by the size of files
    begin: float


def start(run: Callable[[Path], object], folder: Path, fault: Fault | None = None) -> Child:
    """Forks a child that runs the job. What is imported here need not be imported again: many children take little."""
    sys.stdout.flush()
    output, inlet = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(inlet, F_SETPIPE_SZ, ROOM)
    begin = time.perf_counter()
    number = os.fork()
    if number:
        os.close(inlet)
        return Child(number, output, begin)
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(inlet, 1)
        os.dup2(inlet, 2)
        sys.stdout = sys.stderr = os.fdopen(inlet, "w", buffering=1)
        if fault is not None:
            fault(folder)
        answer = run(folder)
        code = answer if isinstance(answer, int) else 0
    except UserError as error:
        print(f"error: {error}")
        code = 2
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def finish(child: Child) -> End:
    """Waits for a child."""
    _, status = os.waitpid(child.number, 0)
    seconds = time.perf_counter() - child.begin
    stop(child)  # what it has left behind, such as workers
    os.set_blocking(child.output, False)
    with os.fdopen(child.output, "rb") as file:
        output = (file.read() or b"").decode(errors="replace")
    return End(os.waitstatus_to_exitcode(status), output, seconds)


def stop(child: Child) -> None:
    """Kills a child's whole group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.number, signal.SIGKILL)


def attempt(
    run: Callable[[Path], object], folder: Path, fault: Fault | None = None, kill_after: float | None = None
) -> End:
    """Runs a job to its end, or until it is killed after so many seconds."""
    child = start(run, folder, fault)
    if kill_after is not None:
        time.sleep(kill_after)
        stop(child)
    return finish(child)


def at_change(number: int, changes: tuple[str, ...], act: Callable[[], None]) -> Fault:
    """A fault that acts at the `number`-th change below the folder, from 0, and at all that follow.

    Changes are files opened to be written, and Python's `changes`, by the names of its audit events.
    """

    def fault(folder: Path) -> None:
        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            path = arguments[0] if arguments else None
            if event == "open":
                flags = arguments[2]
                counts = isinstance(flags, int) and bool(flags & WRITES)
            else:
                counts = event in changes
            if counts and isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(str(folder)):
                seen += 1
                if seen > number:
                    act()

        sys.addaudithook(watch)

    return fault


def killed_at(number: int) -> Fault:
    """The child is killed just before the `number`-th change of a file."""
    return at_change(number, CHANGES, lambda: os.kill(os.getpid(), signal.SIGKILL))


def refused_from(number: int) -> Fault:
    """From the `number`-th new file or folder on, the disk is full, as Python's own calls see it."""

    def refuse() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return at_change(number, GROWTH, refuse)


def no_file_beyond(room: int) -> Fault:
    """No file can grow beyond `room` bytes, whoever writes it: what a full disk is to a library in C."""

    def fault(folder: Path) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    return fault


def no_memory_beyond(mebibytes: int) -> Fault:
    """The system gives no more memory than so much beyond what the imports took."""

    def fault(folder: Path) -> None:
        status = Path("/proc/self/status").read_text()
        (held,) = (int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (held + (mebibytes << 20), resource.RLIM_INFINITY))

    return fault


def jumping_clock(seed: int) -> Fault:
    """The system's clock is set again and again, by up to a day to either side."""

    def fault(folder: Path) -> None:
        import random

        rng, now = random.Random(seed), time.time
        time.time = lambda: now() + rng.uniform(-86400, 86400)  # type: ignore[assignment]

    return fault
