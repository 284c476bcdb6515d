"""The optimiser: AdamW, in a form that suits the device and the memory."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from mvgenvs.config import OptimConfig
from mvgenvs.errors import UserError

STATE_BYTES = {"adamw": 8, "adamw8bit": 2}  # per trained number, for its gradient's mean and square


def make_optimizer(parameters: Sequence[nn.Parameter], config: OptimConfig, device: torch.device) -> Optimizer:
    """AdamW over the parameters, which will be on `device` when they are trained.

    On a GPU, torch's fused kernel does the step; on a CPU it rounds differently from the plain one, and is not used.
    Raises `UserError` if bitsandbytes is missing.
    """
    betas = (config.betas[0], config.betas[1])
    if config.kind == "adamw":
        fused = device.type == "cuda"
        return torch.optim.AdamW(parameters, config.lr, betas, weight_decay=config.weight_decay, fused=fused)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError("optim.kind adamw8bit needs bitsandbytes: pip install bitsandbytes, or take adamw") from error
    return AdamW8bit(parameters, config.lr, betas, weight_decay=config.weight_decay)
