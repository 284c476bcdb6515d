"""The page's own HTML: pictures with captions, a progress bar, the views as they come, the orbit that is turned."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from mvgenvs.app.studio import Orbit, Picture, Progress
from mvgenvs.errors import UserError

# Flags in the library's sentences, as they are called on the page.
_WORDS = {"--matte none": "the cut “none”", "--matte FILE with": "the cut “mask” with", "--matte": "mask"}
TILE = 8  # pixels of the checkerboard behind what is cut out


def data_uri(picture: Picture) -> str:
    """An RGB picture as PNG within the page."""
    _, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"


def on_checkerboard(rgba: UInt8[np.ndarray, "height width 4"]) -> Picture:
    """A cut-out object, so that white parts of it can be told from what is away."""
    rows, columns = np.indices(rgba.shape[:2]) // TILE
    board = np.where((rows + columns) % 2, 225, 250)[..., None].astype(np.float32)
    opacity = rgba[..., 3:].astype(np.float32) / 255
    return (opacity * rgba[..., :3] + (1 - opacity) * board).round().astype(np.uint8)


def figures(pictures: Sequence[tuple[str, Picture]], kind: str = "") -> str:
    """Pictures side by side, each above its name; `kind` is a further class, for the style sheet."""
    cells = "".join(
        f'<figure><img alt="{name}" src="{data_uri(picture)}"><figcaption>{name}</figcaption></figure>'
        for name, picture in ((html.escape(name), picture) for name, picture in pictures)
    )
    return f'<div class="mv-figures {kind}">{cells}</div>'


def notes(sentences: Sequence[str]) -> str:
    """What was done and assumed, one sentence a line."""
    return '<ul class="mv-notes">' + "".join(f"<li>{html.escape(each)}</li>" for each in sentences) + "</ul>"


def error(sentence: str) -> str:
    """What went wrong."""
    return f'<div class="mv-error" role="alert">{html.escape(sentence)}</div>'


def progress(now: Progress, views: int, finished: int) -> str:
    """A bar with the share of the steps that is done, and the time left."""
    share = 100 * now.done / now.steps
    left = "" if now.seconds_left is None else f", {duration(now.seconds_left)} left"
    text = f"{finished} of {views} views, step {now.done} of {now.steps}{left}"
    return f'<div class="mv-bar"><div style="width:{share:.1f}%"></div></div><div class="mv-status">{text}</div>'


def sentence(error: UserError, *paths: str | None) -> str:
    """An error as the page says it: files by their names alone, and in the page's words."""
    text = str(error).rstrip(".")
    named = any(path and text.startswith(path) for path in paths)
    for path in paths:
        text = text.replace(path, Path(path).name) if path else text
    for flag, word in _WORDS.items():
        text = text.replace(flag, word)
    return f"{text if named else text[:1].upper() + text[1:]}."


def status(sentence: str) -> str:
    """A line of text."""
    return f'<div class="mv-status">{html.escape(sentence)}</div>'


def duration(seconds: float) -> str:
    """Such as "8 s" or "3 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def strip(views: Mapping[int, Picture], count: int) -> str:
    """All places of the orbit, those filled that are finished."""
    cells = "".join(
        f'<img alt="view {index}" src="{data_uri(views[index])}">' if index in views else "<span></span>"
        for index in range(count)
    )
    return f'<div class="mv-strip">{cells}</div>'


def turntable(orbit: Orbit) -> str:
    """The orbit, turned by dragging or by its slider: see `static/orbit.js`."""
    last = len(orbit.views) - 1
    shown = "".join(
        f'<img alt="view {index}" draggable="false" src="{data_uri(view)}"{"" if index else " class=mv-on"}>'
        for index, view in enumerate(orbit.views)
    )
    return (
        f'<div class="mv-orbit"><div class="mv-stage" title="drag to turn">{shown}</div>'
        f'<input type="range" min="0" max="{last}" value="0" aria-label="view of the orbit"></div>'
    )
