"""The refiner's stage: from views that a model makes, to a model whose views are nearer to the truth."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import assert_equal, weights
from tiny import ray_cast, ring_cameras, tiny_config, tiny_parts, toy_car, write_srn

import train_multiview
from mvgenvs.config import CodecConfig, DenoiserConfig, LossConfig, OptimConfig, RefineConfig, TrainConfig
from mvgenvs.errors import UserError
from mvgenvs.parts import Parts, load_parts
from mvgenvs.perceptual import PerceptualDistance
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training import loop, refining, trainer
from mvgenvs.training.refining import Crops, Refinement, forget_refiner


class SquaredError(PerceptualDistance):
    """Stands in for LPIPS, whose weights a test should not need."""

    def __init__(self, *_: object) -> None: ...

    def loss(self, predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return (predicted - truth).square().mean()


@pytest.fixture(autouse=True)
def no_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "PerceptualDistance", SquaredError)
    monkeypatch.setattr(refining, "vgg_trunk", lambda config: None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    pipeline = MultiViewPipeline.from_parts(tiny_parts(), default_steps=1, default_guidance=1.0)
    pipeline.save_pretrained(tmp_path / "before")
    return tmp_path / "before"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_srn(tmp_path / "data", views=8)


@pytest.fixture
def true() -> torch.Tensor:
    return (ray_cast(toy_car(1), ring_cameras(6)).images * 255).round().byte()


def stage(checkpoint: Path, data: Path, output: Path, steps: int = 2, **refine: object) -> TrainConfig:
    config = tiny_config(data, output)
    run = replace(config.run, train=("codec",), init_from=str(checkpoint), checkpoint_every=100)
    return replace(
        config,
        loss=LossConfig(refine=1.0, perceptual=1.0, perceptual_crop=16),
        refine=RefineConfig(**{"sets": 2, "views": 3, **refine}),
        optim=OptimConfig(steps=steps, batch=2, warmup=1),
        run=run,
    )


def test_crops_are_of_the_same_place_in_both_and_a_function_of_their_number(true: torch.Tensor) -> None:
    crops = Crops(255 - true, true, 16, 0)
    pairs = Crops.collate([crops[index] for index in range(20)])
    assert pairs.made.shape == (20, 3, 16, 16)
    torch.testing.assert_close(pairs.made, 1 - pairs.true)
    assert torch.equal(crops[7], Crops(255 - true, true, 16, 0)[7])
    assert not torch.equal(crops[7], crops[8]) and not torch.equal(crops[7], Crops(255 - true, true, 16, 1)[7])


def test_a_refiner_learns_to_undo_a_fault(true: torch.Tensor) -> None:
    torch.manual_seed(0)
    made = (true.float() * 0.7 + 40).byte()  # a grey veil
    parts = tiny_parts()
    forget_refiner(parts.codec)
    learner = Refinement(parts, stage(Path("none"), Path("none"), Path("none")))
    assert {name for name, p in parts.codec.named_parameters() if p.requires_grad} == {
        f"refiner.{name}" for name, _ in parts.codec.refiner.named_parameters()
    }
    assert not any(p.requires_grad for part in (parts.nerf, parts.denoiser) for p in part.parameters())
    crops = Crops(made, true, 32, 0)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], 1e-3)
    for step in range(60):
        losses = learner(Crops.collate([crops[8 * step + place] for place in range(8)]), 0.0)
        optimizer.zero_grad()
        learner.total(losses).backward()
        optimizer.step()
    with torch.no_grad():
        after = made / 255 + parts.codec.refiner(made / 255)
    assert (after - true / 255).abs().mean() < 0.6 * (made / 255 - true / 255).abs().mean()


def test_the_command_makes_views_once_and_changes_the_refiner_alone(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert 0 < after.codec.refiner.leave.weight.abs().max() < 0.01, "two steps away from zero, not from what it was"
    assert (after.config.default_steps, after.config.default_guidance) == (1, 1.0)


def test_a_refiner_may_go_on_from_what_it_was(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Both are two small steps from where they began: the model's own refiner, or one that does nothing."""
    words = ["refine", str(checkpoint), "--data", str(data), "--sets", "2", "--steps", "2"]
    assert train_multiview.main([*words, "--output", str(tmp_path / "kept"), "--keep"]) == 0
    assert train_multiview.main([*words, "--output", str(tmp_path / "new")]) == 0
    before, kept, new = (
        MultiViewPipeline.from_pretrained(folder).codec.refiner.leave.weight
        for folder in (checkpoint, tmp_path / "kept", tmp_path / "new")
    )
    assert before.abs().max() > 0.05 and new.abs().max() < 0.01
    assert 0 < (kept - before).abs().max() < 0.01


def test_views_are_those_of_the_model_without_its_refiner(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    assert trainer.train(stage(checkpoint, data, tmp_path / "run", steps=1), resume=False) == 0
    plain = load_parts(checkpoint)
    torch.nn.init.zeros_(plain.codec.refiner.leave.weight)
    torch.nn.init.zeros_(plain.codec.refiner.leave.bias)
    MultiViewPipeline.from_parts(plain, default_steps=1, default_guidance=1.0).save_pretrained(tmp_path / "plain")
    assert trainer.train(stage(tmp_path / "plain", data, tmp_path / "other", steps=1), resume=False) == 0
    for name in ("000000.png", "000001.png"):
        ours, theirs = (tmp_path / run / "views" / name for run in ("run", "other"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_resume_equals_uninterrupted(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while views are made, and again between two steps."""

    def stop_after_one(*args: object, **options: object) -> Iterator[loop.StepReport]:
        for report in original(*args, **options):
            if report.step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    def killed(self: MultiViewPipeline, *args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample(self, *args, **options)

    original, sample, calls = loop.train, MultiViewPipeline.__call__, []
    assert trainer.train(stage(checkpoint, data, tmp_path / "whole", steps=3), resume=False) == 0
    config = stage(checkpoint, data, tmp_path / "run", steps=3)
    monkeypatch.setattr(MultiViewPipeline, "__call__", killed)
    with pytest.raises(SystemExit):
        trainer.train(config, resume=True)
    assert len(list((tmp_path / "run/views").glob("*.png"))) == 1
    monkeypatch.setattr(loop, "train", stop_after_one)
    assert trainer.train(config, resume=True) == 1
    monkeypatch.setattr(loop, "train", original)
    torch.manual_seed(77)
    assert trainer.train(config, resume=True) == 0
    assert len(calls) == 3, "each set is sampled once"
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_minutes_bound_the_number_of_sets(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    config = stage(checkpoint, data, tmp_path / "run", sets=50)
    config = replace(config, run=replace(config.run, minutes=0.0001))
    assert trainer.train(config, resume=False) == 0
    assert len(list((tmp_path / "run/views").glob("*.png"))) == 3, "those by which the time of one is known"
    plan = json.loads((tmp_path / "run/views/plan.json").read_text())
    assert plan["count"] == 3 and plan["seconds"] > 0
    written = (tmp_path / "run/views/plan.json").read_text()
    assert trainer.train(config, resume=True) == 0
    assert (tmp_path / "run/views/plan.json").read_text() == written


def pixels(tmp_path: Path) -> Parts:
    config = replace(
        tiny_config(),
        codec=CodecConfig(kind="identity"),
        denoiser=DenoiserConfig(render_size=32, condition_scale=1, block_out_channels=(16, 32)),
    )
    return tiny_parts(config)


def test_a_codec_without_a_refiner_is_one_sentence(tmp_path: Path, data: Path) -> None:
    MultiViewPipeline.from_parts(pixels(tmp_path)).save_pretrained(tmp_path / "pixels")
    with pytest.raises(UserError, match="has no refiner"):
        train_multiview.main(["refine", str(tmp_path / "pixels"), "--data", str(data), "--output", str(tmp_path / "o")])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: replace(c, run=replace(c.run, train=("codec", "nerf"))), "a stage of its own"),
        (lambda c: replace(c, loss=replace(c.loss, denoise=1.0)), "a stage of its own"),
        (lambda c: replace(c, run=replace(c.run, init_from="")), "a finished model"),
        (lambda c: replace(c, run=replace(c.run, init_parts=("nerf",))), "a finished model"),
        (lambda c: replace(c, refine=replace(c.refine, sets=0)), "of at least 1"),
        (lambda c: replace(c, loss=replace(c.loss, perceptual_crop=15)), "multiple of 2"),
    ],
)
def test_mistaken_stages_are_one_sentence(
    checkpoint: Path, data: Path, tmp_path: Path, change: object, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        trainer.train(change(stage(checkpoint, data, tmp_path / "run")), resume=False)


def test_views_of_another_model_or_seed_are_refused(checkpoint: Path, data: Path, tmp_path: Path) -> None:
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
