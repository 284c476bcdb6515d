"""LPIPS against published figures, where its weights are looked for, and their reader against malice."""

import hashlib
import pickle
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

import mvgenvs.perceptual
from mvgenvs.errors import UserError
from mvgenvs.perceptual import HUB_FILES, PACKAGE_FILES, PerceptualDistance, Trunk, find_trunk, unpickle_arrays

PICTURES = Path(__file__).resolve().parents[2] / "shared" / "metrics"


def distance_or_skip(net: str) -> PerceptualDistance:
    try:
        return PerceptualDistance(net, find_trunk(net, download=False))
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def alex() -> PerceptualDistance:
    return distance_or_skip("alex")


@pytest.fixture(scope="module")
def vgg() -> PerceptualDistance:
    return distance_or_skip("vgg")


def picture(name: str) -> Float[Tensor, "1 3 h w"]:
    return torch.from_numpy(np.array(Image.open(PICTURES / name).convert("RGB"))).permute(2, 0, 1)[None].float() / 255


@pytest.mark.skipif(not PICTURES.is_dir(), reason="the reference pictures of LPIPS's authors are not here")
@pytest.mark.parametrize(("name", "expected"), [("ex_p0.png", 0.722), ("ex_p1.png", 0.138)])
def test_lpips_gives_its_authors_figures(alex: PerceptualDistance, name: str, expected: float) -> None:
    assert alex(picture(name), picture("ex_ref.png")).item() == pytest.approx(expected, abs=5e-4)


def test_vgg_gives_the_published_figures_of_seeded_noise(vgg: PerceptualDistance) -> None:
    """As printed by lpips 0.1.4 and by torchmetrics in public notes, for numpy's seed 123 and 10 pairs of images."""
    numbers = np.random.RandomState(123)
    a, b = (torch.from_numpy(numbers.rand(10, 3, 100, 100)).float()[:3] for _ in range(2))
    assert vgg(a, b).tolist() == pytest.approx([0.3497, 0.3494, 0.3473], abs=5e-5)


def test_lpips_is_0_for_identity_and_grows_with_noise(alex: PerceptualDistance) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, 64, 64, generator=generator)
    noise = torch.randn(1, 3, 64, 64, generator=generator)
    values = alex(torch.cat([truth + level * noise for level in (0.0, 0.1, 0.4)]), truth.expand(3, -1, -1, -1))
    assert values[0] == 0
    assert values[0] < values[1] < values[2]


def test_many_views_are_measured_one_by_one(alex: PerceptualDistance) -> None:
    views = torch.rand(2, 18, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(alex(*views)[[0, 17]], alex(views[0, [0, 17]], views[1, [0, 17]]), atol=1e-5)


def write_trunk(path: Path, seed: int) -> None:
    """A file like torchvision's, with a single small convolution."""
    weight = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    torch.save({"features.0.weight": weight, "features.0.bias": torch.zeros(2)}, path)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Empty folders that stand for all places of trunks; the file on the internet has a name that fits its hash."""
    folders = {name: tmp_path / name for name in ("given", "hub/checkpoints", "package", "internet")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    write_trunk(file := folders["internet"] / "new", seed=0)
    name = f"alexnet-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(file.with_name(name))
    monkeypatch.setitem(HUB_FILES, "alex", name)
    monkeypatch.setattr(mvgenvs.perceptual, "HUB_URL", folders["internet"].as_uri())
    monkeypatch.setattr(mvgenvs.perceptual, "_package_folder", lambda: [folders["package"]])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return folders


def test_trunks_are_looked_for_in_the_order_given_cache_package_internet(places: dict[str, Path]) -> None:
    name = HUB_FILES["alex"]
    fetched = find_trunk("alex")
    cached = places["hub/checkpoints"] / name
    assert fetched.sha256 == hashlib.sha256(cached.read_bytes()).hexdigest()
    cached.unlink()
    for seed, place in enumerate(("package", "hub/checkpoints", "given"), start=1):  # each before those already there
        write_trunk(places[place] / name, seed)
        found = find_trunk("alex", places["given"] if place == "given" else None)
        assert found.sha256 == hashlib.sha256((places[place] / name).read_bytes()).hexdigest(), place


def test_nothing_is_fetched_for_a_folder_given_or_against_the_callers_will(places: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"no ImageNet weights .* in .*given: run `pip"):
        find_trunk("alex", places["given"])
    with pytest.raises(UserError, match="no ImageNet weights"):
        find_trunk("alex", download=False)
    assert not list(places["hub/checkpoints"].iterdir())


def test_a_download_that_is_wrong_or_impossible_gives_one_sentence_and_leaves_nothing(places: dict[str, Path]) -> None:
    file = places["internet"] / HUB_FILES["alex"]
    write_trunk(file, seed=9)  # under the name of another
    with pytest.raises(UserError, match=r"could not fetch them \(invalid hash value.*\): run `pip install"):
        find_trunk("alex")
    file.unlink()
    with pytest.raises(UserError, match=r"could not fetch them \(.*\): run `pip install"):
        find_trunk("alex")
    assert not list(places["hub/checkpoints"].iterdir())


def test_a_silent_server_is_given_up_after_a_short_time(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections, and says nothing
        monkeypatch.setattr(mvgenvs.perceptual, "HUB_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(mvgenvs.perceptual, "HUB_TIMEOUT", 0.2)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        start = time.monotonic()
        with pytest.raises(UserError, match="timed out"):
            find_trunk("alex")
    assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() is None


class Malicious:
    """Its pickle asks to run a command."""

    def __reduce__(self) -> tuple:
        return print, ("a pickle ran code",)


def test_unpickler_reads_arrays_and_refuses_anything_else(capsys: pytest.CaptureFixture[str]) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(unpickle_arrays(pickle.dumps({"a": {"b": array}}, protocol=4))["a"]["b"], array)
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        unpickle_arrays(pickle.dumps({"a": array, "b": Malicious()}))
    assert capsys.readouterr().out == ""


def test_malicious_damaged_and_missing_weights_give_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ImageNet weights"):
        find_trunk("alex", tmp_path)
    (tmp_path / PACKAGE_FILES["alex"]).write_bytes(pickle.dumps({"AlexNet_0": Malicious()}))
    with pytest.raises(UserError, match="cannot read"):
        find_trunk("alex", tmp_path)
    (tmp_path / HUB_FILES["vgg"]).write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot read"):
        find_trunk("vgg", tmp_path)


def test_torchvision_and_flax_files_hold_the_same_convolutions(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    convolutions = [
        (torch.rand(4, 3, 5, 5, generator=generator), torch.rand(4, generator=generator)) for _ in range(11)
    ]
    state = {f"features.{2 * i}.weight": weight for i, (weight, _) in enumerate(convolutions)}
    state |= {f"features.{2 * i}.bias": bias for i, (_, bias) in enumerate(convolutions)}
    layers = {
        f"Conv_{i}": {"kernel": weight.permute(2, 3, 1, 0).numpy(), "bias": bias.numpy()}
        for i, (weight, bias) in enumerate(convolutions)
    }
    torch.save(state, tmp_path / HUB_FILES["alex"])
    (tmp_path / PACKAGE_FILES["vgg"]).write_bytes(pickle.dumps({"VGG16_0": layers, "NetLinLayer_0": {}}))
    for net in ("alex", "vgg"):
        for read, written in zip(find_trunk(net, tmp_path).convolutions, convolutions, strict=True):
            assert torch.equal(read[0], written[0])
            assert torch.equal(read[1], written[1])


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(UserError, match="does not hold"):
        PerceptualDistance("alex", Trunk([], "empty.ckpt", ""))
