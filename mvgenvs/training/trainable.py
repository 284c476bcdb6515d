"""Which weights of the denoiser learn, and low-rank updates of its joint attention through peft.

LoRA [Hu et al. 2021, arXiv 2106.09685] adds B A to a frozen projection W. While it trains, peft's layers stand in the
place of the projections; a pipeline is saved with W + B A in plain layers, so that it loads without peft, and a later
stage may start from it like from any other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from attention import attention_layers
from mvgenvs.errors import UserError

CHOICES = ("all", "conditioner", "attention", "lora")
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def choose_trainable(denoiser: nn.Module, choice: str, lora_rank: int) -> None:
    """Lets the chosen weights of a denoiser learn, and no others; adds the LoRA layers where they are chosen.

    all: everything but what was frozen before. attention: the joint self-attention's layers. lora: low-rank updates of
    its projections. conditioner: none of them. A denoiser with a module `conditioner` (ControlNet, adapter), which no
    checkpoint brings along, trains it under every choice. Raises `UserError` where the choice is none, or fits ill.
    """
    if choice not in CHOICES:
        raise UserError(f"setting 'denoiser.trainable' must be one of {', '.join(CHOICES)}, not '{choice}'")
    if choice == "all":
        return
    conditioner = getattr(denoiser, "conditioner", None)
    if choice == "conditioner" and conditioner is None:
        raise UserError(f"denoiser.trainable conditioner: a {type(denoiser).__name__} has none, use attention or all")
    of_conditioner = set() if conditioner is None else set(conditioner.modules())
    joint = {name: layer for name, layer in self_attention(denoiser).items() if layer not in of_conditioner}
    denoiser.requires_grad_(False)
    if choice == "attention":
        for layer in joint.values():
            layer.requires_grad_(True)
    elif choice == "lora":
        add_lora(denoiser, [f"{name}.{projection}" for name in joint for projection in PROJECTIONS], lora_rank)
    if conditioner is not None:
        conditioner.requires_grad_(True)


def self_attention(model: nn.Module) -> dict[str, Attention]:
    """The layers that attend across the views, by name."""
    return {name: layer for name, layer in attention_layers(model).items() if not layer.is_cross_attention}


def add_lora(model: nn.Module, names: list[str], rank: int) -> None:
    """Puts a trainable update of this rank, zero at first, beside each of the named linear layers."""
    if rank < 1:
        raise UserError(f"setting 'denoiser.lora_rank' must be 1 or more, not {rank}")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("denoiser.trainable lora needs peft: pip install peft") from error
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), model)  # alpha = r: scale 1


@contextmanager
def lora_merged(model: nn.Module) -> Iterator[None]:
    """For the length of the block, plain linear layers with W + B A in the place of LoRA's.

    W itself is not touched: adding the update to it and taking it off again would round it.
    """
    wrapped = {name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
    for name, layer in wrapped.items():
        model.set_submodule(name, merged(layer))
    try:
        yield
    finally:
        for name, layer in wrapped.items():
            model.set_submodule(name, layer)


@torch.no_grad()
def merged(layer: Any) -> nn.Linear:
    """The linear layer that a LoRA layer of peft's amounts to."""
    base = layer.get_base_layer()
    weight = base.weight + sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
    plain = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
    plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), base.bias
    return plain
