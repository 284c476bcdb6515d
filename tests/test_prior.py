"""The prior's deviations: measured where they are known, kept in the checkpoint, and the same after a stop."""

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import assert_equal, tiny, weights
from tiny import ray_cast, ring_cameras, stacked, tiny_config, tiny_parts, toy_car

import train_multiview
from mvgenvs.data.sampling import Batch
from mvgenvs.diffusion.denoiser import JointDenoiser
from mvgenvs.nerf import model
from mvgenvs.nerf.model import Rendering
from mvgenvs.parts import find_pipeline, load_parts
from mvgenvs.training import loop, prior
from mvgenvs.training.objective import Objective
from mvgenvs.training.prior import CONSTANTS, LEAST, SETS, deviations, fit_prior
from mvgenvs.views import stack

FITTED = (*CONSTANTS, "std_channels")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few cells of occupancy, which cost more than such small pictures."""
    monkeypatch.setattr(model, "CELL", 0.1)


def made_up(inside: list[float], empty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals of given deviations: a fourth of the latents is solid, a fourth half so, with wild values, and half
    is empty.
    """
    opacity = torch.zeros(50, 1, 8, 8)
    opacity[..., :4, :4], opacity[..., :4, 4:] = 0.97, 0.5
    noise = torch.randn(50, len(inside), 8, 8, generator=torch.Generator().manual_seed(0))
    scale = torch.where(opacity > 0.9, torch.tensor(inside)[:, None, None], empty)
    return noise * torch.where(opacity == 0.5, torch.tensor(100.0), scale), opacity


def test_deviations_are_those_of_the_residuals() -> None:
    inside, empty = [0.1, 0.4, 0.8], 0.03
    found = deviations(*made_up(inside, empty))
    solid = torch.tensor(inside).square().mean().sqrt().item()
    assert found["std_floor"] == pytest.approx(empty, rel=0.05)
    assert found["std_ceiling"] == pytest.approx(solid, rel=0.05)
    assert 0 < found["std_air"] < found["std_floor"]
    for channel, deviation in enumerate(inside):  # as the denoiser puts them together
        std = min(found["std_floor"] + found["std_slope"], found["std_ceiling"]) * found["std_channels"][channel]
        assert std == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_nothing_solid_or_nothing_empty_gives_numbers_all_the_same(opacity: float) -> None:
    residual = 0.2 * torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = deviations(residual, torch.full((5, 1, 4, 4), opacity))
    values = torch.tensor([*(found[name] for name in CONSTANTS), *found["std_channels"]])
    assert values.isfinite().all() and (values > 0).all()


def test_what_is_never_wrong_keeps_a_deviation() -> None:
    residual, opacity = made_up([0.5, 0.0], 0.0)
    found = deviations(residual, opacity)
    assert found["std_floor"] == LEAST
    assert found["std_channels"][1] * found["std_ceiling"] == pytest.approx(LEAST)


@pytest.fixture
def objective() -> Objective:
    config = tiny_config()
    loss, run = replace(config.loss, denoise=1.0), replace(config.run, train=("denoiser",))
    config = replace(config, loss=loss, run=run)
    return Objective(tiny_parts(config), config)


def batches(seen: list[int]) -> Iterator[Batch]:
    views = [ray_cast(toy_car(number), ring_cameras(3)) for number in range(16)]
    for number in itertools.count():
        seen.append(number)
        yield Batch(stack(views), 1, [100 * number + place for place in range(16)])


def test_the_denoiser_takes_them_and_keeps_them(objective: Objective, tmp_path: Path) -> None:
    seen: list[int] = []
    fit_prior(objective, batches(seen))
    assert len(seen) == SETS // 16
    with torch.no_grad():
        parts = [objective.true_sets(batch) for batch in itertools.islice(batches([]), SETS // 16)]
    residual, opacity = (torch.cat([getattr(x, name) for x in parts]).flatten(0, 1) for name in ("residual", "opacity"))
    expected = deviations(residual, opacity)
    assert {name: objective.denoiser.config[name] for name in FITTED} == expected
    objective.denoiser.save_pretrained(tmp_path)
    loaded = JointDenoiser.from_pretrained(tmp_path)
    assert {name: loaded.config[name] for name in FITTED} == expected
    opacity = torch.rand(1, 3, 1, 8, 8)
    rendering = Rendering(torch.rand(1, 3, 16, 8, 8), torch.ones(1, 3, 1, 8, 8), opacity)
    given = (rendering, torch.zeros(1, 3, 8, 4, 4), stacked(ring_cameras(3), 1))
    std = loaded.conditions(*given).std
    torch.testing.assert_close(std, objective.denoiser.conditions(*given).std)
    assert std.shape[2] == 8, "each channel by its own"
    assert (std - tiny_parts().denoiser.conditions(*given).std).abs().max() > 0.01


def test_a_resumed_run_has_the_prior_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the sets: measuring it takes none away from training."""

    def stop_after_one(*args: object, **options: object) -> Iterator[loop.StepReport]:
        for report in original(*args, **options):
            if report.step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    original = loop.train
    monkeypatch.setattr(prior, "SETS", 4)
    changes = {"loss__rgb": "0.0", "run__train": "[denoiser]", "denoiser__fit_prior": "true", "optim__steps": "2"}
    train_multiview.train(tiny(tmp_path / "whole", **changes), resume=False)
    monkeypatch.setattr(loop, "train", stop_after_one)
    train_multiview.train(tiny(tmp_path / "run", **changes), resume=False)
    monkeypatch.setattr(loop, "train", original)
    train_multiview.train(tiny(tmp_path / "run", **changes), resume=True)
    whole, resumed = (load_parts(find_pipeline(tmp_path / run)).denoiser.config for run in ("whole", "run"))
    assert {name: whole[name] for name in FITTED} != {name: JointDenoiser().config[name] for name in FITTED}
    assert {name: resumed[name] for name in FITTED} == {name: whole[name] for name in FITTED}
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
