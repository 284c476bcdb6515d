"""What a script needs of its surroundings: the device, memory, versions, and failures told in one sentence."""

import errno
import importlib.metadata
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import mvgenvs
from mvgenvs.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The device that a name stands for; `auto` is the GPU where there is one. Raises `UserError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).item()  # "meta" and absent devices fail here and not after loading a model
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name} is not there on this machine, use auto or cpu.") from None
    return torch.device(name)


@contextmanager
def explained_failures(folder: Path, resumes: bool = False) -> Iterator[None]:
    """Turns what may befall a long run that writes to `folder` into one sentence: no memory, no disk space, Ctrl-C.

    `resumes` says whether the same command goes on where it was stopped.
    """
    try:
        yield
    except KeyboardInterrupt:
        hint = ", and the same command goes on from there" if resumes else ""
        print(f"interrupted: what was finished so far is in {folder}{hint}.", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"torch.compile failed, do without it: {reason}") from None
        starved = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
        if not starved:
            raise
        raise UserError(
            "out of memory: lower --block, use --dtype float16 on a GPU, or a model with a smaller --size."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES):
            raise
        raise UserError(f"cannot write to {folder}: {error.strerror}.") from None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch computes in so many threads within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def versions() -> dict[str, str | None]:
    """Versions of what decides a result, and the commit of this checkout, where it is one."""
    return {
        "mvgenvs": mvgenvs.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": importlib.metadata.version("diffusers"),
    }


def git_commit() -> str | None:
    """The commit that the code was imported from, with "+" where tracked files differ; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most memory this process has held so far, in bytes, on the host and on its GPU."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB on Linux
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["cuda"] = torch.cuda.max_memory_allocated(device)
    return peak
