"""Photos of any size and mode become white-backed squares framed as in training; broken ones are one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mvgenvs.cameras import Cameras
from mvgenvs.errors import UserError
from mvgenvs.photos import CENTER_X, CENTER_Y, DIAGONAL, Photo, frame_photo, read_image
from mvgenvs.views import UNKNOWN

ASSETS = Path(__file__).parent.parent / "assets"
RED = (200, 30, 20)


def drawing(size, box, mode="RGB", background="white"):
    """A red rectangle on a plain background."""
    image = Image.new("RGB", size, background)
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=RED)
    return image.convert(mode)


def load_photo(path: Path, size: int, reframe: bool = True) -> Photo:
    return frame_photo(read_image(path), size, reframe)


def extent(image):
    """Left, top, right, bottom of what is not white, in fractions of the side."""
    rows, columns = torch.nonzero((image < 0.9).any(dim=0), as_tuple=True)
    edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return edges / image.shape[-1]


def assert_framed(image):
    left, top, right, bottom = extent(image).tolist()
    assert np.hypot(right - left, bottom - top) == pytest.approx(DIAGONAL, abs=0.04)
    assert (left + right) / 2 == pytest.approx(CENTER_X, abs=0.02)
    assert (top + bottom) / 2 == pytest.approx(CENTER_Y, abs=0.02)


def test_training_view_passes_unchanged():
    photo = load_photo(ASSETS / "car.png", 128)
    assert photo.notes == ()
    pixels = np.asarray(Image.open(ASSETS / "car.png").convert("RGB"))
    torch.testing.assert_close(photo.image, torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255)


def test_training_view_is_only_resized():
    photo = load_photo(ASSETS / "car.png", 64)
    assert photo.notes == ()
    assert photo.image.shape == (3, 64, 64)
    before = extent(load_photo(ASSETS / "car.png", 128).image)
    torch.testing.assert_close(extent(photo.image), before, atol=0.03, rtol=0)


@pytest.mark.parametrize(("size", "box"), [((640, 480), (500, 20, 620, 90)), ((300, 900), (40, 100, 290, 230))])
def test_object_on_white_is_reframed(tmp_path, size, box):
    drawing(size, box).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png", 128)
    assert_framed(photo.image)
    assert any("scaled into the frame" in note for note in photo.notes)


def test_alpha_is_composited_on_white(tmp_path):
    image = drawing((400, 300), (20, 30, 220, 130), background="black").convert("RGBA")
    alpha = Image.new("L", image.size, 0)
    alpha.paste(255, (20, 30, 220, 130))
    image.putalpha(alpha)
    image.save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png", 128)
    assert_framed(photo.image)
    assert photo.image[:, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert any("replaced by white" in note for note in photo.notes)
    assert photo.matte[0, 0, 0] == 0 and photo.matte.max() == 1
    assert_framed(1 - photo.matte)  # it went the picture's way
    torch.testing.assert_close(photo.rgba, torch.cat([photo.image, photo.matte]))


def test_without_alpha_nobody_knows_the_matte(tmp_path):
    """White at the border is the background, white within may be paint."""
    drawing((400, 300), (20, 30, 220, 130)).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png", 64)
    assert photo.matte is None
    assert (photo.rgba[3] == UNKNOWN).all()


def test_given_camera_forbids_reframing(tmp_path):
    drawing((300, 300), (10, 10, 60, 40)).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png", 150, reframe=False)
    torch.testing.assert_close(extent(photo.image), torch.tensor([5.0, 5, 30, 20]) / 150, atol=0.01, rtol=0)


def test_photo_with_a_background_is_cropped_and_warned_about(tmp_path):
    drawing((300, 200), (100, 50, 200, 150), background="green").save(tmp_path / "a.jpg")
    photo = load_photo(tmp_path / "a.jpg", 64)
    assert photo.image.shape == (3, 64, 64)
    assert any(note.startswith("Warning") for note in photo.notes)
    assert any("middle square" in note for note in photo.notes)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_mode_reads(tmp_path, mode, suffix):
    grey = drawing((200, 200), (40, 60, 160, 160), "L")
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).convert(mode)
    elif mode == "F":
        image = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    else:
        image = drawing((200, 200), (40, 60, 160, 160)).convert(mode)
    try:
        image.save(tmp_path / f"a{suffix}")
    except (OSError, ValueError):
        pytest.skip(f"Pillow writes no {mode} to {suffix}")
    photo = load_photo(tmp_path / f"a{suffix}", 64)
    assert photo.image[:, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert photo.image[:, 36, 32].min() < 0.6


def test_cmyk_and_exif_rotation(tmp_path):
    drawing((200, 300), (50, 100, 150, 160), "CMYK").save(tmp_path / "a.jpg")
    assert load_photo(tmp_path / "a.jpg", 64).image[0, 36, 32] > 0.5
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    drawing((200, 300), (50, 100, 150, 160)).save(tmp_path / "b.jpg", exif=exif)
    assert read_image(tmp_path / "b.jpg").size == (300, 200)


def test_middle_square_moves_the_principal_point():
    K = torch.tensor([[[100.0, 0.0, 70.0], [0.0, 100.0, 30.0], [0.0, 0.0, 1.0]]])
    cropped = Cameras(torch.eye(4)[None], K, (60, 140)).middle_square()
    assert cropped.hw == (60, 60)
    assert cropped.K[0, :2, 2].tolist() == [30.0, 30.0]


def test_broken_images_are_one_sentence(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    drawing((200, 200), (50, 50, 150, 150)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    drawing((20, 200), (5, 50, 15, 150)).save(tmp_path / "small.png")
    cases = {
        "none.png": "no such image",
        "text.png": "not an image",
        "empty.png": "not an image",
        "truncated.png": "truncated",
        "small.png": "too small",
        ".": "folder",
    }
    for name, expected in cases.items():
        with pytest.raises(UserError, match=expected) as caught:
            load_photo(tmp_path / name, 64)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("color", [(255, 255, 255, 255), (0, 0, 0, 0)])
def test_pictures_of_nothing_are_refused(tmp_path, color):
    Image.new("RGBA", (100, 100), color).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="nothing but background"):
        load_photo(tmp_path / "a.png", 64)
