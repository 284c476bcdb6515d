"""Debian packages as a source of files: downloaded without root, unpacked without dpkg, and only the members needed.

A .deb is an `ar` archive of three members: debian-binary, control.tar.* and data.tar.* [deb(5)].
"""

import fnmatch
import lzma
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from mvgenvs.errors import UserError
from mvgenvs.folders import replace_folder, sweep
from mvgenvs.limits import ARCHIVE_BYTES, MEMBER_BYTES, leads_out

AR_MAGIC, AR_HEADER = b"!<arch>\n", 60  # bytes; each member follows its header, padded to an even length
FETCHING = ".fetching"  # where apt writes
BEGUN, COMPLETE = ".begun", ".complete"  # record of what to unpack: written first, and renamed last


def fetch(packages: Sequence[str], folder: Path) -> dict[str, Path]:
    """The .deb file of each package: those in `folder`, the others from apt (which needs no root for this).

    Raises `UserError` if a file is neither there nor available.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another --packages") from error
    if missing := [name for name in packages if _find(name, folder) is None]:
        put = f"put {', '.join(f'{name}_*_all.deb' for name in missing)} of Debian into {folder} yourself"
        if shutil.which("apt-get") is None:
            raise UserError(f"this machine has no apt-get to fetch packages with: {put}, and give it as --packages")
        print(f"Fetching {', '.join(missing)} ...", flush=True)
        if (answer := _download(missing, folder)).returncode:
            reason = next((line for line in answer.stderr.splitlines() if line.startswith("E:")), "it failed")
            raise UserError(f"apt-get download says '{reason}': run `apt-get update` as root first, or {put}")
    found = {name: _find(name, folder) for name in packages}
    if absent := [name for name, path in found.items() if path is None]:
        raise UserError(f"apt-get left no {absent[0]}_*.deb in {folder}")
    return cast(dict[str, Path], found)


def _download(packages: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Lets apt write to a folder of its own, so that a file has its name only when it is whole. Returns apt's answer.

    Raises `UserError` if nothing can be written.
    """
    staged = folder / FETCHING
    try:
        sweep(staged, _is_package)  # left by a killed run
        staged.mkdir(exist_ok=True)
        answer = subprocess.run(["apt-get", "download", *packages], cwd=staged, capture_output=True, text=True)
        if not answer.returncode:
            for deb in staged.glob("*.deb"):
                deb.replace(folder / deb.name)
        sweep(staged, _is_package)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another --packages") from error
    return answer


def _is_package(name: str) -> bool:
    return ".deb" in name and "/" not in name  # apt's own unfinished files end in .deb.FAILED and the like


def _find(package: str, folder: Path) -> Path | None:
    """The newest of the package's files by name, if there are several versions."""
    return max(folder.glob(f"{package}_*.deb"), default=None)


def version(deb: Path) -> str:
    """The package's version, from its control file. Raises `UserError` if the file is damaged."""
    with _tar(deb, "control.tar") as tar:
        for member in tar:
            if member.name.lstrip("./") == "control":
                fields = cast(IO[bytes], tar.extractfile(member)).read().decode().splitlines()
                for line in fields:
                    if line.startswith("Version:"):
                        return line.removeprefix("Version:").strip()
    raise UserError(f"{deb} does not tell its version: delete it, and it is fetched anew")


def unpack(deb: Path, patterns: Sequence[str], folder: Path) -> Path:
    """Unpacks the members that match one of `patterns` ("usr/share/*.obj", where * also matches /) into `folder`.

    Does nothing if an earlier call has finished the same; of an unfinished call, only unpacked files are deleted.
    Returns `folder`. Raises `UserError` if the .deb is damaged, the disk is full, or the folder is someone else's.
    """
    wanted = "\n".join([deb.name, *patterns])
    if (folder / COMPLETE).exists() and (folder / COMPLETE).read_text() == wanted:
        return folder
    partial, aside = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
    sweep(partial, _members(partial))
    if partial.exists() or (folder.exists() and not (folder / COMPLETE).exists()):
        other = partial if partial.exists() else folder
        raise UserError(f"{other} was not unpacked by this program: move it away, or choose another --packages")
    try:
        _unpack_members(deb, patterns, partial, wanted)
        replace_folder(folder, partial, aside, _members(folder))
    except UserError:
        sweep(partial, _members(partial))
        raise
    except OSError as error:
        sweep(partial, _members(partial))
        raise UserError(f"cannot unpack {deb} ({error.strerror}): free space or choose another --packages") from error
    return folder


def _unpack_members(deb: Path, patterns: Sequence[str], partial: Path, wanted: str) -> None:
    partial.mkdir(parents=True)
    (partial / BEGUN).write_text(wanted)
    total = 0
    with _tar(deb, "data.tar") as tar:
        for member in tar:
            name, total = member.name.removeprefix("./"), total + member.size
            if member.size > MEMBER_BYTES or total > ARCHIVE_BYTES:
                raise UserError(f"{deb} unpacks to more than is sensible, at '{name}': this is no package")
            if member.isfile() and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                if ".." in Path(name).parts or leads_out(name):
                    raise UserError(f"{deb} holds '{name}', which would land outside the folder: this is no package")
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                with (partial / name).open("wb") as file:
                    shutil.copyfileobj(cast(IO[bytes], tar.extractfile(member)), file)
    (partial / BEGUN).rename(partial / COMPLETE)


def _members(folder: Path) -> Callable[[str], bool]:
    """Whether a path within `folder` is that of an unpacked file; never, if there is no record of the members."""
    records = [path for path in (folder / BEGUN, folder / COMPLETE) if path.exists()]
    patterns = [BEGUN, COMPLETE, *records[0].read_text().splitlines()[1:]] if records else []
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@contextmanager
def _tar(deb: Path, name: str) -> Iterator[tarfile.TarFile]:
    """The tar archive of the member whose name starts with `name`, to be read from front to back."""
    try:
        with deb.open("rb") as file:
            length, compression = _seek_member(file, name)
            stream = cast(IO[bytes], _Slice(file, length))
            with tarfile.open(fileobj=stream, mode=f"r|{compression}") as tar:  # type: ignore[call-overload]
                yield tar
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{deb} is damaged ({error}): delete it, and it is fetched anew") from error


def _seek_member(file: IO[bytes], name: str) -> tuple[int, str]:
    """Moves to the content of an `ar` member; returns its length and its compression. Raises `ValueError`."""
    if file.read(len(AR_MAGIC)) != AR_MAGIC:
        raise ValueError("not a .deb archive")
    while len(header := file.read(AR_HEADER)) == AR_HEADER:
        member, length = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        if member.startswith(name):
            compression = member.removeprefix(name).lstrip(".")
            if compression not in ("", "xz", "gz", "bz2"):
                raise ValueError(f"its {member} is compressed in a way that Python does not know")
            return length, compression
        file.seek(length + length % 2, 1)
    raise ValueError(f"it has no {name}")


class _Slice:
    """The next `length` bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file, self.left = file, length

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        return data
