"""Output folders in which users may keep other files: only files that we wrote are ever replaced or deleted.

FOLDER/.mvgenvs lists our files, one path a line. A process that writes to the folder holds a lock on that list, which
the system releases if the process dies.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from mvgenvs.errors import UserError
from mvgenvs.files import UNFINISHED, clear_unfinished

try:
    import fcntl
except ImportError:  # on Windows, where two runs in one folder are not prevented
    fcntl = None  # type: ignore[assignment]

LIST = ".mvgenvs"
NEW_LIST = ".mvgenvs.new"  # a shorter list, until it takes the place of the other


class OwnFolder:
    """A folder of results, locked until it is closed. A context manager.

    `flag` is the option by which users choose the folder, for messages.
    """

    def __init__(self, path: str | os.PathLike[str], flag: str = "--output") -> None:
        """Makes the folder if need be. Raises `UserError` if it cannot be written, or another run writes to it."""
        self.path, self.flag = Path(path), flag
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = (self.path / LIST).open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write to {flag} {self.path}: {error.strerror}") from None
        if not (_lock(self._file) and _is_at(self._file, self.path / LIST)):
            self._file.close()
            raise UserError(f"another run is writing to {flag} {self.path}: wait for it, or choose another {flag}")
        self._file.seek(0)
        self._ours = set(self._file.read().splitlines())
        with contextlib.suppress(OSError):  # left by killed runs; a disk that cannot be written tells of itself later
            (self.path / NEW_LIST).unlink(missing_ok=True)
            for folder in {self.path, *((self.path / name).parent for name in self._ours)}:
                clear_unfinished(folder)

    def __enter__(self) -> "OwnFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unlocks the folder. A list of files that are not there goes, and an empty folder that was made here."""
        with contextlib.suppress(OSError):
            if not any(os.path.lexists(self.path / name) for name in self._ours):
                self._remove_emptied(self._ours)  # without the list, they would be somebody else's
                (self.path / LIST).unlink()
                if self._made:
                    self.path.rmdir()
        with contextlib.suppress(OSError):  # a full disk, which was reported before
            self._file.close()

    def owns(self, name: str) -> bool:
        """Whether `name`, a path within the folder, or something below it is listed as ours."""
        return name in self._ours or any(ours.startswith(f"{name}/") for ours in self._ours)

    def below(self, name: str) -> list[str]:
        """All listed paths below `name`."""
        return sorted(ours for ours in self._ours if ours.startswith(f"{name}/"))

    def check(self, names: Sequence[str], inputs: Sequence[str | os.PathLike[str]] = ()) -> None:
        """Raises `UserError` if writing `names` would replace files that are not ours, or one of the `inputs`."""
        for name in sorted({name.split("/")[0] for name in names} | set(names)):
            if os.path.lexists(self.path / name) and not self.owns(name):
                raise UserError(
                    f"{self.path / name} was not written by this program: move it away, or choose another {self.flag}"
                )
        for given in inputs:
            place = Path(os.path.relpath(Path(given).resolve(), self.path.resolve())).as_posix()
            if place in names or place in self._ours:
                raise UserError(f"{given} is where a result would be written: choose another {self.flag}")

    def add(self, names: Iterable[str]) -> None:
        """Lists `names` as ours. Called before they are written, so that files left by a killed run are listed too."""
        new = [name for name in dict.fromkeys(names) if name not in self._ours]
        self._ours.update(new)
        self._write(new)

    def claim(self, names: Sequence[str], inputs: Sequence[str | os.PathLike[str]] = ()) -> None:
        """`check`, then `add`."""
        self.check(names, inputs)
        self.add(names)

    def remove(self, names: Iterable[str]) -> None:
        """Deletes those of `names` that are ours, leftovers of their writing, and folders that this empties."""
        gone = [name for name in names if name in self._ours]
        paths = {self.path / name for name in gone}
        for path in paths:
            if path.is_file() or path.is_symlink():
                path.unlink()
        for folder in {path.parent for path in paths}:
            for unfinished in folder.glob(".*.unfinished"):
                match = UNFINISHED.fullmatch(unfinished.name)
                if match and folder / match["name"] in paths:
                    unfinished.unlink()
        self._remove_emptied(gone)
        self._ours.difference_update(gone)
        self._shorten()

    def _remove_emptied(self, names: Iterable[str]) -> None:
        """Deletes the folders of `names` that are empty, but not the folder itself."""
        for parent in sorted({parent for name in names for parent in Path(name).parents}, reverse=True)[:-1]:
            with contextlib.suppress(OSError):
                (self.path / parent).rmdir()

    def _shorten(self) -> None:
        """Puts a new list in the place of the old one, which is there until then, whenever the process may be killed.

        The new file is locked before it has the name, so that nobody can come between.
        """
        if fcntl is None:  # Windows does not rename to files that are open
            self._file.truncate(0)
            self._write(sorted(self._ours))
            return
        before = self._file
        try:
            self._file = (self.path / NEW_LIST).open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write to {self.flag} {self.path}: {error.strerror}") from None
        try:
            _lock(self._file)
            self._write(sorted(self._ours))
            (self.path / NEW_LIST).replace(self.path / LIST)
        except BaseException as error:
            with contextlib.suppress(OSError):  # what is left to be written of it
                self._file.close()
            self._file = before
            if not isinstance(error, OSError):
                raise
            raise UserError(f"cannot write to {self.flag} {self.path}: {error.strerror}") from None
        before.close()

    def _write(self, names: Iterable[str]) -> None:
        """Appends to the list."""
        try:
            self._file.write("".join(f"{name}\n" for name in names))
            self._file.flush()
        except OSError as error:
            raise UserError(f"cannot write to {self.flag} {self.path}: {error.strerror}") from None

    def replace(self, name: str, new: Path) -> None:
        """Moves `new` to `name`, replacing our file or folder there."""
        self.add([name])
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        new.replace(target)


def sweep(folder: Path, ours: Callable[[str], bool]) -> None:
    """Deletes the files below `folder` whose relative paths are `ours`, and folders that this empties; the rest stays.

    The folder need not exist.
    """
    for root, _, files in os.walk(folder, topdown=False):
        for file in files:
            path = Path(root, file)
            if ours(path.relative_to(folder).as_posix()):
                path.unlink()
        with contextlib.suppress(OSError):
            Path(root).rmdir()


def replace_folder(folder: Path, new: Path, aside: Path, ours: Callable[[str], bool]) -> None:
    """Moves `new` to `folder`, and an old folder to `aside`, where those of its files that are `ours` are deleted."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        new.rename(folder)
        return
    sweep(aside, ours)
    folder.rename(aside)
    new.rename(folder)
    sweep(aside, ours)


def foreign_file(folder: Path, ours: Callable[[str], bool]) -> Path | None:
    """A file below `folder` that is not `ours`, if there is one."""
    for root, _, files in os.walk(folder):
        for file in sorted(files):
            if not ours(Path(root, file).relative_to(folder).as_posix()):
                return Path(root, file)
    return None


def _lock(file: IO[str]) -> bool:
    """False if another process holds the file's lock, or this process holds it through another file object."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)  # there are file systems without locks
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    """False if another run has deleted the file since it was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
