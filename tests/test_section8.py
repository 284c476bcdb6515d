"""Defects that were found once, by reading and by proof: each of these tests fails where one of them is back."""

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from test_training import assert_equal, tiny, weights
from tiny import ray_cast, ring_cameras, stacked, tiny_config, tiny_parts, toy_car
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import train_multiview
from mvgenvs.config import TrainConfig, to_dict
from mvgenvs.data.sampling import Batch
from mvgenvs.errors import UserError
from mvgenvs.nerf import model
from mvgenvs.nerf.mlp import blockwise_mlp
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import checkpoints
from mvgenvs.training import checkpoint, loop
from mvgenvs.training.objective import Objective
from mvgenvs.training.schedule import StageLength
from mvgenvs.training.trainer import check
from mvgenvs.views import stack


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "CELL", 0.1)


def with_losses(trained: tuple[str, ...] = ("nerf", "denoiser"), **losses: object) -> TrainConfig:
    config = tiny_config()
    return replace(config, loss=replace(config.loss, **losses), run=replace(config.run, train=trained))


def batch_of(num_known: int = 1, masks: bool = True, seed: int = 0) -> Batch:
    views = stack([ray_cast(toy_car(number), ring_cameras(3)) for number in range(2)])
    return Batch(views if masks else replace(views, mask=None, depth=None), num_known, [seed, seed + 1])


# 1: no gradient passes the square root of the opacity


def test_conditions_of_empty_space_have_finite_gradients() -> None:
    denoiser = tiny_parts().denoiser
    features, opacity = torch.rand(1, 3, 16, 8, 8, requires_grad=True), torch.zeros(1, 3, 1, 8, 8, requires_grad=True)
    rendering = Rendering(features, torch.ones(1, 3, 1, 8, 8), opacity)
    conditions = denoiser.conditions(rendering, torch.zeros(1, 3, 8, 4, 4), stacked(ring_cameras(3), 1))
    assert not conditions.std.requires_grad
    denoiser(torch.rand(1, 3, 8, 4, 4), torch.ones(1, 3), conditions).square().sum().backward()
    assert features.grad.isfinite().all() and opacity.grad.isfinite().all()
    assert features.grad.abs().sum() > 0


def test_field_and_denoiser_learn_together_from_an_empty_scene() -> None:
    config = with_losses(rgb=1.0, denoise=1.0)
    config = replace(config, nerf=replace(config.nerf, density="exp"))
    objective = Objective(tiny_parts(config), config).train()
    with torch.no_grad():
        objective.nerf.field.mlp[-1].bias[0] = -300  # a density of exactly 0
    objective.total(objective(batch_of(), 0.0)).backward()
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


# 4: renderings are dropped for whole sets


def test_renderings_are_dropped_for_whole_sets() -> None:
    objective = Objective(tiny_parts(), with_losses(("denoiser",), denoise=1.0, drop_condition=0.5, noise_draws=8))
    seen, inner = [], objective.denoiser.conditions
    objective.denoiser.conditions = lambda *given: (seen.append(given[3]), inner(*given))[1]
    with torch.no_grad():
        for seed in range(0, 8, 2):
            objective(batch_of(seed=seed), 0.0)
    dropped = torch.cat(seen)
    assert dropped.shape == (64, 3)
    assert torch.equal(dropped.all(dim=1), dropped.any(dim=1)), "never a part of a set"
    assert 16 < dropped[:, 0].sum() < 48


# 9: edges of the objective


def test_sets_of_known_views_alone_have_a_loss() -> None:
    for options in ({"clean_known": 1.0}, {"clean_known": 1.0, "clean_views": 1.0}, {"clean_known": 0.0}):
        objective = Objective(tiny_parts(), with_losses(("denoiser",), denoise=1.0, noise_draws=4, **options))
        loss = objective.total(objective(batch_of(num_known=3), 0.0))
        loss.backward()
        assert loss.isfinite()
        gradients = [p.grad for p in objective.denoiser.parameters() if p.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_stage_without_losses_is_one_sentence(tmp_path: Path) -> None:
    for config in (with_losses(), with_losses(perceptual=1.0)):
        with pytest.raises(UserError, match="nothing to learn"):
            check(config)
    nothing = {"loss__rgb": "0.0", "loss__denoise": "0.0"}
    with pytest.raises(UserError, match="nothing to learn"):
        train_multiview.train(tiny(tmp_path / "run", **nothing), resume=False)
    assert not (tmp_path / "run").exists()
    for name in ("reconstruction", "rgb", "mask", "depth", "distance", "opacity", "denoise"):
        check(with_losses(**{name: 1.0}))


def test_losses_that_the_data_do_not_allow_are_one_sentence() -> None:
    objective = Objective(tiny_parts(), with_losses(("nerf",), mask=1.0, depth=1.0, rays=4))
    assert set(objective(batch_of(), 0.0)) == {"mask", "depth"}
    with pytest.raises(UserError, match="masks or depths"):
        objective.total(objective(batch_of(masks=False), 0.0))


def test_a_fourth_layer_is_refused() -> None:
    def layers(count: int) -> nn.Sequential:
        return nn.Sequential(*itertools.chain(*((nn.Linear(8, 8), nn.ReLU()) for _ in range(count))))[:-1]

    columns, rows = torch.rand(5, 6), torch.rand(2, 5)
    network = layers(3)
    expected = network(torch.cat([columns, rows.T], dim=1)).T
    torch.testing.assert_close(blockwise_mlp(network, columns, rows), expected)
    for count in (2, 4):
        with pytest.raises(ValueError, match="three layers"):
            blockwise_mlp(layers(count), columns, rows)


# 2 and the like: resuming


class Averages(EMAModel):
    """Notes where it is brought."""

    def __init__(self) -> None:
        super().__init__([nn.Parameter(torch.zeros(1))])
        self.places: list[torch.device] = []

    def to(self, device: torch.device, *_: object, **__: object) -> None:
        self.places.append(device)


class OnMeta(Accelerator):
    """A stand-in for one with a GPU; its checkpoints hold nothing."""

    device = torch.device("meta")
    process_index = 0
    _models = ()

    def load_state(self, *_: object, **__: object) -> None: ...


def write_checkpoint(run: Path, config: TrainConfig, step: int) -> Path:
    folder = run / f"checkpoint-{step:06d}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    (folder / "step.json").write_text(json.dumps({"step": step, "skipped": 2}))
    return folder


def test_averages_come_back_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, ema = tiny_config(output=tmp_path), Averages()
    write_checkpoint(tmp_path, config, 3)
    accelerator = object.__new__(OnMeta)
    assert checkpoint.resume(accelerator, config, ema) == (3, 2)
    assert ema.places == [torch.device("meta")]


def test_settings_differ_but_for_housekeeping() -> None:
    config = tiny_config()
    theirs = to_dict(config)
    assert checkpoint.differing_settings(theirs, config) == []
    other = replace(config, optim=replace(config.optim, lr=0.5), nerf=replace(config.nerf, num_coarse=9))
    assert checkpoint.differing_settings(theirs, other) == ["nerf.num_coarse", "optim.lr"]
    for name in checkpoint.HOUSEKEEPING:
        section, field = name.split(".")
        value = getattr(getattr(config, section), field)  # which is there, or the list names nothing
        changed = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else f"{value}-other"
        other = replace(config, **{section: replace(getattr(config, section), **{field: changed})})
        assert checkpoint.differing_settings(theirs, other) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("section8") / "whole"
    assert train_multiview.train(tiny(run), resume=False) == 0
    return run


@pytest.mark.parametrize("damaged", ["state/model.safetensors", "state/optimizer.bin", "step.json", "state"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture, damaged: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    first, last = checkpoints(run)
    if (last / damaged).is_dir():
        shutil.rmtree(last / damaged)
    else:
        (last / damaged).write_bytes((last / damaged).read_bytes()[:-7])
    assert train_multiview.train(tiny(run, run__log_every="1"), resume=True) == 0
    assert f"{last} is damaged" in capsys.readouterr().err
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [4, 3, 4]  # of the first run the last alone
    assert_equal(weights(run), weights(whole))
    assert first.exists()


# 3: fp16's scaler


class Overflowing(Accelerator):
    """Every gradient overflows."""

    def backward(self, loss: torch.Tensor, **_: object) -> None:
        loss.backward()

    def clip_grad_norm_(self, *_: object, **__: object) -> torch.Tensor:
        return torch.tensor(torch.inf)


class CountingSGD(torch.optim.SGD):
    steps = 0

    def step(self, *_: object) -> None:
        self.steps += 1


@pytest.mark.parametrize("scaler", [object(), None])
def test_a_scaler_hears_of_every_overflow(tmp_path: Path, scaler: object | None) -> None:
    """Without one the step is skipped by us."""

    def data() -> Iterator[Batch]:
        while True:
            yield batch_of()

    config = replace(with_losses(("nerf",), rgb=1.0, rays=4), optim=replace(tiny_config().optim, steps=2, batch=2))
    accelerator, objective = Overflowing(cpu=True), Objective(tiny_parts(config), config)
    accelerator.scaler = scaler
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = CountingSGD(trained, lr=0.1)
    schedule, ema = LambdaLR(optimizer, lambda step: 1.0), EMAModel(trained)
    optimizer.steps, steps = 0, StageLength(config, int)
    reports = list(loop.train(accelerator, objective, optimizer, schedule, ema, data(), config, steps, 0))
    assert [report.skipped for report in reports] == [1, 2]
    assert optimizer.steps == (0 if scaler is None else 2)
    assert ema.optimization_step == 0, "averages take no part of a step that was none"


class Scaling(Accelerator):
    """What accelerate is under fp16, without fp16: the loss is scaled, and gradients are scaled back."""

    mixed_precision = "fp16"


def test_a_scaled_step_is_the_plain_one_and_an_overflow_costs_a_step() -> None:
    """The first scale is so large that gradients overflow; the scaler backs off, and the second step counts."""
    config = replace(with_losses(("nerf",), rgb=1e4, rays=4), optim=replace(tiny_config().optim, steps=2, batch=2))

    def trained_by(accelerator: Accelerator, steps: int) -> tuple[list[loop.StepReport], list[torch.Tensor]]:
        objective = Objective(tiny_parts(config), config)
        trained = [p for p in objective.parameters() if p.requires_grad]
        optimizer = accelerator.prepare_optimizer(torch.optim.SGD(trained, lr=1e-5))
        schedule, ema = LambdaLR(optimizer, lambda step: 1.0), EMAModel(trained)
        data = itertools.repeat(batch_of())
        every = loop.train(accelerator, objective, optimizer, schedule, ema, data, config, StageLength(config, int), 0)
        return list(itertools.islice(every, steps)), [p.detach().clone() for p in trained]

    (plain,), expected = trained_by(Accelerator(cpu=True), 1)
    accelerator = Scaling(cpu=True)
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-100)
    (overflow, scaled), found = trained_by(accelerator, 2)
    assert not math.isfinite(overflow.grad_norm) and overflow.skipped == scaled.skipped == 1
    assert accelerator.scaler.get_scale() == 2.0**27
    assert scaled.grad_norm == pytest.approx(plain.grad_norm, rel=1e-4)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
