"""A contact sheet of a data set: one picture of every object, three quarters from the front."""

from pathlib import Path

import numpy as np
from PIL import Image

from mvgenvs.data.srn import SPLITS, SRNScenes
from mvgenvs.trajectories import canonical_camera

COLUMNS, SIDE = 12, 96  # pictures in a row, and their pixels


def write_sheet(root: Path, category: str, path: Path) -> None:
    """Writes a JPEG with the view of each object, train to test, that is nearest to the canonical camera."""
    wanted = canonical_camera().centers[0]
    pictures = []
    for split in SPLITS:
        if not (root / f"{category}_{split}").is_dir():
            continue
        scenes = SRNScenes(root, split, SIDE, category=category)
        for index in range(len(scenes)):
            views = scenes.load(index)
            nearest = int((views.cameras.centers - wanted).norm(dim=-1).argmin())
            pictures.append((views.images[nearest].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pictures += [blank] * (-len(pictures) % COLUMNS)
    rows = [np.concatenate(pictures[start : start + COLUMNS], axis=1) for start in range(0, len(pictures), COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(path, quality=85)
