"""The estimate of a step's memory: live bytes are counted as they are, and shapes alone give what a real step gives."""

import gc
from dataclasses import replace

import pytest
import torch
from test_training import TINY
from test_training_options import denoiser_config
from tiny import tiny_parts

import train_multiview
from mvgenvs.config import TrainConfig
from mvgenvs.nerf import chunks
from mvgenvs.training.memory import LiveBytes, StepMemory, blank_batch, step_memory
from mvgenvs.training.objective import Objective


def estimate(config: TrainConfig) -> tuple[StepMemory, StepMemory]:
    return step_memory(tiny_parts(config), config)


def test_live_bytes_are_those_of_storages() -> None:
    with LiveBytes() as memory:
        x = torch.zeros(1000)
        assert memory.live == 4000
        view = x[10:].view(99, 10)
        x.mul_(2)
        assert memory.live == 4000, "views and changes in place take nothing"
        y = x.double()
        assert memory.live == 12000
        del x
        assert memory.live == 12000, "a view keeps its storage"
        del view, y
        assert (memory.live, memory.peak) == (0, 12000)


def test_what_the_backward_pass_keeps_is_alive() -> None:
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes() as memory:
        out = (weight * 2).exp().sum()
        assert memory.live == 4000 + 4, "exp keeps its result, which nobody else holds"
        out.backward()
        del out
        assert memory.live == 4000, "the gradient"


def test_shapes_alone_give_what_a_real_step_gives() -> None:
    config = denoiser_config()
    objective = Objective(tiny_parts(config), config).train()
    objective.skips_air = False  # the estimate is of a step that renders everything
    batch = blank_batch(config.optim.batch, config.data.num_views, config.data.max_known, config.data.size)
    gc.collect()
    with LiveBytes() as memory:
        objective.total(objective(batch, 0.0)).backward()
    found = estimate(config)[0]
    assert found.gradients + found.activations == pytest.approx(memory.peak, rel=0.01)
    trained = sum(p.numel() for p in objective.denoiser.parameters())
    assert (found.gradients, found.averages, found.optimizer) == (4 * trained, 4 * trained, 8 * trained)
    saved = sum(x.numel() * 4 for part in objective.children() for x in part.state_dict().values())
    assert found.weights == pytest.approx(saved, rel=1e-3), "some constants are not saved"


def test_what_saves_memory_is_seen_to() -> None:
    config = denoiser_config()
    many = replace(config.loss, noise_draws=16)  # so that the denoiser's activations are most of the peak
    config = replace(config, loss=many, optim=replace(config.optim, batch=2))
    keeping, saving = estimate(config)
    assert saving.activations < 0.8 * keeping.activations
    assert replace(saving, activations=keeping.activations) == keeping
    twice = replace(config, optim=replace(config.optim, batch=2 * config.optim.batch))
    halves = replace(twice, optim=replace(twice.optim, accumulation=2, kind="adamw8bit"))
    assert estimate(twice)[0].activations == pytest.approx(2 * keeping.activations, rel=0.1)
    half = estimate(halves)[0]
    assert half.activations == pytest.approx(keeping.activations, rel=0.1)
    assert half.optimizer == keeping.optimizer / 4


def test_tensors_without_data_stay_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at once stopped with torch's AssertionError, now and then, in the rendering's chunks."""
    monkeypatch.setattr(chunks, "ThreadPoolExecutor", lambda *_, **__: pytest.fail("another thread"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert estimate(denoiser_config())[0].activations > 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_script_prints_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_multiview.main(["estimate", *(f"--{key}={value}" for key, value in TINY.items())]) == 0
    lines = capsys.readouterr().out.splitlines()
    off, on = (float(number) for number in lines[-2].split()[1:])
    assert lines[-2].startswith("total")
    assert 0 < on <= off
