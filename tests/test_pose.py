"""Estimating a photo's camera: what the network sees, what its answer means, and how it learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import ray_cast, ring_cameras, toy_car
from tiny_data import write_opencars

import train_multiview
from mvgenvs.cameras import Cameras, look_at_origin
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.parts import CAMERA_NETWORK
from mvgenvs.pose.crops import SIDE, Window, crop, window_around
from mvgenvs.pose.estimate import estimate_camera, framed, load_network, peaks
from mvgenvs.pose.network import BINS, FRAME, CameraNet, Prediction, azimuth_centers
from mvgenvs.training.camera import Labels, Pool, PosedCrops, framing, losses, moved_along_axis
from mvgenvs.trajectories import angles_of


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return open_scenes(write_opencars(tmp_path_factory.mktemp("data"), {"train": 2}, size=64), "train", 64)


def dot(size, x, y):
    """A transparent image but for a disc around a place."""
    v, u = np.mgrid[:size, :size] + 0.5
    there = ((u - x) ** 2 + (v - y) ** 2 < 16).astype(np.float32)
    return np.stack([1 - there] * 3 + [there], axis=-1).astype(np.float32)


def middle_of(pixels):
    v, u = np.nonzero(pixels[..., 3] > 0.5)
    return u.mean() + 0.5, v.mean() + 0.5


def test_crops_show_their_window():
    """Places go through the map of the window; a roll turns about its middle; beyond the image it is white."""
    window = Window(50.0, 40.0, 80.0)
    for x, y in ((50.0, 40.0), (70.0, 30.0), (20.0, 60.0)):
        expected = np.array([(x - 50) / 80 + 0.5, (y - 40) / 80 + 0.5]) * SIDE
        np.testing.assert_allclose(middle_of(crop(dot(100, x, y), window)), expected, atol=0.6)
    turned = np.array(middle_of(crop(dot(100, 70.0, 40.0), window, roll=90.0)))
    assert abs(turned[0] - SIDE / 2) < 0.6 and abs(abs(turned[1] - SIDE / 2) - 20 / 80 * SIDE) < 0.6
    np.testing.assert_array_equal(crop(dot(100, 50.0, 40.0), Window(0.0, 0.0, 80.0))[0, 0], [1, 1, 1, 0])


def test_windows_and_framing_are_inverse():
    """The window of the training camera's image, found again from a crop and its framing."""
    there = np.zeros((128, 128), bool)
    there[50:90, 30:100] = True
    window = window_around(there)
    assert (window.x, window.y) == (65.0, 70.0)
    scale, aside, down = framing(window, 128)
    assert window.side / math.exp(scale) == pytest.approx(128)
    assert window.x + aside * window.side == pytest.approx(64)
    assert window.y + down * window.side == pytest.approx(64)


def test_framed_pictures_are_cut_or_filled_up():
    image = Image.new("RGBA", (40, 30), (200, 0, 0, 255))
    found = np.asarray(framed(image, Window(20.0, 15.0, 60.0)))
    assert found.shape == (60, 60, 4)
    assert found[30, 30].tolist() == [200, 0, 0, 255] and found[0, 0].tolist() == [255, 255, 255, 0]
    assert (found[..., 3] > 0).sum() == 40 * 30
    assert np.asarray(framed(image, Window(20.0, 15.0, 10.0))).shape == (10, 10, 4)


def test_views_moved_along_their_axis_are_views_from_there():
    """Against the ray-cast truth at the other distance, whose focal length keeps the origin's scale."""
    near = ray_cast(toy_car(1), ring_cameras(1, 128))
    away = 2.2
    center = near.cameras.centers / near.cameras.centers.norm() * away
    K = near.cameras.K.clone()
    K[:, 0, 0] *= away / near.cameras.centers.norm()
    K[:, 1, 1] *= away / near.cameras.centers.norm()
    truth = ray_cast(toy_car(1), Cameras(look_at_origin(center), K, (128, 128)))
    found = moved_along_axis(near, away)
    a, b = found[..., 3] > 0.5, truth.mask[0, 0].numpy() > 0.5
    before = near.mask[0, 0].numpy() > 0.5
    assert (a & b).sum() / (a | b).sum() > max(0.93, (before & b).sum() / (before | b).sum())
    both = a & b
    assert np.abs(found[..., :3] - truth.images[0].movedim(0, -1).numpy())[both].mean() < 0.03
    same = moved_along_axis(near, float(near.cameras.centers.norm()))
    np.testing.assert_allclose(same[before][:, :3], near.images[0].movedim(0, -1).numpy()[before], atol=1e-6)


def test_peaks_of_an_azimuth_distribution():
    gaps = (azimuth_centers()[:, None] - torch.tensor([357.0, 170.0]) + 180) % 360 - 180
    two = torch.exp(-0.5 * (gaps / 6) ** 2) @ torch.tensor([0.7, 0.3])
    azimuth, spread, probability, other = peaks(two / two.sum())
    assert azimuth == pytest.approx(-3, abs=0.3), "across the seam"
    assert spread == pytest.approx(6, abs=0.5)
    assert probability == pytest.approx(0.7, abs=0.01)
    assert other == pytest.approx(170, abs=0.5)
    one = torch.exp(-0.5 * (gaps[:, 0] / 6) ** 2)
    assert peaks(one / one.sum())[3] is None


class Knowing(CameraNet):
    """In place of the network: knows the azimuth of a crop by the side on which its only half is, and of its mirror."""

    def forward(self, crops):
        left = crops[:, 3, :, : SIDE // 2].mean(dim=(1, 2)) > crops[:, 3, :, SIDE // 2 :].mean(dim=(1, 2))
        azimuth = torch.where(left, 40.0, -40.0)
        gap = (azimuth_centers() - azimuth[:, None] + 180) % 360 - 180
        sign = torch.where(left, 1.0, -1.0)
        frame = torch.stack([torch.full_like(sign, math.log(0.5)), 0.1 * sign, 0.2 * torch.ones_like(sign)], dim=1)
        one = torch.tensor([[0.5, math.log(0.1)]]).expand(len(crops), 2)
        return Prediction(-0.5 * (gap / 5) ** 2, one, 0 * one, frame)


def test_a_crop_and_its_mirror_image_are_asked_together():
    image = np.zeros((100, 200, 4), np.uint8)
    image[20:60, 50:110] = (200, 0, 0, 255)
    image[40:60, 80:110, 3] = 0
    found = estimate_camera(Image.fromarray(image), Knowing())
    assert found.azimuth == pytest.approx(40, abs=0.1)
    assert found.elevation == pytest.approx(15) and found.elevation_spread == pytest.approx(3)
    side = window_around(image[..., 3] > 0).side
    assert found.window.side == pytest.approx(2 * side)
    assert found.window.x == pytest.approx(80 + 0.1 * side) and found.window.y == pytest.approx(40 + 0.2 * side)
    azimuth, elevation = angles_of(found.camera.centers[0])
    assert (azimuth.item(), elevation.item()) == pytest.approx((40, 15), abs=0.1)
    with pytest.raises(UserError, match="nothing but background"):
        estimate_camera(Image.new("RGBA", (50, 50), (255, 255, 255, 0)), Knowing())


def test_examples_depend_on_their_number_alone(scenes):
    data = PosedCrops(scenes, seed=3)
    first, again, next_one = data[5], PosedCrops(scenes, seed=3)[5], data[6]
    torch.testing.assert_close(first[0], again[0])
    torch.testing.assert_close(first[1], again[1])
    assert not torch.equal(first[0], next_one[0])


def test_mirrored_crops_have_mirrored_labels(scenes):
    """Half of a batch is mirrored: every crop is one of the pool's or its mirror image, and so is its azimuth."""
    pool = Pool(PosedCrops(scenes, seed=0), first=6, most=6, fresh=0)
    crops, labels = pool.batch(24, torch.Generator().manual_seed(0))
    turned = 0
    for pixels, azimuth, frame in zip(crops, labels.azimuth, labels.frame, strict=True):
        for own, row in zip(pool.crops.float() / 255, pool.rows, strict=True):
            if torch.equal(pixels, own):
                torch.testing.assert_close(azimuth, row[0])
                break
            if torch.equal(pixels, own.flip(-1)):
                turned += 1
                torch.testing.assert_close(azimuth, -row[0])
                torch.testing.assert_close(frame, row[3:] * torch.tensor([1, -1, 1]))
                break
        else:
            pytest.fail("a crop that is not in the pool")
    assert 4 < turned < 20


def test_the_pool_replaces_its_oldest(scenes):
    pool = Pool(PosedCrops(scenes, seed=0), first=4, most=4, fresh=1)
    before = pool.crops.clone()
    pool.batch(2, torch.Generator())
    assert not torch.equal(pool.crops[0], before[0])
    torch.testing.assert_close(pool.crops[1:], before[1:])


def test_losses_are_least_at_the_truth():
    labels = Labels(torch.tensor([-170.0]), torch.tensor([15.0]), torch.tensor([1.3]), torch.tensor([[0.1, 0.2, 0.3]]))

    def loss(azimuth, elevation=0.5):
        gap = (azimuth_centers() - azimuth + 180) % 360 - 180
        spread = torch.tensor([-2.0])
        means = torch.tensor([[elevation, -2.0]]), torch.cat([torch.zeros(1), spread])[None]
        found = losses(Prediction((-0.5 * (gap / 4) ** 2)[None], *means, labels.frame), labels)
        return found["azimuth"].item(), found["elevation"].item(), found["frame"].item()

    assert loss(190.0)[0] < min(loss(180.0)[0], loss(200.0)[0], loss(10.0)[0])
    assert loss(190.0, 0.5)[1] < min(loss(190.0, 0.4)[1], loss(190.0, 0.6)[1])
    assert loss(190.0)[2] == 0


def test_data_without_depth_are_refused(scenes):
    class Bare(CachedScenes):
        objects = scenes.objects

        def read(self, index):
            return replace(scenes.read(index), mask=None, depth=None)

    with pytest.raises(UserError, match="lacks masks or depths"):
        PosedCrops(Bare(), 0)[0]


def test_the_command_trains_and_its_folder_loads(tmp_path, scenes, monkeypatch, capsys):
    monkeypatch.setattr("mvgenvs.training.camera.BATCH", 4)
    monkeypatch.setattr(Pool.__init__, "__defaults__", (8, 16, 1))
    few = ["--steps", "20"]
    root, folder = scenes.objects[0].folder.parent.parent, tmp_path / "net"
    assert train_multiview.main(["camera", "--data", str(root), "--output", str(folder), *few]) == 0
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for name, tensor in weights.items() if "num_batches" not in name} == {torch.float16}
    network = load_network(folder)
    torch.testing.assert_close(network.leave.bias, weights["leave.bias"].float())
    assert not network.training
    with pytest.raises(UserError, match="there is no folder"):
        train_multiview.main(["camera", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "x"), *few])


def test_folders_that_hold_no_network_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="train it anew"):
        load_network(tmp_path)
    CameraNet(widths=(8, 8, 8, 8)).save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    load_network.cache_clear()
    with pytest.raises(UserError, match="train it anew"):
        load_network(tmp_path)


def test_the_bundled_network_is_small_and_reads_the_sample_car():
    files = list(CAMERA_NETWORK.iterdir())
    assert sum(path.stat().st_size for path in files) < 2_000_000
    network = load_network()
    found = network(torch.rand(2, 4, SIDE, SIDE))
    assert found.azimuth_logits.shape == (2, BINS) and found.frame.shape == (2, FRAME)
