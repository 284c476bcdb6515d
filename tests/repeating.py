"""A stand-in for the pipeline behind `infer_multiview.py`, and how its tests call the script."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import torch

import infer_multiview
from mvgenvs import generation
from mvgenvs.diffusion.state import Frames, SequenceState
from mvgenvs.pipeline import MultiViewPipeline

ROOT = Path(__file__).parent.parent
CAR, CAMERA = str(ROOT / "assets/car.png"), str(ROOT / "assets/car.json")


class RepeatingPipeline:
    """Has the interface of `MultiViewPipeline`; every view is its first input; remembers how it was called."""

    size = 32
    device = torch.device("cpu")
    config: ClassVar[dict] = {
        "default_steps": 20, "default_guidance": 1.5, "default_render_sigma": None, "default_temperature": 1.0
    }  # fmt: skip
    resolved = MultiViewPipeline.resolved
    scheduler = SimpleNamespace(config={"sigma_max": 8.0, "rho": 7.0})
    calls: ClassVar[list[dict]] = []

    @classmethod
    def from_pretrained(cls, checkpoint, attention_backend=None):
        return cls()

    def to(self, device):
        return self

    def set_precision(self, dtype):
        assert dtype == torch.float32

    def stream(self, images, cameras, target_cameras, *, plan, num_inference_steps, on_step, resume, **settings):
        self.calls.append({"images": images, "cameras": cameras, "targets": target_cameras, "plan": plan, **settings})
        num_known = 0 if images is None else images.shape[1]
        blocks = [[view - num_known for view in block.new] for block in plan]
        for number, indices in list(enumerate(blocks))[resume.finished if resume else 0 :]:
            shown = torch.ones(1, 1, 3, 32, 32) if images is None else images[:, :1, :3]
            shown = shown.repeat(1, len(indices), 1, 1, 1)
            for step in range(num_inference_steps):
                progress = {"block": number, "num_blocks": len(blocks), "step": step, "num_steps": num_inference_steps}
                on_step(SimpleNamespace(**progress, sigma=1.0, denoised=lambda shown=shown: shown))
            depth, state = torch.ones_like(shown[:, :, :1]), SequenceState(number + 1, {})
            yield Frames(shown, shown, depth, indices, state)


def stand_in(monkeypatch):
    """Puts `RepeatingPipeline` in the pipeline's place."""
    monkeypatch.setattr(generation, "MultiViewModel", RepeatingPipeline)
    monkeypatch.setattr(generation, "fastest_precision", lambda *_: torch.float32)
    RepeatingPipeline.calls.clear()
    return RepeatingPipeline


def infer(*arguments):
    return infer_multiview.main([str(a) for a in arguments])
