"""What diffusers' users expect of a pipeline as a thing to load, publish, offload, and give a scheduler."""

import contextlib
import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.hooks import CpuOffload
from diffusers import DDIMScheduler, DiffusionPipeline, EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.pipelines import pipeline_utils
from diffusers.utils import dynamic_modules_utils, hub_utils
from huggingface_hub import ModelCard
from huggingface_hub.utils import EntryNotFoundError
from tiny import inputs, sampled, tiny_config, tiny_parts, tiny_pipeline

from attention import JointViewAttnProcessor, attention_layers
from mvgenvs.errors import UserError
from mvgenvs.parts import BUNDLED, PARTS
from mvgenvs.pipeline import MultiViewPipeline

pytestmark = pytest.mark.usefixtures("no_grad")


# Loading


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_loaded_in_the_format_asked_for(saved, pipeline, dtype):
    loaded = MultiViewPipeline.from_pretrained(saved, torch_dtype=dtype)
    assert {loaded.codec.dtype, loaded.nerf.dtype, loaded.denoiser.dtype} == {dtype}
    images = sampled(loaded).images
    assert images.dtype == torch.float32 and images.isfinite().all()
    assert (images - sampled(pipeline).images).abs().mean() < 0.02
    assert MultiViewPipeline.from_pretrained(saved).denoiser.dtype == torch.float32


def test_a_saved_variant_loads_again(tmp_path):
    half = MultiViewPipeline.from_parts(tiny_parts()).to(torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    loaded = MultiViewPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert torch.equal(loaded.denoiser.unet.conv_in.weight, half.denoiser.unet.conv_in.weight)
    assert torch.equal(sampled(loaded).images, sampled(half).images)
    with pytest.raises(UserError, match=r"no variant None of the 'codec' of .*: choose one of fp16"):
        MultiViewPipeline.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no variant ema of the 'codec' of .*: choose one of fp16"):
        MultiViewPipeline.from_pretrained(tmp_path, variant="ema")


def test_keywords_for_the_hub_reach_it(saved, monkeypatch, tmp_path):
    asked = {}

    def snapshot(name, **keywords):
        asked.update(keywords, name=name)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    MultiViewPipeline.from_pretrained("someone/cars", revision="v2", cache_dir=tmp_path, local_files_only=True)
    found = {name: asked[name] for name in ("name", "revision", "cache_dir", "local_files_only")}
    assert found == {"name": "someone/cars", "revision": "v2", "cache_dir": tmp_path, "local_files_only": True}


def test_keywords_that_would_be_ignored_are_refused(saved):
    with pytest.raises(UserError, match="takes no 'safety_checker'"):
        MultiViewPipeline.from_pretrained(saved, safety_checker=None)
    with pytest.raises(UserError, match=r"torch_dtype must be torch\.float32, bfloat16 or float16, not torch\.int8"):
        MultiViewPipeline.from_pretrained(saved, torch_dtype=torch.int8)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_shards_load_again(pipeline, tmp_path, variant):
    pipeline.save_pretrained(tmp_path, variant=variant, max_shard_size="100KB")
    assert len(list((tmp_path / "denoiser").glob("*-of-*.safetensors"))) > 1
    loaded = MultiViewPipeline.from_pretrained(tmp_path, variant=variant)
    for name in PARTS:
        theirs = getattr(loaded, name).state_dict()
        assert all(torch.equal(x, theirs[key]) for key, x in getattr(pipeline, name).state_dict().items())
    with pytest.raises(UserError, match=f"no variant ema of the 'codec' of .*: choose one of {variant}$"):
        MultiViewPipeline.from_pretrained(tmp_path, variant="ema")
    next((tmp_path / "denoiser").glob("*-00002-of-*")).unlink()
    with pytest.raises(UserError, match="cannot read its 'denoiser'"):
        MultiViewPipeline.from_pretrained(tmp_path, variant=variant)


def test_saved_parts_may_be_replaced(saved, pipeline):
    other = tiny_parts(seed=2)
    scheduler = EDMEulerScheduler.from_config(pipeline.scheduler.config, sigma_max=4.0)
    loaded = MultiViewPipeline.from_pretrained(saved, denoiser=other.denoiser, scheduler=scheduler)
    assert loaded.denoiser is other.denoiser and loaded.scheduler is scheduler
    assert torch.equal(loaded.codec.mean, pipeline.codec.mean)
    with pytest.raises(UserError, match=r"sigma_data must be 0\.5"):
        MultiViewPipeline.from_pretrained(saved, scheduler=EDMEulerScheduler(sigma_data=1.0))


def test_the_keywords_of_loading_that_diffusers_users_give(saved):
    loaded = MultiViewPipeline.from_pretrained(saved, dtype=torch.float16, use_safetensors=True)
    assert loaded.denoiser.dtype == torch.float16
    with pytest.raises(UserError, match="safetensors alone"):
        MultiViewPipeline.from_pretrained(saved, use_safetensors=False)


def test_parts_move_and_are_cast_together(saved, pipeline):
    loaded = MultiViewPipeline.from_pretrained(saved)
    assert loaded.to("cpu", torch.bfloat16) is loaded and loaded.dtype == torch.bfloat16
    assert {getattr(loaded, name).dtype for name in PARTS} == {torch.bfloat16}
    assert str(loaded.device) == "cpu"
    loaded.to("meta")
    assert {getattr(loaded, name).device.type for name in PARTS} == {"meta"}


def test_pickled_weights_are_not_loaded(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "pickled")
    weights = tmp_path / "pickled/denoiser/diffusion_pytorch_model.safetensors"
    torch.save(MultiViewPipeline.from_pretrained(saved).denoiser.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UserError, match="cannot read its 'denoiser'"):
        MultiViewPipeline.from_pretrained(tmp_path / "pickled")


def test_a_pipeline_is_made_of_another_ones_parts(pipeline):
    ours = MultiViewPipeline.from_parts(tiny_parts(seed=2), default_steps=3, default_render_sigma=0.5)
    other = MultiViewPipeline.from_pipe(ours)
    assert other.denoiser is ours.denoiser and other.defaults == ours.defaults
    assert torch.equal(sampled(other).images, sampled(ours).images)


@pytest.fixture
def module_cache(monkeypatch, tmp_path):
    """Where diffusers copies the code that it is told to trust."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", sys.path[:])


def test_diffusers_own_class_loads_a_saved_pipeline(saved, pipeline, module_cache):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(saved, custom_pipeline=str(saved))
    loaded = DiffusionPipeline.from_pretrained(saved, custom_pipeline=str(saved), trust_remote_code=True)
    assert type(loaded) is MultiViewPipeline and loaded.defaults == pipeline.defaults
    assert torch.equal(sampled(loaded).images, sampled(pipeline).images)


def test_the_bundled_model_is_one_that_diffusers_loads(module_cache):
    folder = str(BUNDLED)
    loaded = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    ours = MultiViewPipeline.from_pretrained("bundled")
    assert type(loaded) is MultiViewPipeline and loaded.defaults == ours.defaults
    for name in PARTS:
        theirs = getattr(loaded, name).state_dict()
        assert all(torch.equal(x, theirs[key]) for key, x in getattr(ours, name).state_dict().items())


# Publishing


def test_a_model_card_lies_beside_a_saved_pipeline(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "diffusers" and "novel-view-synthesis" in card.data.tags
    for name in PARTS:
        count = sum(p.numel() for p in getattr(pipeline, name).parameters())
        assert f"| `{name}` | {type(getattr(pipeline, name)).__name__} | {count:,} |" in card.text
    (tmp_path / "README.md").write_text("mine")
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub in a folder: what is uploaded lies there."""
    folder = tmp_path / "hub"

    def load(repo_id, token=None):
        if (folder / "README.md").exists():
            return ModelCard((folder / "README.md").read_text())
        raise EntryNotFoundError("no card")

    def upload(repo_id, folder_path, **_):
        shutil.copytree(folder_path, folder, dirs_exist_ok=True)

    for module in (hub_utils, pipeline_utils):
        monkeypatch.setattr(module, "create_repo", lambda repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(hub_utils, "upload_folder", upload)
    monkeypatch.setattr(hub_utils.ModelCard, "load", load)
    return folder


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_a_pushed_pipeline_has_our_card_unless_the_repository_has_one(pipeline, hub, tmp_path, how):
    def push():
        if how == "push_to_hub":
            pipeline.push_to_hub("someone/cars")
        else:
            pipeline.save_pretrained(str(tmp_path / "cars"), push_to_hub=True, repo_id="someone/cars")

    push()
    assert "| `denoiser` | JointDenoiser |" in (hub / "README.md").read_text()
    assert {"model_index.json", "pipeline.py", *PARTS} < {path.name for path in hub.iterdir()}
    assert torch.equal(sampled(MultiViewPipeline.from_pretrained(hub)).images, sampled(pipeline).images)
    (hub / "README.md").write_text("---\nlicense: cc0-1.0\n---\nWhat I found out.\n")
    push()
    assert "What I found out." in (hub / "README.md").read_text()


# Offload


@pytest.fixture
def moves(monkeypatch):
    """The parts that accelerate brings to the device, in order."""
    moved = []
    pre_forward = CpuOffload.pre_forward

    def watched(hook, module, *arguments, **named):
        moved.append(type(module).__name__)
        return pre_forward(hook, module, *arguments, **named)

    monkeypatch.setattr(CpuOffload, "pre_forward", watched)
    return moved


@pytest.mark.parametrize("kind", ["patch", "identity"])
def test_offloaded_parts_come_to_the_device_before_they_compute(moves, monkeypatch, kind):
    """The device is the CPU too, for want of another: what computes elsewhere is for `test_gpu.py`."""
    config = tiny_config()
    if kind == "identity":
        shape = replace(config.denoiser, condition_scale=1, render_size=32)
        config = replace(config, codec=replace(config.codec, kind=kind), denoiser=shape)
    pipe = MultiViewPipeline.from_parts(tiny_parts(config))
    quick = {"num_inference_steps": 1, "block": 1}
    expected = sampled(pipe, **quick).images
    computed = []
    for part, names in ((pipe.nerf, ("encoder", "field")), (pipe.denoiser, ("unet",))):
        for name in names:
            getattr(part, name).register_forward_pre_hook(lambda *_, part=part: computed.append(type(part).__name__))
    freed = []
    pipe.enable_model_cpu_offload(device="cpu")
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(len(moves)))
    assert torch.equal(sampled(pipe, **quick).images, expected)
    assert moves[0] == "JointDenoiser", "whose device is that of all tensors"
    assert set(moves) == {"JointDenoiser", "ViewNeRF", *(["PatchCodec"] if kind == "patch" else [])}
    assert set(computed) <= set(moves)
    assert freed == [len(moves)], "once, after all steps"
    frames = pipe.stream(**inputs(3), **quick)
    next(frames)
    frames.close()
    assert freed[1:] == [len(moves)], "a sequence that is given up frees them too"


def test_parts_can_be_offloaded_again_after_each_call(moves):
    pipe = tiny_pipeline()
    expected = sampled(pipe).images
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert torch.equal(sampled(pipe).images, expected)
        assert all(hasattr(getattr(pipe, name), "_hf_hook") for name in PARTS)
        assert moves and moves[0] == "JointDenoiser"
        moves.clear()
    pipe.remove_all_hooks()
    assert torch.equal(sampled(pipe).images, expected)
    assert not moves


# Attention

REPLACING = {
    "sliced": lambda pipe: pipe.denoiser.unet.set_attention_slice("auto"),
    "fused": lambda pipe: pipe.denoiser.unet.fuse_qkv_projections(),
    "default": lambda pipe: pipe.denoiser.unet.set_default_attn_processor(),
    "given": lambda pipe: pipe.denoiser.unet.set_attn_processor(AttnProcessor2_0()),
}


@pytest.mark.parametrize("name", REPLACING)
def test_joint_attention_is_not_replaced_in_silence(name):
    """Each of them left views that did not meet, and no error."""
    pipe = tiny_pipeline()
    expected = sampled(pipe).images
    with contextlib.suppress(ValueError):  # some refuse processors that they do not know
        REPLACING[name](pipe)
    if all(type(layer.processor) is JointViewAttnProcessor for layer in attention_layers(pipe.denoiser).values()):
        assert torch.equal(sampled(pipe).images, expected)
        return
    with pytest.raises(UserError, match=r"in place of its joint attention: call denoiser\.set_attention\('joint'\)"):
        sampled(pipe)
    pipe.denoiser.set_attention("joint")
    assert torch.equal(sampled(pipe).images, expected)


def test_the_pipelines_own_switches_keep_joint_attention():
    pipe = tiny_pipeline()
    expected = sampled(pipe).images
    pipe.enable_attention_slicing()
    assert torch.equal(sampled(pipe).images, expected)
    pipe.disable_attention_slicing()
    pipe.denoiser.set_attention_backend("sdpa")
    pipe.denoiser.reset_attention_backend()
    assert torch.equal(sampled(pipe).images, expected)
    with pytest.raises(UserError, match="no attention backend 'sage'"):
        pipe.denoiser.set_attention_backend("sage")


# Schedulers


MISREAD = {
    "sigma_data": (EDMEulerScheduler(sigma_data=1.0), r"sigma_data must be 0\.5, .* but is 1\.0"),
    "prediction_type": (EDMEulerScheduler(prediction_type="v_prediction"), "prediction_type must be epsilon"),
    "noise of its own": (EDMDPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "algorithm_type must be"),
    "another kind": (DDIMScheduler(), "must be one of EDMDPMSolverMultistepScheduler, EDMEulerScheduler, but is DDIM"),
}


@pytest.mark.parametrize("name", MISREAD)
def test_a_scheduler_that_would_be_misread_is_refused(saved, tmp_path, name):
    scheduler, sentence = MISREAD[name]
    pipeline = tiny_pipeline()
    pipeline.scheduler = scheduler
    with pytest.raises(UserError, match=sentence):
        sampled(pipeline)
    shutil.copytree(saved, tmp_path / "other")
    scheduler.save_pretrained(tmp_path / "other/scheduler")
    with pytest.raises(UserError, match=sentence):
        MultiViewPipeline.from_pretrained(tmp_path / "other")
    config = json.loads((saved / "scheduler/scheduler_config.json").read_text())
    assert config["_class_name"] == "EDMEulerScheduler"


def test_the_other_scheduler_of_edm_serves_as_well(saved, pipeline):
    other = MultiViewPipeline.from_pretrained(saved)
    other.scheduler = EDMDPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    for sampler in ("euler", "dpmpp-2m"):
        assert torch.equal(sampled(other, sampler=sampler).images, sampled(pipeline, sampler=sampler).images)
