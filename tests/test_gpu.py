"""What only a GPU can show: `pytest -m gpu`. Elsewhere these tests are skipped, and say so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from test_training import DATA, tiny
from tiny import sampled, tiny_pipeline

import train_multiview
from attention import AttentionBackend, resolve_backend
from attention.backends import attend
from mvgenvs.data.scenes import open_scenes
from mvgenvs.parts import PARTS, checkpoints

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_and_resumes(tmp_path: Path, precision: str) -> None:
    """fp16 begins with an overflow: the scaler starts at 65,536 times losses that are made a thousand times larger."""
    changes = {"run__mixed_precision": precision, "loss__rgb": "3000.0", "optim__steps": "12", "run__log_every": "1"}
    AcceleratorState._reset_state(reset_partial_state=True)  # of the precision before
    config = tiny(tmp_path, **changes)
    half = replace(config, optim=replace(config.optim, steps=6))
    assert train_multiview.train(half, resume=False) == 0
    for folder in checkpoints(tmp_path):  # as if it had been stopped there
        text = (folder / "config.yaml").read_text().replace("steps: 6\n", "steps: 12\n")
        (folder / "config.yaml").write_text(text)
    assert train_multiview.train(config, resume=True) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["rgb"] < lines[0]["rgb"]


def test_data_on_the_device_are_the_loaders(tmp_path: Path) -> None:
    from mvgenvs.data.device_sets import DeviceSets
    from mvgenvs.data.sampling import TrainingSets, collate

    sets = TrainingSets(open_scenes(DATA, "train", 32), 4, (1, 2), 4, 0, 100)
    on_device = DeviceSets(sets, torch.device("cuda"))
    for indices in ([0, 1, 2, 3], [4, 5, 6, 7]):
        ours, theirs = on_device.batch(indices), collate([sets[i] for i in indices])
        assert (ours.num_known, ours.seeds) == (theirs.num_known, theirs.seeds)
        for name in ("images", "mask", "depth"):
            assert (getattr(ours.views, name).cpu() - getattr(theirs.views, name)).abs().max() < 1e-5
        assert (ours.views.cameras.c2w.cpu() - theirs.views.cameras.c2w).abs().max() < 1e-6


def test_offloaded_parts_compute_on_the_gpu_and_go_back_to_the_cpu() -> None:
    pipe = tiny_pipeline()
    expected = sampled(pipe).images
    pipe.enable_model_cpu_offload()
    parts = [getattr(pipe, name) for name in PARTS]
    seen = {}
    for part, module in zip(parts, (pipe.codec.refiner, pipe.nerf.encoder, pipe.denoiser.unet), strict=True):
        module.register_forward_pre_hook(lambda _, given, part=part: seen.update({type(part): given[0].device.type}))
    for _ in range(2):
        assert (sampled(pipe).images.cpu() - expected).abs().mean() < 1 / 255
        assert seen == dict.fromkeys(map(type, parts), "cuda")
        assert {x.device.type for part in parts for x in part.parameters()} == {"cpu"}


@pytest.mark.parametrize("backend", list(AttentionBackend))
def test_kernels_agree(backend: AttentionBackend) -> None:
    try:
        resolve_backend(backend.value)
    except ValueError as error:
        pytest.skip(str(error))
    q, k, v = (torch.randn(2, 128, 4, 32, device="cuda", dtype=torch.float16) for _ in range(3))
    want = torch.nn.functional.scaled_dot_product_attention(*(x.double().transpose(1, 2) for x in (q, k, v)))
    assert (attend(q, k, v, backend).double() - want.transpose(1, 2)).abs().max() < 5e-3


def test_pictures_of_gpu_and_cpu_agree() -> None:
    from tiny import ring_cameras, stacked

    pipe = tiny_pipeline()
    cameras, images = stacked(ring_cameras(5), 1), torch.rand(1, 1, 3, 32, 32)

    def pictures(device: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        out = pipe.to(device)(images, cameras.select([0]), cameras.select([1, 2, 3, 4]), generator=generator)
        return out.images.cpu()

    assert (pictures("cuda") - pictures("cpu")).abs().mean() < 1 / 255
