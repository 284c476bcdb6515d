"""Thirty things that people upload in place of a clean photo: each is read as what it shows, or refused in words."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mvgenvs.errors import UserError
from mvgenvs.infer_options import Given
from mvgenvs.inputs import read_known_view

CAR = Path(__file__).parents[1] / "assets" / "car.png"
READ, REFUSED = "read", "refused"
Picture = Image.Image


def car(size: tuple[int, int] = (128, 128), place: tuple[int, int] = (0, 0), behind: Picture | None = None) -> Picture:
    """The example's car in a picture of another size, before white or before another picture of that size."""
    pixels = np.array(Image.open(CAR).convert("RGBA"))
    pixels[pixels[..., :3].min(axis=-1) > 245, 3] = 0
    cut, canvas = Image.fromarray(pixels), Image.new("RGB", size, "white") if behind is None else behind.copy()
    canvas.paste(cut, place, cut)
    return canvas


def saved(picture: Picture, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **{"format": "PNG", **options})  # type: ignore[arg-type]
    return buffer.getvalue()


def deep() -> bytes:
    grey = np.asarray(car().convert("L"), dtype=np.uint16) * 257
    return saved(Image.fromarray(grey))


def promising(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than it has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3  # by half
    return saved(car().rotate(180, fillcolor="white"), format="JPEG", exif=exif)


def striped() -> Picture:
    canvas = Image.new("RGB", (256, 192), (90, 140, 200))
    draw = ImageDraw.Draw(canvas)
    for x in range(0, 256, 12):
        draw.line([(x, 0), (x, 192)], fill=(200, 60, 40), width=4)
    return canvas


def clear(alpha: int) -> Picture:
    picture = car().convert("RGBA")
    picture.putalpha(alpha)
    return picture


UPLOADS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", REFUSED),
    "a text": (lambda: b"my car is red", REFUSED),
    "a page": (lambda: b"<html><body>404</body></html>", REFUSED),
    "a PDF": (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", REFUSED),
    "a zip": (lambda: b"PK\x03\x04" + bytes(60), REFUSED),
    "half a PNG": (lambda: saved(car())[:900], REFUSED),
    "half a JPEG": (lambda: saved(car((256, 256)), format="JPEG")[:900], REFUSED),
    "a damaged PNG": (lambda: saved(car()).replace(b"IDAT", b"JDAT"), REFUSED),
    "a bomb": (lambda: promising(60_000, 60_000), REFUSED),
    "an empty promise": (lambda: promising(64, 64), REFUSED),
    "one pixel": (lambda: saved(Image.new("RGB", (1, 1))), REFUSED),
    "a line": (lambda: saved(Image.new("RGB", (400, 1), "red")), REFUSED),
    "all white": (lambda: saved(Image.new("RGB", (128, 128), "white")), REFUSED),
    "all black": (lambda: saved(Image.new("RGB", (128, 128), "black")), REFUSED),
    "all transparent": (lambda: saved(clear(0)), REFUSED),
    "opaque alpha": (lambda: saved(clear(255)), READ),
    "grey": (lambda: saved(car().convert("L")), READ),
    "two colours": (lambda: saved(car().convert("1")), READ),
    "a palette": (lambda: saved(car().convert("P")), READ),
    "16 bits": (deep, READ),
    "CMYK": (lambda: saved(car().convert("CMYK"), format="JPEG"), READ),
    "turned by EXIF": (turned, READ),
    "animated": (lambda: saved(car(), format="GIF", save_all=True, append_images=[car().rotate(90)]), READ),
    "bad JPEG": (lambda: saved(car((256, 256), (60, 60)), format="JPEG", quality=5), READ),
    "wide": (lambda: saved(car((1200, 140), (500, 6))), READ),
    "large": (lambda: saved(car().resize((3000, 3000)), format="JPEG"), READ),
    "small": (lambda: saved(car().resize((40, 40))), READ),
    "cut off": (lambda: saved(car((128, 128), (-50, 10))), READ),
    "two cars": (lambda: saved(car((300, 128), (150, 0), car((300, 128)))), READ),
    "before stripes": (lambda: saved(car((256, 192), (64, 32), striped())), READ),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_each_is_read_or_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    make, expected = UPLOADS[kind]
    path = tmp_path / "upload.png"
    path.write_bytes(make())
    given = Given(str(path), "estimate", "auto")
    if expected == REFUSED:
        with pytest.raises(UserError) as caught:
            read_known_view(given)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
        return
    view = read_known_view(given)
    there = np.asarray(view.image.getchannel("A")) > 127
    assert 0.01 < there.mean() < 0.9, "an object, and something around it"
    assert any(note.startswith("matte: ") for note in view.notes)
    assert any("Camera estimated" in note for note in view.notes)


def test_there_are_thirty() -> None:
    assert len(UPLOADS) == 30


def test_a_car_that_is_cut_off_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(UPLOADS["cut off"][0]())
    assert any("cut off" in note for note in read_known_view(Given(str(tmp_path / "a.png"), "estimate", "auto")).notes)
