"""Stable Diffusion folders that are incomplete, damaged or of another kind: one sentence that names the component."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sd import write_sd
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5EncoderModel

from mvgenvs.diffusion.stable.checkpoint import COMPONENTS, find_stable_diffusion, load_stable_diffusion
from mvgenvs.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sd(tmp_path_factory.mktemp("sd") / "whole")


def load(folder: Path | str, conditioner: str = "controlnet", prompt: str = "a car"):
    return load_stable_diffusion(str(folder), conditioner, prompt, 32, 16, 2, "joint")


def change(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def lose_a_weight(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({name: w for name, w in load_file(file).items() if name != "conv_out.bias"}, file)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another model's vae": (lambda f: change(f / "vae/config.json", _class_name="AutoencoderTiny"), "the vae of"),
    "narrow vae": (lambda f: change(f / "vae/config.json", latent_channels=8), "the vae of"),
    "damaged vae": (lambda f: truncate(f / "vae/diffusion_pytorch_model.safetensors"), "the vae of"),
    "unet is no JSON": (lambda f: (f / "unet/config.json").write_text("{"), "the unet of"),
    "unet without weights": (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), "the unet of"),
    "unet lacks a weight": (lose_a_weight, "the unet of.*conv_out.bias"),
    "unet of SDXL": (lambda f: change(f / "unet/config.json", addition_embed_type="text"), "the unet of"),
    "scheduler predicts x0": (
        lambda f: change(f / "scheduler/scheduler_config.json", prediction_type="sample"),
        "the scheduler of.*prediction_type",
    ),
    "unknown betas": (
        lambda f: change(f / "scheduler/scheduler_config.json", beta_schedule="zigzag"), "the scheduler of"
    ),
    "other text encoder": (lambda f: change(f / "text_encoder/config.json", model_type="bert"), "the text_encoder of"),
    "damaged text encoder": (lambda f: truncate(f / "text_encoder/model.safetensors"), "the text_encoder of"),
    "tokenizer without words": (lambda f: (f / "tokenizer/vocab.json").unlink(), "the tokenizer of"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_component(mistake: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(whole, folder)
    spoil, says = MISTAKES[mistake]
    spoil(folder)
    with pytest.raises(UserError, match=says) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("component", COMPONENTS)
def test_missing_components_are_named(component: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / component)
    with pytest.raises(UserError, match=f"has no {component}/"):
        load(folder)


def test_unets_that_do_not_fit_the_other_components(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(UserError, match=r"the unet of .* takes 8 channels"):
        load(write_sd(tmp_path / "zero123", in_channels=8), "controlnet")
    wide = shutil.copytree(whole, tmp_path / "wide")
    config = CLIPTextConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1, vocab_size=60)
    CLIPTextModel(config).save_pretrained(wide / "text_encoder")
    with pytest.raises(UserError, match=r"the text_encoder of .* has 32 channels"):
        load(wide)


@pytest.mark.parametrize(("name", "says"), [("", "must name"), ("no such folder", "neither a folder nor")])
def test_names_that_lead_nowhere(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        find_stable_diffusion(name)


def test_a_single_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="diffusers' layout"):
        find_stable_diffusion(str(tmp_path / "model.safetensors"))


def test_missing_transformers_is_one_sentence(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"mvgenvs\[train\]"):
        load(whole)


@pytest.mark.parametrize("safetensors", [True, False])
def test_hub_ids_are_downloaded_component_by_component(
    safetensors: bool, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As safetensors where there are any; pickled weights only where there are not."""
    requests = []

    def download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        requests.append((name, allow_patterns, "*.bin" in ignore_patterns))
        return str(whole if safetensors or not requests[-1][2] else shutil.copytree(whole / "vae", tmp_path / "none"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_stable_diffusion("someone/some-model") == whole
    wanted = [f"{component}/*" for component in COMPONENTS]
    assert requests == [("someone/some-model", wanted, True), ("someone/some-model", wanted, False)][: 2 - safetensors]


@torch.no_grad()
def test_prompts_are_embedded_as_stable_diffusion_does(whole: Path) -> None:
    tokens = CLIPTokenizer.from_pretrained(whole / "tokenizer")("a car", padding="max_length", return_tensors="pt")
    expected = CLIPTextModel.from_pretrained(whole / "text_encoder").eval()(tokens.input_ids).last_hidden_state
    (_, denoiser), (_, other) = load(whole), load(whole, prompt="a cat")
    assert denoiser.prompt_embedding.shape == (1, 77, 16)
    torch.testing.assert_close(denoiser.prompt_embedding, expected)
    assert not torch.allclose(other.prompt_embedding, expected, atol=1e-3)


@torch.no_grad()
def test_prompts_of_t5_leave_out_the_padding(tmp_path: Path) -> None:
    folder = write_sd(tmp_path / "t5", text="t5")
    _, denoiser = load(folder)
    encoder = T5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    alone = encoder(torch.tensor([[3, 4]])).last_hidden_state  # "a", "car"
    torch.testing.assert_close(denoiser.prompt_embedding[:, :2], alone, atol=1e-5, rtol=1e-4)
