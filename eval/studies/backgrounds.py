"""Pictures as phones take them: views of a data set before twenty backgrounds, with a shadow, compressed as JPEG."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

HEIGHT, WIDTH = 288, 384  # of a picture; a view of the data set fills its height
ASIDE = 32  # pixels: an object is at most so far from where its photographer had aimed
KINDS = ("plain", "gradient", "texture", "street", "photograph")
PER_KIND = 4
SHADOW = 0.65  # share of the light that the middle of a shadow lacks
QUALITY = 85  # of the JPEG

Picture = Float[np.ndarray, "h w 3"]


def names() -> list[tuple[str, int]]:
    """The twenty backgrounds: kind and number within it."""
    return [(kind, number) for kind in KINDS for number in range(PER_KIND)]


def background(kind: str, number: int, rng: np.random.Generator) -> Picture:
    """RGB in [0, 1]."""
    makers: dict[str, Callable[[int, np.random.Generator], Picture]] = {
        "plain": _plain, "gradient": _gradient, "texture": _texture, "street": _street, "photograph": _photograph,
    }  # fmt: skip
    return makers[kind](number, rng).clip(0, 1).astype(np.float32)


def photographed(
    image: Float[Tensor, "3 s s"], matte: Float[Tensor, "1 s s"], scene: Picture, shadow: bool, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """A view on white, put before a background at about its middle: the picture, and the true matte."""
    height, width = scene.shape[:2]
    own = (image - (1 - matte)).clamp(0, 1).movedim(0, -1).numpy()  # colours times the matte
    layers = [cv2.resize(x, (height, height), interpolation=cv2.INTER_CUBIC) for x in (own, matte[0].numpy())]
    left = (width - height) // 2 + int(rng.integers(-ASIDE, ASIDE + 1))
    pads = ((0, 0), (left, width - height - left))
    colours = np.pad(layers[0].clip(0, 1), (*pads, (0, 0)))
    truth = np.pad(layers[1].clip(0, 1), pads).astype(np.float32)
    ground = scene * _shadow(truth)[..., None] if shadow else scene
    picture = colours + (1 - truth[..., None]) * ground + rng.normal(0, 0.006, (height, width, 1))
    pixels = np.ascontiguousarray((picture.clip(0, 1) * 255).round().astype(np.uint8)[..., ::-1])
    _, compressed = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    decoded = np.asarray(cv2.imdecode(compressed, cv2.IMREAD_COLOR), dtype=np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1]), truth


def _shadow(matte: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The light that a soft ellipse at the object's foot leaves."""
    rows, columns = np.nonzero(matte > 0.5)
    if not len(rows):
        return np.ones_like(matte)
    middle = (int(columns.min() + columns.max()) // 2, int(rows.max() - 0.12 * np.ptp(rows)))
    axes = (int(0.52 * np.ptp(columns)) + 1, int(0.16 * np.ptp(rows)) + 1)
    dark = cv2.ellipse(np.zeros_like(matte), middle, axes, 0, 0, 360, 1.0, -1)
    blurred = cv2.GaussianBlur(dark, (0, 0), 0.03 * matte.shape[0])
    return (1 - SHADOW * blurred).astype(np.float32)


def _plain(number: int, rng: np.random.Generator) -> Picture:
    colour = [(1.0, 1.0, 1.0), (0.62, 0.63, 0.65), (0.25, 0.45, 0.75), (0.85, 0.8, 0.7)][number]
    return np.ones((HEIGHT, WIDTH, 3)) * colour


def _gradient(number: int, rng: np.random.Generator) -> Picture:
    top, bottom = [
        ((0.95, 0.95, 0.97), (0.7, 0.7, 0.72)), ((0.55, 0.6, 0.7), (0.8, 0.8, 0.8)),
        ((0.9, 0.85, 0.75), (0.6, 0.55, 0.5)), ((0.45, 0.6, 0.5), (0.3, 0.42, 0.4)),
    ][number]  # fmt: skip
    down = np.linspace(0, 1, HEIGHT)[:, None, None]
    aside = np.linspace(-1, 1, WIDTH)[None, :, None]
    return (1 - down) * np.array(top) + down * np.array(bottom) - 0.08 * aside**2  # darker corners


def _texture(number: int, rng: np.random.Generator) -> Picture:
    """Noise of four grains and colours."""
    grain = (1.0, 3.0, 8.0, 20.0)[number]
    colour = np.array([(0.5, 0.5, 0.5), (0.45, 0.55, 0.3), (0.6, 0.5, 0.4), (0.4, 0.5, 0.65)][number])
    noise = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH, 3)), (0, 0), grain)
    grey = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH, 1)), (0, 0), grain)[..., None]
    return colour + 0.12 * grey / grey.std() + 0.04 * noise / noise.std()


def _street(number: int, rng: np.random.Generator) -> Picture:
    """Sky, houses or trees, and asphalt with a white line."""
    horizon = int(HEIGHT * (0.3, 0.4, 0.5, 0.35)[number])
    sky = [(0.6, 0.75, 0.95), (0.85, 0.87, 0.9), (0.5, 0.65, 0.9), (0.75, 0.8, 0.85)][number]
    picture = np.empty((HEIGHT, WIDTH, 3))
    picture[:horizon] = np.array(sky) * np.linspace(0.9, 1.0, horizon)[:, None, None]
    asphalt = np.array((0.42, 0.42, 0.43)) * np.linspace(0.85, 1.1, HEIGHT - horizon)[:, None, None]
    picture[horizon:] = asphalt + rng.normal(0, 0.03, (HEIGHT - horizon, WIDTH, 1))
    x = 0
    while number % 2 and x < WIDTH:  # a row of houses
        width, height = int(rng.integers(25, 70)), int(rng.integers(20, 80))
        picture[max(0, horizon - height) : horizon, x : x + width] = rng.uniform(0.35, 0.75) + rng.uniform(-0.1, 0.1, 3)
        x += width
    if number >= 2:
        line = horizon + int(0.75 * (HEIGHT - horizon))
        picture[line : line + 6] = 0.85
    return cv2.GaussianBlur(picture, (0, 0), 0.8)


def _photograph(number: int, rng: np.random.Generator) -> Picture:
    """Photographs that come with scikit-image: a brick wall, gravel, grass, and a table with a cup beside it."""
    from skimage import data

    image = (data.brick, data.gravel, data.grass, data.coffee)[number]()
    pixels = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image
    if number == 3:
        pixels = pixels[:, 400:]  # the table beside the cup
    tint = np.array([(1.05, 0.85, 0.75), (1.0, 1.0, 1.0), (0.75, 1.05, 0.6), (1.0, 1.0, 1.0)][number])
    return cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) / 255 * tint
