"""Pictures and videos are what was put in, whole or not there."""

import av
import numpy as np
import pytest
import torch

from mvgenvs.media import color_depth, contact_sheet, read_png, tile, to_uint8, write_png
from mvgenvs.video import VideoWriter


def test_uint8_rounds_and_clips():
    values = torch.tensor([-1.0, 0.0, 0.5 / 255 + 1e-4, 254.4 / 255, 2.0]).reshape(1, 1, 5).expand(3, 1, 5)
    assert to_uint8(values)[0, :, 0].tolist() == [0, 0, 1, 254, 255]


def test_png_round_trip(tmp_path, generator):
    image = torch.rand(3, 10, 7, generator=generator)
    write_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), to_uint8(image))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_depth_colors_near_bright_and_background_white():
    depth = torch.tensor([0.0, 0.9, 1.3, 1.7, 5.0]).reshape(1, 1, 1, 5)
    colors = color_depth(depth)
    assert colors.shape == (1, 3, 1, 5)
    near, middle, far = (colors[0, :, 0, i].mean() for i in (1, 2, 3))
    assert near > middle > far
    assert (colors[..., [0, 4]] == 1).all()


def test_tile_pads_with_white(generator):
    images = torch.rand(5, 3, 4, 6, generator=generator)
    tiled = tile(images, columns=3)
    assert tiled.shape == (3, 8, 18)
    torch.testing.assert_close(tiled[:, 4:, 6:12], images[4])
    assert (tiled[:, 4:, 12:] == 1).all()


def test_contact_sheet_wraps_sequences_and_shows_every_image(generator):
    colors = torch.rand(10, 3, 1, 1, generator=generator) * 0.9
    views = colors.expand(10, 3, 100, 100)
    sheet = contact_sheet([("input", views[:1]), ("samples", views), ("depth", views)], columns=4, numbers=range(10))
    shown = {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}
    assert {tuple(c) for c in to_uint8(views)[:, 0, 0].tolist()} <= shown
    assert sheet.shape[1] >= 4 * 100
    assert sheet.shape[0] >= 7 * 100, "one input row, and three rows each of samples and depth"


def test_contact_sheet_enlarges_small_images_by_a_whole_factor():
    sheet = contact_sheet([("a", torch.zeros(2, 3, 40, 40))], min_side=96)
    black = (sheet == 0).all(axis=-1)
    assert black.any(axis=1).sum() == 120


@pytest.mark.parametrize(("hw", "expected"), [((64, 64), (256, 256)), ((301, 300), (300, 300))])
def test_video_plays_in_browsers(tmp_path, hw, expected):
    with VideoWriter(tmp_path / "a.mp4") as video:
        for level in (0.0, 0.5, 1.0):
            video.write(torch.full((3, *hw), level))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat"), "the index must come first"
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert [frame.shape[:2] for frame in frames] == [expected] * 3
    for frame, level in zip(frames, (0, 128, 255), strict=True):
        assert abs(frame.mean() - level) < 4


def test_interrupted_video_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4") as video:
        video.write(torch.zeros(3, 32, 32))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one size"), VideoWriter(tmp_path / "a.mp4") as video:
        video.write(torch.zeros(3, 32, 32))
        video.write(torch.zeros(3, 64, 32))
