"""Which weights a figure came from."""

import hashlib
from pathlib import Path


def checkpoint_sha256(folder: Path) -> str:
    """One hash of the names and contents of all weights of a pipeline."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
