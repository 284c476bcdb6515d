"""The base of all networks here: diffusers models that leave diffusers' hooks alone until somebody uses them.

`ModelMixin` asks the hooks of group offloading where a model is, and where it may go. That imports peft and
transformers, which takes two seconds; and it looks at every layer by its name, at every question, which takes
milliseconds.
"""

import itertools
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin
from torch import nn

HOOK = "_diffusers_hook"  # the attribute of a layer that has one


class Module(ModelMixin, ConfigMixin):
    """A network that is saved with its configuration."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        tensor = next(itertools.chain(self.parameters(), self.buffers()), None)
        return super().device if tensor is None or self._has_hooks() else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its first weights."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        tensor = next((each for each in tensors if each.is_floating_point()), None)
        return super().dtype if tensor is None or self._has_hooks() else tensor.dtype

    def to(self, *arguments: Any, **keywords: Any) -> Any:
        """As `torch.nn.Module.to`."""
        if self._has_hooks():
            return super().to(*arguments, **keywords)
        return nn.Module.to(self, *arguments, **keywords)

    def _has_hooks(self) -> bool:
        """Whether diffusers offloads the network, or casts it layer by layer."""
        return any(HOOK in vars(layer) for layer in self.modules())
