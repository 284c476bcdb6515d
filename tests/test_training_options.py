"""The trainer's options: which weights learn, LoRA, gradient checkpointing, the optimiser, flags, waiting for data."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import assert_equal, tiny, weights
from tiny import tiny_config, tiny_parts
from torch import nn

import train_multiview
from attention import attention_layers
from mvgenvs.config import TrainConfig
from mvgenvs.errors import UserError
from mvgenvs.parts import checkpoints, load_parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training.memory import blank_batch
from mvgenvs.training.objective import Objective
from mvgenvs.training.trainable import choose_trainable, lora_merged, self_attention


def denoiser_config(**denoiser: object) -> TrainConfig:
    """A tiny stage that trains the denoiser alone."""
    config = tiny_config()
    return dataclasses.replace(
        config,
        denoiser=dataclasses.replace(config.denoiser, **denoiser),
        loss=dataclasses.replace(config.loss, denoise=1.0),
        run=dataclasses.replace(config.run, train=("denoiser",)),
    )


def learning(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def in_joint_attention(model: nn.Module) -> set[str]:
    return {f"{name}.{key}" for name, layer in self_attention(model).items() for key in layer.state_dict()}


def with_random_updates(denoiser: nn.Module) -> nn.Module:
    """Gives LoRA's B matrices, which start at zero, something to say."""
    for name, p in denoiser.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.3)
    return denoiser


def gradients(objective: Objective) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective.total(objective(blank_batch(2, 3, 1, 32), 0.0)).backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


# Which weights learn


def test_attention_alone_learns() -> None:
    denoiser = tiny_parts().denoiser
    choose_trainable(denoiser, "attention", 0)
    assert learning(denoiser) == in_joint_attention(denoiser)
    names = {name for name, layer in attention_layers(denoiser).items() if not layer.is_cross_attention}
    assert names == set(self_attention(denoiser)) != set()
    assert all("attn1" in name for name in names)


def test_lora_is_on_the_four_projections_of_every_joint_layer() -> None:
    denoiser = tiny_parts().denoiser
    layers = self_attention(denoiser)
    choose_trainable(denoiser, "lora", 3)
    expected = {
        f"{layer}.{projection}.lora_{matrix}.default.weight"
        for layer in layers
        for projection in ("to_q", "to_k", "to_v", "to_out.0")
        for matrix in "AB"
    }
    assert learning(denoiser) == expected
    assert {min(p.shape) for p in denoiser.parameters() if p.requires_grad} == {3}


def test_a_conditioner_learns_under_every_choice() -> None:
    for choice in ("all", "conditioner", "attention", "lora"):
        denoiser = tiny_parts().denoiser
        denoiser.conditioner = tiny_parts(seed=1).denoiser.unet  # any module, with attention layers of its own
        own = {f"conditioner.{name}" for name, _ in denoiser.conditioner.named_parameters()}
        choose_trainable(denoiser, choice, 2)
        found = learning(denoiser)
        assert own == {name for name in found if name.startswith("conditioner.")}
        rest = {name for name in found if not name.startswith("conditioner.")}
        assert bool(rest) == (choice != "conditioner")
        assert not any("lora" in name for name in own)


def test_saved_lora_is_plain_and_gives_the_same_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = denoiser_config(trainable="lora", lora_rank=3)
    parts = tiny_parts(config)
    names = set(parts.denoiser.state_dict())
    plain = gradients(Objective(tiny_parts(config), denoiser_config()))
    objective = Objective(parts, config)
    assert set(gradients(objective)).isdisjoint(plain)
    with_random_updates(parts.denoiser).eval()
    batch = blank_batch(2, 3, 1, 32)
    with torch.no_grad():
        before = {key: value.clone() for key, value in parts.denoiser.state_dict().items()}
        expected = objective(batch, 0.0)["denoise"]
        with lora_merged(parts.denoiser):
            assert set(parts.denoiser.state_dict()) == names
            merged = objective(batch, 0.0)["denoise"]
            saved = {key: value.clone() for key, value in parts.denoiser.state_dict().items()}
            parts.denoiser.save_pretrained(tmp_path)
        assert_equal(parts.denoiser.state_dict(), before)
        monkeypatch.setitem(sys.modules, "peft", None)  # no import of it succeeds
        fresh = type(parts.denoiser).from_pretrained(tmp_path)
        reloaded = Objective(dataclasses.replace(parts, denoiser=fresh), denoiser_config()).eval()
        assert_equal(fresh.state_dict(), saved)
        # Not to the bit: on some processors sums depend on where in memory the weights lie.
        torch.testing.assert_close(reloaded(batch, 0.0)["denoise"], merged, rtol=1e-6, atol=0)
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-6)
    untrained = Objective(tiny_parts(config), denoiser_config()).eval()
    assert not torch.allclose(untrained(batch, 0.0)["denoise"], expected, rtol=1e-4)


@pytest.mark.parametrize("trainable", ["attention", "lora"])
def test_only_the_chosen_weights_change_and_resume_is_exact(tmp_path: Path, trainable: str) -> None:
    changes = {"denoiser__trainable": trainable, "run__train": "[denoiser]", "loss__rgb": "0.0"}
    changes |= {"optim__steps": "3", "optim__batch": "2", "run__checkpoint_every": "1", "run__keep": "9"}
    changes |= {"optim__weight_decay": "0.0", "run__init_from": str(tmp_path / "start")}
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    MultiViewPipeline.from_parts(tiny_parts(tiny(whole))).save_pretrained(tmp_path / "start")
    train_multiview.train(tiny(whole, **changes), resume=False)
    first, last = (load_parts(checkpoints(whole)[i] / "pipeline").denoiser for i in (0, -1))
    a, b = first.state_dict(), last.state_dict()
    changed = {name for name in a if not torch.equal(a[name], b[name])}
    assert changed
    assert changed <= in_joint_attention(first)
    if trainable == "lora":
        assert all(name.endswith("weight") and ".to_" in name for name in changed)

    halved.mkdir()
    (halved / checkpoints(whole)[1].name).symlink_to(checkpoints(whole)[1])
    torch.manual_seed(5)
    train_multiview.train(tiny(halved, **changes), resume=True)
    assert [p.name for p in checkpoints(halved)] == ["checkpoint-000002", "checkpoint-000003"]
    assert_equal(weights(halved), weights(whole))


@pytest.mark.parametrize(
    ("choice", "rank", "says"),
    [("some", 8, "must be one of all, conditioner"), ("conditioner", 8, "has none"), ("lora", 0, "1 or more")],
)
def test_choices_that_do_not_fit_are_one_sentence(choice: str, rank: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        choose_trainable(tiny_parts().denoiser, choice, rank)


def test_updates_of_untrained_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.init_from"):
        train_multiview.train(tiny(tmp_path / "run", denoiser__trainable="lora"), resume=False)


def test_lora_without_peft_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="needs peft"):
        choose_trainable(tiny_parts().denoiser, "lora", 8)


# Compilation


def test_the_unet_alone_is_compiled_and_weights_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def record(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        compiled.append(call.__self__)
        return call  # the compiler does not know the shape checks of the tests

    monkeypatch.setattr(torch, "compile", record)
    config = denoiser_config()
    compiling = dataclasses.replace(config, run=dataclasses.replace(config.run, compile=True))
    plain, fast = Objective(tiny_parts(config), config), Objective(tiny_parts(config), compiling)
    assert compiled == [fast.denoiser.unet]
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert_equal(gradients(fast.train()), gradients(plain.train()), tolerance=1e-6)


# Mixed precision


@pytest.mark.parametrize("rays", [0, 8])
def test_field_and_denoiser_train_in_bf16(rays: int) -> None:
    """The field's losses nearly as in fp32: rendering itself stays there."""
    config = tiny_config()
    loss = dataclasses.replace(config.loss, rgb=1.0, mask=0.1, denoise=float(rays == 0), rays=rays)
    config = dataclasses.replace(config, loss=loss)
    objective, batch = Objective(tiny_parts(config), config).train(), blank_batch(2, 3, 1, 32)
    exact = objective(batch, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = objective(batch, 0.0)
        objective.total(rough).backward()
    assert rough.keys() == exact.keys()
    for name, value in exact.items():
        torch.testing.assert_close(rough[name].float(), value, rtol=0.05, atol=0.0)
    learning = objective.nerf if rays else objective
    assert all(p.grad.isfinite().all() for p in learning.parameters() if p.requires_grad)


# Gradient checkpointing


@pytest.mark.parametrize("attention", ["joint", "block-causal"])
def test_gradient_checkpointing_changes_no_gradient(attention: str) -> None:
    config = denoiser_config(attention=attention)
    saving = dataclasses.replace(config, run=dataclasses.replace(config.run, gradient_checkpointing=True))
    plain, saved = Objective(tiny_parts(config), config), Objective(tiny_parts(config), saving)
    assert_equal(gradients(saved.train()), gradients(plain.train()), tolerance=1e-6)
    blocks = [m for m in saved.denoiser.modules() if hasattr(m, "gradient_checkpointing")]
    assert blocks
    assert all(block.gradient_checkpointing for block in blocks)
    # and the views of a set do see one another: joint attention's arguments get through
    alone = Objective(tiny_parts(config), saving).train()
    alone.denoiser.forward = lambda *a, forward=alone.denoiser.forward, **k: forward(*a, joint=False, **k)
    unseeing = gradients(alone)
    assert max((unseeing[k] - g).abs().max() for k, g in gradients(plain).items()) > 1e-4


# Losses


def test_offset_noise_and_min_snr_reach_the_loss() -> None:
    batch, found = blank_batch(2, 3, 1, 32), []
    for loss in ({}, {"offset_noise": 0.5}, {"min_snr": 5.0}):
        config = denoiser_config()
        config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, **loss))
        found.append(Objective(tiny_parts(config), config).eval()(batch, 0.0)["denoise"].item())
    assert len(set(found)) == 3
