"""What evaluations are tested on: toy cars, a stand-in for the pipeline, and the words of a run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from toy_eval import ORBIT_IDS, SRN_IDS, FakePipeline, write_cars

from eval import evaluation
from eval.metrics import suite
from eval.metrics.features import FeatureExtractor
from eval.report import plots


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cars(tmp_path_factory.mktemp("data"), ORBIT_IDS)


@pytest.fixture(scope="module")
def srn_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cars(tmp_path_factory.mktemp("srn"), SRN_IDS)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr(evaluation, "load_pipeline", lambda folder, device: fake)
    return fake


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of such small runs; tests/test_report.py draws them."""
    monkeypatch.setattr(plots, "can_plot", lambda: False)


@pytest.fixture
def arguments(data: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of a run without networks, and more words that overrule these."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "model_index.json").write_text("{}")

    def build(*more: str, output: str = "report") -> list[str]:
        common = ["--checkpoint", str(checkpoint), "--data", str(data), "--lpips-nets", "--metrics", "--device", "cpu"]
        return [*common, "--output", str(tmp_path / output), *more]

    return build


@pytest.fixture
def tiny_features(monkeypatch: pytest.MonkeyPatch) -> FeatureExtractor:
    """Mean colours instead of EfficientNet's features."""
    extractor = FeatureExtractor(
        "colours", "FD-effnet", "KD-effnet", "here", "0" * 64, 3, lambda pictures: pictures.float().mean(dim=(2, 3))
    )
    monkeypatch.setattr(suite, "effnet_lite0", lambda device: extractor)
    return extractor
