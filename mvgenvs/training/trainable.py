"""Chooses which weights of the denoiser are trained, including low-rank updates of its joint attention through peft.

LoRA [Hu et al. 2021, arXiv 2106.09685] adds B A to a frozen projection W. During training, peft's layers replace the
projections. A pipeline is saved with W + B A in plain layers, so that it loads without peft, and a later stage can
start from it like from any other.
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
    """Makes the chosen weights of a denoiser trainable, and freezes all others; adds LoRA layers if they are chosen.

    all: everything except what was frozen before. attention: the layers of the joint self-attention. lora: low-rank
    updates of its projections. conditioner: none of these. A `conditioner` (ControlNet, adapter), which no checkpoint
    provides, is trained with every choice. Raises `UserError` if the choice is unknown or does not suit the denoiser.
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
    """Adds a trainable update of this rank, zero at first, to each of the named linear layers."""
    if rank < 1:
        raise UserError(f"setting 'denoiser.lora_rank' must be 1 or more, not {rank}")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("denoiser.trainable lora needs peft: pip install peft") from error
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), model)  # alpha = r: scale 1


@contextmanager
def lora_merged(model: nn.Module) -> Iterator[None]:
    """Within the block, plain linear layers with W + B A replace LoRA's.

    W itself is not changed: adding the update to it and subtracting it again would round it.
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
    """The linear layer that is equivalent to a LoRA layer of peft's."""
    base = layer.get_base_layer()
    weight = base.weight + sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
    plain = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
    plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), base.bias
    return plain
