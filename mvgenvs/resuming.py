"""Everything that a sequence depends on: if it is unchanged, a stopped run of `infer_multiview.py` can continue."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from mvgenvs.cameras import Cameras
from mvgenvs.parts import resolve_checkpoint
from mvgenvs.versions import versions

# Hashed by content, or irrelevant.
_ELSEWHERE = ("known", "images", "trajectory", "checkpoint", "output", "show_plan", "preview", "device", "export")


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """The chosen options by the names of their flags, as in `run.json`."""
    others = {name: value for name, value in vars(options).items() if name != "sampling"}
    return others | options.sampling.record()


def run_settings(options: argparse.Namespace, targets: Cameras, device: str) -> dict[str, Any]:
    """All that the views depend on: options, bytes of the inputs, target cameras, weights, versions. Fit for JSON.

    Weights are identified by their files' names, sizes and times, since hashing large ones would take long.
    """
    folder = resolve_checkpoint(options.checkpoint)
    weights = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json"))
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in weights]
    settings = {
        **{name: value for name, value in chosen(options).items() if name not in _ELSEWHERE},
        "device": device,
        "inputs": [
            [_sha256(Path(value).read_bytes()) if value in given.files else value for value in given]
            for given in options.known
        ],
        "targets": [_sha256(part.cpu().numpy().tobytes()) for part in (targets.c2w, targets.K)],
        "checkpoint": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        "versions": versions(),
    }
    return json.loads(json.dumps(settings))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
