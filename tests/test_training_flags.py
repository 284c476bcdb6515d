"""What training is asked for besides its losses: optimisers, flags, how data are waited for."""

import json
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from test_training import tiny
from tiny import tiny_parts
from torch import nn

import train_multiview
from mvgenvs.config import OptimConfig, load_config
from mvgenvs.diffusion.options import DEFAULT_STEPS
from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.loop import StepReport, prefetched
from mvgenvs.training.optimizer import make_optimizer

CPU = torch.device("cpu")


# The optimiser


def test_adamw_takes_its_settings() -> None:
    optimizer = make_optimizer([nn.Parameter(torch.ones(2))], OptimConfig(betas=(0.8, 0.95), lr=0.25), CPU)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.95)
    assert optimizer.defaults["lr"] == 0.25
    assert not optimizer.defaults["fused"], "the fused kernel of a CPU rounds otherwise"
    assert make_optimizer([nn.Parameter(torch.ones(2))], OptimConfig(), torch.device("cuda")).defaults["fused"]


def test_adamw8bit_is_that_of_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake(torch.optim.AdamW):
        pass

    module = types.ModuleType("bitsandbytes.optim")
    module.AdamW8bit = Fake
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    made = make_optimizer([nn.Parameter(torch.ones(2))], OptimConfig(kind="adamw8bit", lr=0.5), CPU)
    assert isinstance(made, Fake)
    assert (made.defaults["lr"], made.defaults["betas"], made.defaults["weight_decay"]) == (0.5, (0.9, 0.99), 0.01)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "sgd"}, "must be adamw or adamw8bit"),
        ({"kind": "adamw8bit"}, "needs bitsandbytes"),
        ({"betas": (0.9,)}, "two numbers"),
        ({"betas": (0.9, 1.0)}, "two numbers"),
    ],
)
def test_mistaken_optimisers_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], says: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=says):
        make_optimizer([nn.Parameter(torch.ones(2))], OptimConfig(**changes), CPU)


# Flags


@pytest.mark.parametrize(
    "arguments",
    [["--run.init-from", "a-b"], ["--run.init-from=a-b"], ["--run.init_from", "a-b"], ["--run.init_from=a-b"]],
)
def test_flags_take_hyphens_for_underscores(arguments: list[str]) -> None:
    options = vars(train_multiview.parse(arguments))
    assert options["run.init_from"] == "a-b", "the value keeps its hyphens"
    given = {key: value for key, value in options.items() if "." in key and value is not None}
    assert load_config(None, given).run.init_from == "a-b"


def test_help_shows_one_form(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_multiview.parse(["--help"])
    text = capsys.readouterr().out
    assert "--run.init_from" in text
    assert "init-from" not in text


# Waiting for data


def test_prefetching_keeps_items_and_order_and_passes_errors_on() -> None:
    def items():
        yield from range(5)
        raise UserError("damaged")

    assert list(prefetched(iter(range(7)))) == list(range(7))
    assert list(prefetched(iter(()))) == []
    stream = prefetched(items())
    assert [next(stream) for _ in range(5)] == list(range(5))
    with pytest.raises(UserError, match="damaged"):
        next(stream)


def test_an_item_is_prepared_while_the_one_before_is_in_use() -> None:
    prepared = []

    def items():
        for i in range(3):
            prepared.append(i)
            yield i

    stream = prefetched(items())
    assert next(stream) == 0
    while prepared != [0, 1]:  # pytest's time limit is what fails here
        time.sleep(0.001)
    stream.close()


def test_reports_tell_the_share_of_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert StepReport(1, {}, 0.0, 0.0, 0, seconds=4.0, waited=1.0).wait == 0.25
    train_multiview.train(tiny(tmp_path / "run", optim__steps="1", optim__batch="1", run__log_every="1"), resume=False)
    assert 0 < json.loads((tmp_path / "run/log.jsonl").read_text())["wait"] < 1


@pytest.mark.parametrize(("taken", "steps"), [("[codec, nerf, denoiser]", 1), ("[codec, nerf]", DEFAULT_STEPS)])
def test_how_to_sample_goes_with_the_denoiser(tmp_path: Path, taken: str, steps: int) -> None:
    """A fine-tuned field is sampled as its start was; a new denoiser is not."""
    changes = {"optim__steps": "1", "run__train": "[nerf]", "run__init_parts": taken, "loss__denoise": "0.0"}
    parts, start = tiny_parts(tiny(tmp_path / "run")), {"default_render_sigma": 0.1, "default_temperature": 0.5}
    MultiViewPipeline.from_parts(parts, default_steps=1, **start).save_pretrained(tmp_path / "start")
    train_multiview.train(
        tiny(tmp_path / "run", **changes, loss__rgb="1.0", run__init_from=str(tmp_path / "start")), resume=False
    )
    defaults = MultiViewPipeline.from_pretrained(tmp_path / "run").defaults
    assert defaults["default_steps"] == steps
    usual = {"default_render_sigma": None, "default_temperature": 1.0}
    assert {name: defaults[name] for name in start} == (start if steps == 1 else usual)
