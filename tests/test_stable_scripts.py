"""Both scripts on miniature Stable Diffusion checkpoints: the loss falls on one object, and an orbit comes out."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import TINY, weights
from tiny import write_srn
from tiny_sd import write_sd

import infer_multiview
import train_multiview
from attention import JointViewAttnProcessor, attention_layers
from mvgenvs.errors import UserError
from mvgenvs.parts import find_pipeline, load_parts
from mvgenvs.pipeline import MultiViewPipeline

REPO = Path(__file__).parents[1]
STEPS = 12


def settings(folder: Path, config: str, shape: str) -> dict[str, str]:
    """What makes one of the repository's configurations small, one toy car to learn, and a checkpoint to start from."""
    if not (folder / "data").exists():
        write_srn(folder / "data", {"train": 1, "val": 1})
    write_sd(folder / "checkpoint", shape)
    small = {name: value for name, value in TINY.items() if name.startswith(("nerf.", "run.", "data.size"))}
    return small | {
        "config": str(REPO / "configs" / config),
        "model.init-from": str(folder / "checkpoint"),
        "data.root": str(folder / "data"),
        "data.num_views": "3",
        "data.recolour": "0",
        "data.mirror": "false",
        "denoiser.render_size": "8",
        "denoiser.condition_scale": "2",
        "denoiser.trainable": "all",  # a UNet of random weights has nothing that is worth keeping
        "loss.noise_draws": "3",
        "optim.steps": str(STEPS),
        "optim.batch": "2",
        "optim.accumulation": "1",
        "optim.lr": "4e-3",
        "optim.warmup": "1",
        "optim.ema": "0.9",
        "run.checkpoint_every": "1000",
        "run.log_every": "1",
        "run.init_from": "",
        "run.output": str(folder / "run"),
    }


def train(values: dict[str, str]) -> Path:
    assert train_multiview.main([f"--{name}={value}" for name, value in values.items()]) == 0
    return Path(values["run.output"])


RUNS = [("sd_tiny_controlnet.yaml", "tiny-sd"), ("sd15_controlnet.yaml", "sd15"), ("sd_tiny_t2i.yaml", "tiny-sd"),
        ("sd_tiny_concat.yaml", "tiny-sd")]  # fmt: skip


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: run[0].removesuffix(".yaml"))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose Stable Diffusion checkpoint is gone: nothing of it may be needed again."""
    folder = tmp_path_factory.mktemp("run")
    trained = train(settings(folder, *request.param))
    vae = load_file(folder / "checkpoint/vae/diffusion_pytorch_model.safetensors")
    ours = load_parts(find_pipeline(trained)).codec.vae.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in vae.items()), "the VAE is frozen"
    shutil.rmtree(folder / "checkpoint")
    return trained


def test_the_loss_falls_on_one_object(run: Path) -> None:
    losses = [json.loads(line)["denoise"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(losses) == STEPS
    first, last = (torch.tensor(part).mean().item() for part in (losses[:3], losses[-3:]))
    assert last < 0.8 * first


def test_training_and_inference_run_the_same_processors(run: Path) -> None:
    denoiser = MultiViewPipeline.from_pretrained(run).denoiser
    processors = {type(layer.processor) for layer in attention_layers(denoiser).values()}
    assert processors == {JointViewAttnProcessor}


def test_an_orbit_is_the_same_after_saving_and_loading(run: Path, tmp_path: Path) -> None:
    MultiViewPipeline.from_pretrained(run).save_pretrained(tmp_path / "copy")
    before, after = weights(run), weights(tmp_path / "copy")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    frames = []
    for checkpoint in (run, tmp_path / "copy"):
        output = tmp_path / f"orbit of {checkpoint.name}"
        arguments = ["--image", str(REPO / "assets/car.png"), "--checkpoint", str(checkpoint), "--output", str(output)]
        arguments += ["--num-views", "3", "--steps", "2", "--guidance", "2", "--churn", "0.5", "--plan", "sliding"]
        assert infer_multiview.main([*arguments, "--block", "2", "--anchors", "1"]) == 0
        assert (output / "orbit.mp4").exists()
        frames.append([path.read_bytes() for path in sorted((output / "frames").iterdir())])
    assert len(frames[0]) == 3
    assert frames[0] == frames[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model.kind": "pixels"}, "model.kind"),
        ({"model.conditioner": "lora"}, "model.conditioner"),
        ({"denoiser.condition_scale": "3"}, "denoiser.condition_scale"),
        ({"denoiser.render_size": "9"}, "denoiser.render_size"),
        ({"run.train": "[codec]"}, "VAE stays"),
        ({"model.init-from": ""}, "model.init_from"),
    ],
)
def test_mistakes_are_one_sentence(changes: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as error:
        train(settings(tmp_path, "sd_tiny_controlnet.yaml", "tiny-sd") | changes)
    assert "\n" not in str(error.value)
