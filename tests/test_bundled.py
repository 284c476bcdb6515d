"""The bundled model, held to what it could do when it was bundled: the views of one car of the sample data."""

from pathlib import Path

import torch

from eval.metrics.image import psnr
from mvgenvs.data.scenes import open_scenes
from mvgenvs.pipeline import MultiViewPipeline

SAMPLE = Path(__file__).parent / "data/opencars_sample"
RENDERED, MADE = 24.29, 23.84  # dB


def test_the_bundled_model_sees_the_sample_car() -> None:
    views = open_scenes(SAMPLE, "val", 128).read(0).view_set()
    known, targets = views.select([0]), views.select(slice(1, None))
    pipe = MultiViewPipeline.from_pretrained("bundled")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    out = pipe(known.rgba[None], known.cameras.batched(), targets.cameras.batched(), generator=generator)
    rendered, made = (psnr(x[0], targets.images).mean().item() for x in (out.renders, out.images))
    assert rendered > RENDERED - 0.1
    assert made > MADE - 0.1
