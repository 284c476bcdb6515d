"""What every script shares: arguments, exit codes, and errors in one sentence. Imports nothing heavy."""

import argparse
import errno
import gc
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mvgenvs.allocator import keep_freed_memory
from mvgenvs.errors import UserError


class OneSentenceParser(argparse.ArgumentParser):
    """Raises `UserError` for wrong arguments, where argparse would print its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    def add(self, flag: str, text: str, **options: Any) -> None:
        """Adds an argument whose help also states its default, if it has one."""
        text = text if options.get("default") is None else f"{text} (default: %(default)s)"
        self.add_argument(flag, help=text, **options)


MANY = 10**9  # of what only patience limits
LONGEST = 40  # digits and signs of a number


def number(kind: type[int] | type[float], low: int | float, high: int | float = MANY) -> Callable[[str], Any]:
    """An argparse type: a finite number from `low` to `high`."""
    noun = "a whole number" if kind is int else "a number"
    span = f"from {low} to {high}" if high < MANY else f"of at least {low}"

    def parse(text: str) -> int | float:
        try:
            value = kind(text) if len(text) <= LONGEST else math.nan
        except ValueError:
            value = math.nan
        if low <= value <= high:
            return value
        too_many = f" and at most {high}" if value > high >= MANY else ""
        raise argparse.ArgumentTypeError(f"{text[:LONGEST]!r} is not {noun} {span}{too_many}")

    return parse


def whole_number(low: int, high: int = MANY) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""
    return number(int, low, high)


# What several commands take.
SEED = number(int, 0, 2**32 - 1)  # numpy takes no larger one
ANGLE, ELEVATION = number(float, -360, 360), number(float, -90, 90)  # degrees
VIEWS = whole_number(1, 100_000)
SIDE = whole_number(8, 4096)  # pixels
WORKERS = whole_number(1, 1024)  # threads or processes
MINUTES = number(float, 1e-3, 1e6)
STEPS, GUIDANCE, SIGMA = whole_number(1, 10_000), number(float, 0, 1000), number(float, 1e-3, 10_000)  # of a sampler
TEMPERATURE = number(float, 0, 10)


def run_script(main: Callable[[], int | None], shares_work: bool = True) -> None:
    """Runs a script's `main` and exits with its return value or 0; on `UserError` with one sentence and code 2.

    A script that does not share its work among processes refuses to be started in several.
    """
    keep_freed_memory()
    try:
        if not shares_work:
            from mvgenvs.processes import refuse_several  # here, since it imports this module

            refuse_several()
        code = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {str(error).rstrip('.')}.", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # the reader of our output, such as `| head`, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own last flush
        code = 0
    sys.exit(code or 0)


@contextmanager
def without_collection() -> Iterator[None]:
    """For heavy imports: they make a million objects and hardly any garbage, for which Python would search them all
    again and again. That is a fifth of their time. What the first ones made stays for good, and is not searched later.
    """
    is_first, was_enabled = "torch" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_first:
            gc.freeze()
        if was_enabled:
            gc.enable()


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG)


@contextmanager
def explained_failures(folder: Path, resumes: bool = False) -> Iterator[None]:
    """Turns common failures of a long run that writes to `folder` into one sentence: no memory, no disk space, Ctrl-C.

    `resumes` says whether the same command continues a stopped run.
    """
    try:
        yield
    except KeyboardInterrupt:
        hint = ", and the same command continues from there" if resumes else ""
        print(f"interrupted: what was finished so far is in {folder}{hint}.", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"torch.compile failed, run without it: {reason}") from None
        starved = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
        starved = starved or "allocate memory" in str(error)
        if not starved:
            raise
        raise UserError(
            "out of memory: lower --block, use --dtype float16 on a GPU, or a model with a smaller --size."
        ) from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(f"cannot write to {folder}: {error.strerror}.") from None
