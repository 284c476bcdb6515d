"""The pipeline: shapes, plans, saving and loading, and mistakes that are answered in one sentence."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from tiny import STEPS, inputs, options, ring_cameras, stacked, tiny_parts

import mvgenvs.diffusion.plans
import mvgenvs.pipeline
from mvgenvs.diffusion.plans import Block
from mvgenvs.errors import UserError
from mvgenvs.parts import CHECKPOINT_PREFIX
from mvgenvs.pipeline import MultiViewPipeline

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.mark.parametrize(("known", "batch"), [(1, 1), (2, 2)])
def test_outputs_have_the_promised_shapes_and_ranges(pipeline, known, batch):
    out = pipeline(**inputs(3, known, batch), **options(block=2))
    assert out.images.shape == out.renders.shape == (batch, 3, 3, 32, 32)
    assert out.depth.shape == (batch, 3, 1, 32, 32)
    for pictures in (out.images, out.renders):
        assert pictures.isfinite().all() and pictures.min() >= 0 and pictures.max() <= 1
    assert out.images.std() > 0.01
    assert out.depth.isfinite().all()


def test_joint_differs_from_independent(pipeline):
    joint = pipeline(**inputs(), **options()).images
    independent = pipeline(**inputs(), **options(joint=False)).images
    assert (joint - independent).abs().max() > 1e-3


def test_independent_views_do_not_depend_on_the_block(pipeline):
    """Alone and without anchors, the first view of a block is what it is in a block of its own."""
    one, three = (pipeline(**inputs(n), **options(joint=False, guidance_scale=1.0)) for n in (1, 3))
    torch.testing.assert_close(ring_cameras(1, start=1.0).c2w, ring_cameras(3, start=1.0).c2w[:1])
    torch.testing.assert_close(one.renders[:, 0], three.renders[:, 0])


def test_renders_are_those_of_the_cameras_asked_for(pipeline):
    given = inputs(5)
    renders = pipeline(**given, **options(block=2)).renders
    scene = pipeline.nerf.encode(given["images"], given["cameras"], find_empty=True)
    with torch.no_grad():
        direct = pipeline.nerf.render(scene, given["target_cameras"].resized((32, 32))).rgb
    torch.testing.assert_close(renders, direct.clamp(0, 1), atol=1e-4, rtol=0)  # float32, other batch sizes
    assert (renders[:, 0] - renders[:, 1]).abs().max() > 0.01


def test_anchors_shape_the_later_blocks(pipeline):
    """With memory, the second block knows the first: a changed first block changes it."""
    with_memory, without = (pipeline(**inputs(4), **options(block=2, anchors=n)).images for n in (2, 0))
    assert torch.equal(with_memory[:, :2], without[:, :2])
    assert not torch.allclose(with_memory[:, 2:], without[:, 2:], atol=1e-3)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp-2m"])
def test_a_saved_pipeline_samples_bit_equal(pipeline, saved, sampler):
    loaded = MultiViewPipeline.from_pretrained(saved)
    assert not any(part.training for part in (loaded.codec, loaded.nerf, loaded.denoiser))
    choices = {"sampler": sampler, "churn": 0.0 if sampler == "dpmpp-2m" else 0.5, "block": 2}
    before, after = (p(**inputs(), **options(3, **choices)) for p in (pipeline, loaded))
    for name in ("images", "renders", "depth"):
        assert torch.equal(before[name], after[name])


def test_the_seed_decides(pipeline):
    first, again, other = (pipeline(**inputs(1), **options(seed)).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_saved_files_are_safetensors_and_json(saved):
    files = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert files == {".json", ".safetensors", ".md", ".py"}
    assert {path.name for path in saved.iterdir() if path.suffix in (".md", ".py")} == {"README.md", "pipeline.py"}
    assert json.loads((saved / "model_index.json").read_text())["_class_name"] == "MultiViewPipeline"


def test_a_run_or_checkpoint_folder_means_its_newest_pipeline(pipeline, saved, tmp_path):
    older, newest = tmp_path / f"{CHECKPOINT_PREFIX}000002", tmp_path / f"{CHECKPOINT_PREFIX}000010"
    MultiViewPipeline.from_parts(tiny_parts(seed=1)).save_pretrained(older / "pipeline")
    newest.mkdir()
    (newest / "pipeline").symlink_to(saved)
    (tmp_path / f".{CHECKPOINT_PREFIX}000011.tmp").mkdir()
    expected = pipeline.denoiser.unet.conv_in.weight
    for folder in (tmp_path, newest, saved):
        assert torch.equal(MultiViewPipeline.from_pretrained(folder).denoiser.unet.conv_in.weight, expected)
    assert not torch.equal(MultiViewPipeline.from_pretrained(older).denoiser.unet.conv_in.weight, expected)


def test_unconditional(pipeline):
    cameras = stacked(ring_cameras(3), 2)
    out = pipeline(None, None, cameras, **options(unconditional=True, block=2))
    assert out.images.shape == (2, 3, 3, 32, 32)
    assert out.images.isfinite().all() and out.images.std() > 0.01
    assert not torch.allclose(out.images[0], out.images[1], atol=1e-2)  # each entry of the batch has its own noise
    assert (out.depth == 0).all()


def test_each_step_can_be_watched(pipeline):
    states = []
    pipeline(**inputs(3), **options(block=2, on_step=states.append))
    assert [(s.block, s.step) for s in states] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {(s.num_blocks, s.num_steps) for s in states} == {(2, STEPS)}
    assert [s.sigma for s in states[:2]] == pytest.approx([mvgenvs.pipeline.SIGMA_MAX, 0.02], rel=1e-4)
    assert states[0].denoised().shape == (1, 2, 3, 32, 32)
    assert states[-1].denoised().shape == (1, 1, 3, 32, 32)


# Mistakes


def test_wrong_images_are_user_errors(pipeline):
    given = inputs()
    with pytest.raises(UserError, match="32 x 32 pixels, not"):
        pipeline(given["images"][..., :16], given["cameras"], given["target_cameras"])
    with pytest.raises(UserError, match="known views are needed"):
        pipeline(None, None, given["target_cameras"])
    with pytest.raises(UserError, match="known views are needed"):
        pipeline(given["images"], None, given["target_cameras"])


WRONG = [  # what `SamplingOptions` refuses is told in its own tests
    ({"plan": "zigzag"}, "no plan 'zigzag'"),
    ({"sigma_max": 0.01}, "sigma_max must be above this model's lowest noise level, 0.02, but is 0.01"),
    ({"start": "render", "plan": [Block((1, 2, 3), (0,), ())]}, "start 'render' needs a rendering of every view"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG)
def test_wrong_options_are_user_errors(pipeline, wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        pipeline(**inputs(), **(options() | wrong))


def test_unknown_checkpoints_are_user_errors(monkeypatch, tmp_path):
    def no_hub(*_, **__):
        raise OSError("no network in the tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_hub)
    with pytest.raises(UserError, match="neither a folder nor a model"):
        MultiViewPipeline.from_pretrained("no/such-checkpoint")
    with pytest.raises(UserError, match="found no mvgenvs pipeline"):
        MultiViewPipeline.from_pretrained(tmp_path)


def test_folders_of_another_kind_are_user_errors(saved, tmp_path):
    unet = UNet2DModel(8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(UserError, match="not an mvgenvs pipeline"):
        MultiViewPipeline.from_pretrained(tmp_path / "ddpm")


@pytest.mark.parametrize("missing", ["codec/config.json", "nerf/diffusion_pytorch_model.safetensors", "scheduler"])
def test_incomplete_folders_are_user_errors(saved, tmp_path, missing):
    for path in saved.rglob("*"):
        relative = path.relative_to(saved)
        if path.is_file() and not str(relative).startswith(missing):
            (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / relative).symlink_to(path)
    with pytest.raises(UserError, match=f"is not an mvgenvs pipeline: cannot read its '{missing.split('/')[0]}'"):
        MultiViewPipeline.from_pretrained(tmp_path)


def test_a_backend_that_does_not_exist_is_a_user_error(saved):
    with pytest.raises(UserError, match="flash9"):
        MultiViewPipeline.from_pretrained(saved, attention_backend="flash9")


def test_a_part_that_lacks_weights_is_refused(saved, tmp_path):
    """Otherwise whatever lies in memory would take their place."""
    shutil.copytree(saved, tmp_path / "old")
    weights = tmp_path / "old" / "codec" / "diffusion_pytorch_model.safetensors"
    save_file({key: value for key, value in load_file(weights).items() if "leave" not in key}, weights)
    with pytest.raises(UserError, match=r"the 'codec' of .*old lacks weights, refiner\.leave"):
        MultiViewPipeline.from_pretrained(tmp_path / "old")
