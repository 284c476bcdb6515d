"""LPIPS against published figures, and its weights' reader against malice."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eval.perceptual import HUB_FILES, PACKAGE_FILES, PerceptualDistance, Trunk, find_trunk, unpickle_arrays
from mvgenvs.errors import UserError

PICTURES = Path(__file__).resolve().parents[2] / "shared" / "metrics"


@pytest.fixture(scope="module")
def alex() -> PerceptualDistance:
    try:
        return PerceptualDistance("alex", find_trunk("alex"))
    except UserError as error:
        pytest.skip(str(error))


def picture(name: str) -> Float[Tensor, "1 3 h w"]:
    return torch.from_numpy(np.array(Image.open(PICTURES / name).convert("RGB"))).permute(2, 0, 1)[None].float() / 255


@pytest.mark.skipif(not PICTURES.is_dir(), reason="the reference pictures of LPIPS's authors are not here")
@pytest.mark.parametrize(("name", "expected"), [("ex_p0.png", 0.722), ("ex_p1.png", 0.138)])
def test_lpips_gives_its_authors_figures(alex: PerceptualDistance, name: str, expected: float) -> None:
    assert alex(picture(name), picture("ex_ref.png")).item() == pytest.approx(expected, abs=5e-4)


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
