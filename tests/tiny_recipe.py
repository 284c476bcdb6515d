"""A recipe of all stages that takes seconds."""

from pathlib import Path
from typing import Any

import yaml
from test_training import TINY

from mvgenvs.training.recipe import merged


def nested(flat: dict[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, text in flat.items():
        section, name = key.split(".")
        out.setdefault(section, {})[name] = yaml.safe_load(text)
    return out


def tiny_recipe() -> dict[str, Any]:
    base = nested({k: v for k, v in TINY.items() if k.split(".")[0] != "loss" and k != "data.root"})
    return {
        "minutes": 0.001,  # over when they are known: the warm-up's steps, and one
        "base": merged(base, {"optim": {"batch": 2, "warmup": 3}, "run": {"checkpoint_every": 100, "log_every": 1}}),
        "stages": {
            "field": {"share": 1, "loss": {"rgb": 1.0, "rays": 8}, "run": {"train": ["nerf"]}},
            "denoiser": {
                "share": 3,
                "denoiser": {"fit_prior": False, "show_prior": True},
                "loss": {"denoise": 1.0, "noise_draws": 2},
                "run": {"train": ["denoiser"], "init_parts": ["codec", "nerf"]},
            },
            "refiner": {
                "share": 4,
                "loss": {"refine": 1.0, "perceptual_crop": 16},
                "refine": {"sets": 4, "views": 2},
                "run": {"train": ["codec"]},
            },
        },
        "export": {"steps": 3, "guidance": 1.25},
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path
