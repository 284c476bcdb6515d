"""Overviews of a data set: a picture of every object, three quarters from the front, and a table of their licences."""

from pathlib import Path

import numpy as np
from PIL import Image

from mvgenvs.data.srn import SPLITS, SRNScenes
from mvgenvs.errors import UserError
from mvgenvs.files import atomically, write_text
from mvgenvs.trajectories import canonical_camera

COLUMNS, SIDE = 12, 96  # pictures in a row, and their pixels
MOST = 600  # pictures of a split: a sheet of thousands is of no use


def write_sheet(root: Path, category: str, path: Path) -> None:
    """Writes a JPEG with the view of each object, train to test, that is nearest to the canonical camera.

    Of a split with more than `MOST` objects it shows the first ones.
    """
    wanted = canonical_camera().centers[0]
    pictures = []
    for scenes in _splits(root, category):
        for index in range(min(len(scenes), MOST)):
            views = scenes.load(index)
            nearest = int((views.cameras.centers - wanted).norm(dim=-1).argmin())
            pictures.append((views.images[nearest].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pictures += [blank] * (-len(pictures) % COLUMNS)
    rows = [np.concatenate(pictures[start : start + COLUMNS], axis=1) for start in range(0, len(pictures), COLUMNS)]
    sheet = Image.fromarray(np.concatenate(rows))
    atomically(path, lambda partial: sheet.save(partial, format="JPEG", quality=85))


def write_credits(root: Path, category: str, path: Path) -> None:
    """Writes a Markdown table of the objects' ids, licences, authors and files, in the order of the sheet."""
    lines = [
        f"# {category}: licences and authors",
        "",
        "Renderings of these models; changes: centred, scaled, turned, shaded, rendered on white, and, where an id",
        "ends in _paintN, recoloured and stretched. Files are named by their Debian package and their place in it.",
        "",
        "| object | licence | by | file |",
        "|---|---|---|---|",
    ]
    for scenes in _splits(root, category):
        for item in scenes.objects:
            try:
                source = item.about["source"]
                file = f"{source['package']} {source['version']}: {source['file']}"
                lines.append(f"| {item.name} | {item.about['licence']} | {item.about['attribution']} | {file} |")
            except (KeyError, TypeError) as error:
                raise UserError(
                    f"{item.folder / 'metadata.json'} lacks {error}: delete its folder, and build again"
                ) from error
    write_text(path, "\n".join(lines) + "\n")


def _splits(root: Path, category: str) -> list[SRNScenes]:
    present = [split for split in SPLITS if (root / f"{category}_{split}").is_dir()]
    return [SRNScenes(root, split, SIDE, category=category) for split in present]
