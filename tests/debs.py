"""Debian packages made on the spot."""

import io
import tarfile
from pathlib import Path


def write_deb(path: Path, files: dict[str, bytes], version: str = "1.0-1", compression: str = "xz") -> Path:
    """A .deb with `files`, named by their paths from the package's root."""
    control = _tar({"control": f"Package: {path.stem}\nVersion: {version}\n".encode()}, compression)
    members = {
        "debian-binary": b"2.0\n",
        f"control.tar.{compression}": control,
        f"data.tar.{compression}": _tar(files, compression),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def _tar(files: dict[str, bytes], compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
