"""A sequence that was stopped between two blocks goes on to the views that it would have made, bit for bit."""

import pytest
import torch
from tiny import ray_cast, ring_cameras, tiny_pipeline, toy_car

from mvgenvs.diffusion.plans import make_plan
from mvgenvs.diffusion.state import SequenceState

CAMERAS = ring_cameras(8)
CAR = ray_cast(toy_car(1), CAMERAS).images[None]
KNOWN, TARGETS = CAMERAS.select([0]).batched(), CAMERAS.select(range(1, 8)).batched()


pytestmark = pytest.mark.usefixtures("no_grad")


WAYS = {
    "sliding": {"plan": "sliding", "block": 2},
    "autoregressive": {"plan": "autoregressive"},
    "stochastic": {"plan": "stochastic", "block": 2},
    "keyframes, closed": {"plan": "keyframes", "block": 2, "close_loop": True},
    "resampled": {"plan": "sliding", "block": 2, "resample": 0.2, "guidance_scale": 1.0},
    "all of it": {"plan": "autoregressive", "block": 3, "close_loop": True, "resample": 0.2, "start": "render"},
    "fixed noise": {"plan": "sliding", "block": 3, "renoise": "fixed", "churn": 10.0},
    "recalled anchors": {"block": 2, "anchors": 0, "renoise": "fixed", "anchor_level": "clean", "causal": True},
    "from the rendering": {"block": 3, "start": "render", "guidance_scale": 1.0, "sampler": "heun"},
    "half": {"block": 3, "half": True},
    "unconditional": {"plan": "unconditional", "unconditional": True},
    "two generators": {"block": 3, "batch": 2},
}


@pytest.mark.parametrize("name", WAYS)
def test_a_sequence_goes_on_from_every_block(tmp_path, name):
    way = dict(WAYS[name])
    pipeline, batch = tiny_pipeline(), way.pop("batch", 1)
    if way.pop("causal", False):
        pipeline.denoiser.set_attention("block-causal")
    if way.pop("half", False):
        pipeline.set_precision(torch.bfloat16)
    given = (None, None) if "unconditional" in way else (CAR[:, :1].repeat(batch, 1, 1, 1, 1), KNOWN.repeat(batch))

    def stream(resume=None):
        generators = [torch.Generator().manual_seed(seed) for seed in range(5, 5 + batch)]
        generator = generators if batch > 1 else generators[0]
        options = {"generator": generator, "num_inference_steps": 2, "resume": resume, **way}
        return pipeline.stream(*given, TARGETS.repeat(batch), **options)

    whole = []
    for number, frames in enumerate(stream()):
        frames.state.save(tmp_path / f"{number}.safetensors")
        whole.append(frames)
    assert len(whole) > 2
    for number in range(len(whole)):
        state = SequenceState.load(tmp_path / f"{number}.safetensors")
        assert state.finished == number + 1
        rest = list(stream(state))
        assert [frames.indices for frames in rest] == [frames.indices for frames in whole[number + 1 :]]
        for ours, theirs in zip(rest, whole[number + 1 :], strict=True):
            for part in ("images", "renders", "depth"):
                assert torch.equal(getattr(ours, part), getattr(theirs, part)), (number, part)


def test_what_is_kept_does_not_grow_with_the_sequence(tmp_path):
    cameras = ring_cameras(21)
    plan = make_plan("sliding", 1, 20, 2)
    sizes = [
        sum(tensor.numel() for tensor in frames.state.tensors.values())
        for frames in tiny_pipeline().stream(
            CAR[:, :1], KNOWN, cameras.select(range(1, 21)).batched(), plan=plan, num_inference_steps=1,
            generator=torch.Generator().manual_seed(0),
        )
    ]  # fmt: skip
    assert max(sizes[2:-1]) == min(sizes[2:-1])


def test_a_damaged_state_is_none(tmp_path):
    assert SequenceState.load(tmp_path / "nowhere") is None
    (tmp_path / "state").write_bytes(b"x" * 100)
    assert SequenceState.load(tmp_path / "state") is None
