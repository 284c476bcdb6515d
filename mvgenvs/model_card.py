"""What a saved pipeline says of itself: its model card, and the file by which diffusers finds its class."""

import shutil
from pathlib import Path
from typing import Any

import diffusers

from mvgenvs.parts import BUNDLED

CARD = "README.md"
LOADER = "pipeline.py"
EMPTY_CARD = "This model card has been automatically generated."  # what diffusers uploads where there is none


def describe(pipeline: Any, folder: Path) -> None:
    """Writes both files; what is there stays, unless it is diffusers' empty card."""
    folder.mkdir(parents=True, exist_ok=True)
    loader, card = folder / LOADER, folder / CARD
    if not loader.exists():
        shutil.copyfile(BUNDLED / LOADER, loader)
    if not card.exists() or EMPTY_CARD in card.read_text(encoding="utf-8"):
        card.write_text(model_card(pipeline), encoding="utf-8")


def model_card(pipeline: Any) -> str:
    """Markdown, with the header that the hub reads. It says what the files do not, and what their author must add."""
    from mvgenvs import __version__

    rows = []
    for name, part in pipeline.components.items():
        count = sum(p.numel() for p in part.parameters()) if hasattr(part, "parameters") else 0
        rows.append(f"| `{name}` | {type(part).__name__} | {count:,} |")
    defaults = ", ".join(f"`{name}` {value}" for name, value in pipeline.defaults.items() if value is not None)
    return f"""---
library_name: diffusers
pipeline_tag: image-to-3d
tags:
- mvgenvs
- novel-view-synthesis
---

# A multi-view pipeline

Novel views of an object, {pipeline.size} x {pipeline.size} pixels, from one picture of it or a few: a feature field
lifted from the known views, and a diffusion model that denoises views together. Made by mvgenvs {__version__} and
diffusers {diffusers.__version__}.

```python
from mvgenvs import MultiViewPipeline

pipe = MultiViewPipeline.from_pretrained(FOLDER_OR_HUB_ID)
```

diffusers' own class loads it as well, where mvgenvs is installed:

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(
    FOLDER_OR_HUB_ID, custom_pipeline=FOLDER_OR_HUB_ID, trust_remote_code=True
)
```

| part | class | parameters |
|---|---|---|
{chr(10).join(rows)}

Calls that do not choose are sampled with {defaults}.

**To be written by its author:** the data that it was trained on and their licences, the licence of the weights, what
was measured, and what it is not to be used for.
"""
