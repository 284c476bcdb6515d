"""The state of a sequence being generated: what it yields, what later blocks need, and how that is saved."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mvgenvs.diffusion.conditions import Conditions
from mvgenvs.diffusion.renoising import Generators
from mvgenvs.files import atomically


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """The NeRF's rendering of one view, and the denoiser's conditions from it: kept while some block needs them."""

    render: Float[Tensor, "batch 1 3 h w"]
    depth: Float[Tensor, "batch 1 1 h w"]  # 0 where nothing is hit
    conditions: Conditions
    dropped: Conditions | None  # the same without the rendering, if guidance needs them
    latents: Float[Tensor, "batch 1 c lh lw"] | None  # of the rendering, if sampling starts from it


@dataclass(frozen=True, eq=False, slots=True)
class SequenceState:
    """All that the rest of a sequence depends on, between two blocks. `stream` can continue from it."""

    finished: int  # blocks
    tensors: Mapping[str, Tensor]

    def save(self, path: Path) -> None:
        """Writes a file that is complete as soon as it has its name."""
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.tensors.items()}
        atomically(path, lambda partial: save_file(own, partial, {"finished": str(self.finished)}))

    @classmethod
    def load(cls, path: Path) -> "SequenceState | None":
        """Reads what `save` has written; None if it is missing or damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls(int(file.metadata()["finished"]), tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, eq=False, slots=True)
class Frames:
    """The views of one finished block, as in `MultiViewOutput`."""

    images: Float[Tensor, "batch view 3 h w"]
    renders: Float[Tensor, "batch view 3 h w"]
    depth: Float[Tensor, "batch view 1 h w"]
    indices: list[int]  # among the targets
    state: SequenceState  # after this block: it shares memory with the sequence, so save it before the next block


@dataclass(eq=False, slots=True)
class StepState:
    """The state of a sequence after one sampler step, for progress bars and previews. Its latents may be replaced."""

    block: int
    num_blocks: int
    step: int
    num_steps: int
    sigma: float
    denoised: Callable[[], Float[Tensor, "batch view 3 h w"]]  # decodes the current estimate of the block's views
    timestep: Float[Tensor, ""]  # the scheduler's name for the noise level
    latents: Float[Tensor, "batch view c lh lw"]  # of the block's views, from which the next step continues
    stop: bool = False  # set by who wants no more steps, see `SequenceSampler.frames`


@dataclass(eq=False, slots=True)
class Memory:
    """The views that later blocks need: a bounded number under every plan except "joint"."""

    images: dict[int, Tensor] = field(default_factory=dict)
    latents: dict[int, Tensor] = field(default_factory=dict)
    noise: dict[int, Tensor] = field(default_factory=dict)  # of anchors whose noise is drawn once
    views: dict[int, View] = field(default_factory=dict)

    def forget(self, last_use: Mapping[int, int], number: int) -> None:
        """Drops what no block after this one needs."""
        for kept in (self.images, self.latents, self.noise, self.views):
            for view in [view for view in kept if last_use.get(view, -1) <= number]:
                del kept[view]

    def state(self, finished: int, generator: Generators | None) -> SequenceState:
        tensors = {
            f"{name}/{view}": tensor
            for name, kept in (("images", self.images), ("latents", self.latents), ("noise", self.noise))
            for view, tensor in kept.items()
        }
        for number, view in self.views.items():
            tensors |= {f"views/{number}/{name}": tensor for name, tensor in _parts(view)}
        tensors |= {f"generator/{i}": each.get_state() for i, each in enumerate(_generators(generator))}
        return SequenceState(finished, tensors)

    @classmethod
    def of(cls, state: SequenceState, device: torch.device, generator: Generators | None) -> "Memory":
        """The memory of a saved sequence; the generators continue where they were."""
        for i, each in enumerate(_generators(generator)):
            each.set_state(state.tensors[f"generator/{i}"])
        memory = cls()
        views: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.tensors.items():
            kind, number, *part = name.split("/")
            if part:
                views.setdefault(int(number), {})["/".join(part)] = tensor.to(device)
            elif kind != "generator":
                getattr(memory, kind)[int(number)] = tensor.to(device)
        memory.views = {number: _view(parts) for number, parts in views.items()}
        return memory


def _generators(generator: Generators | None) -> Sequence[torch.Generator]:
    return [generator] if isinstance(generator, torch.Generator) else generator or []


def _parts(view: View) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a view, by path."""
    for each in dataclasses.fields(View):
        value = getattr(view, each.name)
        if isinstance(value, Conditions):
            yield from ((f"{each.name}/{part.name}", getattr(value, part.name)) for part in dataclasses.fields(value))
        elif value is not None:
            yield each.name, value


def _view(parts: Mapping[str, Tensor]) -> View:
    """The inverse of `_parts`."""

    def conditions(name: str) -> Conditions:
        return Conditions(**{part.name: parts[f"{name}/{part.name}"] for part in dataclasses.fields(Conditions)})

    dropped = conditions("dropped") if any(name.startswith("dropped/") for name in parts) else None
    return View(parts["render"], parts["depth"], conditions("conditions"), dropped, parts.get("latents"))
