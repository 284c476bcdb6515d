"""The refiner's training: from views that a pipeline makes, to a pipeline whose views are nearer to the truth."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import ray_cast, ring_cameras, tiny_config, tiny_parts, toy_car, write_srn

import train_multiview
from mvgenvs.config import CodecConfig, DenoiserConfig
from mvgenvs.diffusion.refiner import Refiner
from mvgenvs.errors import UserError
from mvgenvs.perceptual import PerceptualDistance
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training import refining


class SquaredError(PerceptualDistance):
    """Stands in for LPIPS, whose weights a test should not need."""

    def __init__(self, *_: object) -> None: ...

    def loss(self, predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return (predicted - truth).square().mean()


@pytest.fixture(autouse=True)
def no_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "PerceptualDistance", SquaredError)
    monkeypatch.setattr(refining, "find_trunk", lambda net: None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    pipeline = MultiViewPipeline.from_parts(tiny_parts(), default_steps=1, default_guidance=1.0)
    pipeline.save_pretrained(tmp_path / "before")
    return tmp_path / "before"


@pytest.fixture
def true() -> torch.Tensor:
    return (ray_cast(toy_car(1), ring_cameras(6)).images * 255).round().byte()


def test_crops_are_of_the_same_place_in_both(true, generator):
    before, truth = refining.crops(255 - true, true, generator)
    assert before.shape == (refining.BATCH, 3, 32, 32)
    torch.testing.assert_close(before, 1 - truth)


def test_a_refiner_learns_to_undo_a_fault(true):
    torch.manual_seed(0)
    made = (true.float() * 0.7 + 40).byte()  # a grey veil
    refiner = Refiner(2, 16, 1)
    losses = list(refining.train_refiner(refiner, made, true, SquaredError(), 60, 0))
    assert losses[-1]["l1"] < 0.4 * losses[0]["l1"]
    with torch.no_grad():
        after = made / 255 + refiner(made / 255)  # by the averaged weights
    assert (after - true / 255).abs().mean() < 0.6 * (made / 255 - true / 255).abs().mean()


def test_the_command_makes_views_once_and_changes_the_refiner_alone(checkpoint, tmp_path):
    data = write_srn(tmp_path / "data", views=8)
    words = ["refine", str(checkpoint), "--data", str(data), "--output", str(tmp_path / "out"), "--sets", "2"]
    assert train_multiview.main([*words, "--steps", "2"]) == 0
    pictures = sorted((tmp_path / "out" / "views").glob("*.png"))
    assert [path.name for path in pictures] == ["000000.png", "000001.png"]
    written = [path.stat().st_mtime_ns for path in pictures]
    assert train_multiview.main([*words, "--steps", "2"]) == 0
    assert [path.stat().st_mtime_ns for path in pictures] == written
    before, after = (MultiViewPipeline.from_pretrained(folder) for folder in (checkpoint, tmp_path / "out"))
    for name in ("nerf", "denoiser"):
        for a, b in zip(getattr(before, name).parameters(), getattr(after, name).parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)  # fp16
    latents = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(before.codec.unrefined(latents), after.codec.unrefined(latents), atol=1e-2, rtol=0)
    assert after.codec.refiner.leave.weight.abs().max() > 0  # began at zero
    assert (after.config.default_steps, after.config.default_guidance) == (1, 1.0)


def test_a_codec_without_a_refiner_is_one_sentence(tmp_path):
    config = replace(
        tiny_config(),
        codec=CodecConfig(kind="identity"),
        denoiser=DenoiserConfig(render_size=32, condition_scale=1, block_out_channels=(16, 32)),
    )
    MultiViewPipeline.from_parts(tiny_parts(config)).save_pretrained(tmp_path / "pixels")
    with pytest.raises(UserError, match="has no refiner"):
        refining.refine_checkpoint(str(tmp_path / "pixels"), [str(tmp_path)], tmp_path / "out", 1, 1, 0)


def test_views_of_another_model_or_seed_are_refused(checkpoint, tmp_path):
    data = write_srn(tmp_path / "data", views=8)
    words = ["refine", str(checkpoint), "--data", str(data), "--output", str(tmp_path / "out"), "--sets", "1"]
    assert train_multiview.main([*words, "--steps", "1"]) == 0
    with pytest.raises(UserError, match="another model"):
        train_multiview.main([*words, "--steps", "1", "--seed", "1"])
    with pytest.raises(UserError, match="another model"):
        train_multiview.main([words[0], str(tmp_path / "out" / "pipeline"), *words[2:], "--steps", "1"])
    foreign = tmp_path / "foreign" / "views"
    foreign.mkdir(parents=True)
    (foreign / "000000.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="another model"):
        train_multiview.main([*words[:4], "--output", str(tmp_path / "foreign"), "--sets", "1", "--steps", "1"])
    assert (foreign / "000000.png").read_bytes() == b"mine"
