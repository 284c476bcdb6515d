"""Photos are cut out whatever their format and background; masks that are no cut are one sentence."""

import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mvgenvs.errors import UserError
from mvgenvs.mattes import cut as cutting
from mvgenvs.mattes.cut import cut_out, has_alpha
from mvgenvs.mattes.grabcut import grabcut_matte
from mvgenvs.mattes.learned import MODEL, _session, installed_matte, rembg_matte
from mvgenvs.mattes.plain import plain_matte
from mvgenvs.mattes.saliency import barrier_distance
from mvgenvs.mattes.shapes import object_part, without_holes, without_threads
from mvgenvs.photos import read_image

HEIGHT, WIDTH = 120, 160
BODY, CABIN = (np.s_[60:90, 40:120], np.s_[42:60, 60:100])  # of the drawn car


@pytest.fixture(autouse=True)
def no_rembg(monkeypatch):
    """Whether or not it is installed here."""
    monkeypatch.setattr(cutting, "installed_matte", lambda rgb, notes: None)


def drawn(background, body=(180, 30, 40), cabin=(40, 60, 160)):
    """A car of two colours before a background, and its true mask."""
    picture, there = background.astype(np.float64).copy(), np.zeros((HEIGHT, WIDTH), bool)
    for part, colour in ((BODY, body), (CABIN, cabin)):
        picture[part], there[part] = colour, True
    return picture.clip(0, 255).astype(np.uint8), there


def flat(colour):
    return np.full((HEIGHT, WIDTH, 3), colour, np.float64)


def overlap(matte, there):
    found = matte > 0.5
    return (found & there).sum() / (found | there).sum()


def cut_share(image, **how):
    return np.asarray(cut_out(image, **how).image.getchannel("A")) > 127


def rgba(pixels):
    return Image.fromarray(pixels).convert("RGBA")


def noise(sigma, seed=0):
    return np.random.default_rng(seed).normal(0, sigma, (HEIGHT, WIDTH, 3))


def gradient():
    down, aside = np.linspace(0, 60, HEIGHT)[:, None, None], np.linspace(-1, 1, WIDTH)[None, :, None]
    return flat((150, 170, 190)) + down - 25 * aside**2


def street():
    picture = flat((110, 110, 112)) + noise(6)
    picture[:40] = (150, 185, 235)
    return picture


def shadowed(background):
    """The background in the soft shadow of the car."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = ((x - 80) / 55) ** 2 + ((y - 90) / 12) ** 2
    return background * (1 - 0.6 * np.exp(-(inside**2)))[..., None]


PLAIN = {
    "one colour": flat((120, 160, 90)),
    "white": flat(255),
    "black": flat(0),
    "noise": flat((120, 160, 90)) + noise(2),
    "gradient": gradient(),
    "shadow": shadowed(flat((200, 190, 180))),
    "shadow on a gradient": shadowed(gradient()) + noise(1),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_backgrounds_are_flooded(name):
    picture, there = drawn(PLAIN[name])
    found = plain_matte(picture)
    assert found is not None
    assert overlap(found.matte, there) > 0.95
    assert found.matte[0].max() == 0 and found.matte[75, 80] == 1


def test_the_flood_survives_compression(tmp_path):
    picture, there = drawn(shadowed(gradient()))
    Image.fromarray(picture).resize((640, 480), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=80)
    found = plain_matte(np.asarray(Image.open(tmp_path / "a.jpg")))
    assert found is not None
    large = np.asarray(Image.fromarray(there).resize((640, 480)))
    assert overlap(found.matte, large) > 0.95


@pytest.mark.parametrize("body", [(250, 250, 250), (240, 240, 240)])
def test_nearly_white_paint_on_exact_white_stays(body):
    picture, there = drawn(flat(255), body=body)
    found = plain_matte(picture)
    assert found is not None and overlap(found.matte, there) > 0.99


def test_an_object_that_crosses_one_side_does_not_matter():
    picture, there = drawn(flat((120, 160, 90)))
    picture[60:90, 120:], there[60:90, 120:] = (180, 30, 40), True
    found = plain_matte(picture)
    assert found is not None and overlap(found.matte, there) > 0.95
    assert any("right" in note for note in cut_out(rgba(picture)).notes)


def test_colours_at_the_edge_lose_the_background():
    """A pixel half red, half green comes out red, so that on white it has no green seam."""
    picture, _ = drawn(flat((0, 200, 0)), body=(200, 0, 0), cabin=(200, 0, 0))
    picture[90, 40:120] = (100, 100, 0)
    found = plain_matte(picture)
    assert found is not None
    assert 0.3 < found.matte[90, 80] < 0.8
    red, green, _ = found.colours[90, 80]
    assert red > 150 and green < 50


@pytest.mark.parametrize("background", [street(), flat((90, 120, 60)) + noise(25)])
def test_other_backgrounds_are_cut_by_grabcut(background):
    picture, there = drawn(background)
    assert plain_matte(picture) is None
    assert overlap(grabcut_matte(picture), there) > 0.9
    cut = cut_out(rgba(picture))
    share = 100 * there.mean()
    assert cut.notes[0] in {f"matte: grabcut, {share + d:.0f}% of the picture" for d in (-1, 0, 1)}


def test_the_same_photo_is_always_cut_alike():
    picture, _ = drawn(street())
    first, second = (grabcut_matte(picture) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_barrier_distance_is_the_least_range_along_a_path():
    """A ring of height 5 around a floor of height 1, in an outside at 0: through a gap in it the range is 1."""
    values = np.zeros((9, 9), np.float32)
    values[2:7, 2:7] = 5
    values[3:6, 3:6] = 1
    assert barrier_distance(values)[4, 4] == 5
    values[2, 4] = 1
    found = barrier_distance(values)
    assert found[4, 4] == 1 and found[2, 2] == 5 and found[0].max() == 0


def test_the_main_part_has_no_holes_and_no_specks():
    mask = np.zeros((100, 100), bool)
    mask[30:70, 30:70] = True
    whole = mask.copy()
    mask[45:50, 45:50] = False
    mask[5:8, 90:93] = True
    np.testing.assert_array_equal(object_part(mask), whole)
    assert without_holes(mask)[47, 47] and not without_holes(mask)[0, 0]


def test_alpha_comes_first_if_it_tells_anything():
    picture, there = drawn(flat((120, 160, 90)))
    image = rgba(picture)
    assert not has_alpha(image)
    np.testing.assert_array_equal(cut_share(image), there)
    half = np.zeros((HEIGHT, WIDTH), np.uint8)
    half[:, :80] = 255
    image.putalpha(Image.fromarray(half))
    assert cut_out(image).notes[0] == "matte: alpha, 50% of the picture"
    spotted = np.full((HEIGHT, WIDTH), 254, np.uint8)
    spotted[0, 0] = 0
    image.putalpha(Image.fromarray(spotted))
    assert not has_alpha(image), "nearly opaque, with one clear corner: no cut"
    np.testing.assert_array_equal(cut_share(image), there)


def test_none_leaves_the_picture_as_it_is():
    picture, _ = drawn(street())
    cut = cut_out(rgba(picture), "none")
    assert cut.notes == ("matte: none",)
    np.testing.assert_array_equal(np.asarray(cut.image)[..., :3], picture)
    assert not has_alpha(cut.image)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "I;16"])
def test_mask_files(tmp_path, mode):
    picture, there = drawn(street())
    deep, grey = Image.fromarray(there.astype(np.uint16) * 65535), Image.fromarray((there * 255).astype(np.uint8))
    mask = deep if mode == "I;16" else grey.convert(mode)
    mask.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(cut_share(rgba(picture), matte=str(tmp_path / "mask.png")), there)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Image.new("L", (WIDTH + 1, HEIGHT)), "161x120 pixels, but its image 160x120"),
        (Image.new("L", (WIDTH, HEIGHT)), "no object was found.*--matte none"),
        (Image.new("L", (WIDTH, HEIGHT), 255), "whole picture.*--matte none.*--matte FILE"),
        (Image.new("RGB", (WIDTH, HEIGHT), "red"), "must be a grey image"),
        (Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0)), "must be a grey image"),
    ],
)
def test_masks_that_are_no_cut(tmp_path, mask, expected):
    mask.save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=expected) as caught:
        cut_out(rgba(drawn(street())[0]), str(tmp_path / "mask.png"), "photo.jpg")
    assert "\n" not in str(caught.value)


def test_pictures_of_nothing_say_what_to_do():
    with pytest.raises(UserError, match=r"no object was found in wall\.png.*--matte none"):
        cut_out(rgba(flat(128).astype(np.uint8)), path="wall.png")


def test_every_kind_of_file_is_cut(tmp_path):
    picture, there = drawn(flat((120, 160, 90)))
    grey = Image.fromarray(picture).convert("L")
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half
    files = {
        "grey.png": (grey, {}),
        "deep.png": (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), {}),
        "cmyk.jpg": (Image.fromarray(picture).convert("CMYK"), {"quality": 95}),
        "turned.jpg": (Image.fromarray(picture).rotate(180), {"exif": exif, "quality": 95}),
        "opaque.png": (rgba(picture), {}),
        "tiny.png": (Image.fromarray(picture).resize((43, 32), Image.Resampling.BOX), {}),
    }
    for name, (image, options) in files.items():
        image.save(tmp_path / name, **options)
        found = np.asarray(cut_out(read_image(tmp_path / name)).image.getchannel("A"))
        expected = np.asarray(Image.fromarray(there).resize(found.shape[::-1]))
        assert overlap(found / 255, expected) > 0.85, name


class StandInSession:
    """Where rembg's sessions segment, this one finds the brightest pixels of the red channel."""

    def predict(self, image):
        return [image.getchannel("R").point(lambda level: 255 if level > 150 else 0)]


@pytest.fixture
def fake_rembg(monkeypatch):
    """A package `rembg` with the two functions that we call, as it documents them."""
    package, asked = ModuleType("rembg"), []
    package.new_session = lambda name: asked.append(name) or StandInSession()

    def remove(data, session=None, only_mask=False):
        assert only_mask
        return session.predict(data)[0]

    package.remove = remove
    package.__spec__ = object()
    monkeypatch.setitem(sys.modules, "rembg", package)
    _session.cache_clear()
    yield asked
    _session.cache_clear()


def test_rembg_is_asked_if_installed(fake_rembg, monkeypatch):
    monkeypatch.setattr(cutting, "installed_matte", installed_matte)
    background = street()
    background[:40, :, 0] = 100  # nothing but the car is bright in red
    picture, there = drawn(background, cabin=(200, 60, 160))
    cut = cut_out(rgba(picture))
    np.testing.assert_array_equal(np.asarray(cut.image.getchannel("A")) > 127, there)
    assert cut.notes[0].startswith("matte: rembg, ")
    assert fake_rembg == [MODEL]
    np.testing.assert_array_equal(rembg_matte(picture, StandInSession()) > 0.5, there)


def test_without_its_model_rembg_gives_way(fake_rembg, monkeypatch):
    monkeypatch.setattr(cutting, "installed_matte", installed_matte)

    def offline(name):
        raise ConnectionError("no network\nand a long story")

    sys.modules["rembg"].new_session = offline
    cut = cut_out(rgba(drawn(street())[0]))
    assert "rembg cannot load its model (ConnectionError: no network)" in cut.notes[0]
    assert cut.notes[1].startswith("matte: grabcut")


def test_a_horizon_behind_the_object_is_no_part_of_it() -> None:
    """Nor is it in a larger picture; what sticks out a little, like a mirror or a spoiler, stays."""
    for side in (160, 320):
        body = np.zeros((side, side), dtype=bool)
        body[side * 3 // 8 : side * 5 // 8, side // 4 : side * 3 // 4] = True
        spoiler, horizon = np.zeros_like(body), np.zeros_like(body)
        spoiler[side * 3 // 8 - 2 : side * 3 // 8, side // 4 : side // 3] = True
        horizon[side // 2 : side // 2 + 2] = True
        found = without_threads(body | spoiler | horizon)
        assert (found & (body | spoiler)).sum() == (body | spoiler).sum()
        assert (found & ~body & ~spoiler).sum() < 0.15 * (horizon & ~body).sum()
