"""The base of all networks here: diffusers models that leave diffusers' hooks alone until somebody uses them.

`ModelMixin` asks group offloading where a model is, and where it may go. That imports all hooks, and peft and
transformers with them: two seconds in which nothing happens.
"""

import itertools
import sys
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin
from torch import nn

HOOKS = "diffusers.hooks.group_offloading"  # a model has no hook unless somebody has imported this


class Module(ModelMixin, ConfigMixin):
    """A network that is saved with its configuration."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        tensor = next(itertools.chain(self.parameters(), self.buffers()), None)
        if HOOKS in sys.modules or tensor is None:
            return super().device
        return tensor.device

    def to(self, *arguments: Any, **keywords: Any) -> Any:
        """As `torch.nn.Module.to`."""
        if HOOKS in sys.modules:
            return super().to(*arguments, **keywords)
        return nn.Module.to(self, *arguments, **keywords)
