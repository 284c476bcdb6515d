"""What orbits and long sequences cost: the tables, and that memory does not grow along a sequence."""

import gc
import json
from pathlib import Path

import pytest
import torch
from diffusers import EDMEulerScheduler
from tiny import SIZE, tiny_parts, tiny_pipeline

from eval import scale
from eval.benchmarks.sequences import measure_sequence, model_of_size, reset_peak
from mvgenvs.diffusion.state import Memory
from mvgenvs.model import MultiViewModel
from mvgenvs.nerf.model import Rendering
from mvgenvs.trajectories import canonical_camera

GROWTH = 0.012  # GB from view 100 to view 1,000; what the views would take if all were kept is three times as much


def tiny_model() -> MultiViewModel:
    parts = tiny_parts()
    scheduler = EDMEulerScheduler(sigma_min=0.02, sigma_max=8.0)
    return MultiViewModel(parts.codec, parts.nerf, parts.denoiser, scheduler, default_steps=1, default_guidance=1.0)


def tensors_alive() -> int:
    gc.collect()
    return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())


def held_along(folder: Path, views: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], list[int]]:
    """GB held and tensors alive when the sequence has reached these views. What the NeRF shows does not matter."""
    model = tiny_model()
    blank = Rendering.blank(canonical_camera().resized((SIZE, SIZE)).batched(), model.nerf.config.features)
    monkeypatch.setattr(model.nerf, "render", lambda *_: blank)
    photo = torch.rand(4, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    places, tensors = [], []
    for place in measure_sequence(model, photo, views, folder):
        places.append(place.resident_gbytes)
        tensors.append(tensors_alive())
    return places, tensors


def test_a_thousand_views_take_the_memory_of_a_hundred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (early, late), tensors = held_along(tmp_path, (100, 1000), monkeypatch)
    assert len(list((tmp_path / "partial/frames").iterdir())) == 1000
    assert tensors[0] == tensors[1]
    assert late - early < GROWTH


def test_the_test_before_would_see_views_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "forget", lambda *_: None)
    _, (early, late) = held_along(tmp_path, (20, 40), monkeypatch)
    assert late - early >= 20


def test_the_tables_have_the_rows_that_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    words = [
        "--checkpoint",
        str(tmp_path / "tiny"),
        "--views",
        "2",
        "3",
        "--batch",
        "1",
        "2",
        "--sizes",
        "--along",
        "5",
    ]
    scale.main([*words, "--output", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out/scale.json").read_text())
    assert [(row["batch"], row["views"]) for row in record["orbits"]] == [(1, 2), (1, 3), (2, 2)]
    assert [row["views"] for row in record["places"]] == [5]
    assert all(row["seconds"] > 0 and row["peak_gbytes"] > 0 for row in record["orbits"])
    table = (tmp_path / "out/scale.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("\n| ") == 6


def test_a_model_of_another_size_has_the_weights_of_the_first() -> None:
    bundled, larger = model_of_size("bundled", None), model_of_size("bundled", 64)
    assert (bundled.size, larger.size) == (128, 64)
    for name, weight in bundled.denoiser.state_dict().items():
        assert torch.equal(weight, larger.denoiser.state_dict()[name]), name


def test_the_peak_begins_anew() -> None:
    from eval.benchmarks.sequences import PEAK_RESET, memory_gbytes

    if not PEAK_RESET.exists():
        pytest.skip("this system keeps the peak")
    large = torch.ones(2**26)  # a quarter of a GB
    before = memory_gbytes("VmHWM")
    del large
    reset_peak()
    assert memory_gbytes("VmHWM") < before - 0.2
