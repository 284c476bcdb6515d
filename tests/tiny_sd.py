"""Miniature Stable Diffusion checkpoints in diffusers' layout, random weights: all that a real one has, smaller."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from mvgenvs.diffusion.stable.zero123 import CCProjection

TEXT_CHANNELS = 16
SHAPES = {
    "tiny-sd": {  # as segmind/tiny-sd: no mid block, attention at every level, one layer
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "mid_block_type": None,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
    },
    "sd15": {  # as Stable Diffusion 1.5: a mid block, no attention at the last level, two layers
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 2,
    },
}


def write_sd(
    folder: Path,
    shape: str = "tiny-sd",
    prediction_type: str = "epsilon",
    in_channels: int = 4,
    text: str = "clip",
    seed: int = 0,
) -> Path:
    """Writes unet, vae, text_encoder, tokenizer and scheduler; the VAE's latents are an eighth of the image's side."""
    torch.manual_seed(seed)
    UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        attention_head_dim=2,
        cross_attention_dim=TEXT_CHANNELS,
        norm_num_groups=8,
        **SHAPES[shape],
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        scaling_factor=0.7,
        sample_size=64,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    write_clip(folder) if text == "clip" else write_t5(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def write_zero123(folder: Path) -> Path:
    """Zero-1-to-3 in diffusers' layout: 8 input channels, an image encoder and a projection, and no text encoder."""
    write_sd(folder, in_channels=8)
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / name)
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16,
            patch_size=8, projection_dim=TEXT_CHANNELS,
        )
    ).save_pretrained(folder / "image_encoder")  # fmt: skip
    projection = CCProjection(TEXT_CHANNELS + 4, TEXT_CHANNELS)
    torch.nn.init.normal_(projection.projection.weight)
    projection.save_pretrained(folder / "cc_projection")
    return folder


def write_clip(folder: Path) -> None:
    """CLIP's text model, and its tokenizer as OpenAI wrote it down: vocab.json and merges.txt."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "ar</w>", "car</w>"]
    specials = ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: number for number, piece in enumerate([*pieces, *specials])}
    start, end = vocab[specials[0]], vocab[specials[1]]
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "vocab.json").write_text(json.dumps(vocab))
    (tokenizer / "merges.txt").write_text("#version: 0.2\na r</w>\nc ar</w>\n")
    about = {"bos_token": specials[0], "eos_token": specials[1], "unk_token": specials[1], "pad_token": specials[1]}
    (tokenizer / "special_tokens_map.json").write_text(json.dumps(about))
    about |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(about))
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocab), hidden_size=TEXT_CHANNELS, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, bos_token_id=start, eos_token_id=end, pad_token_id=end,
        )
    ).save_pretrained(folder / "text_encoder")  # fmt: skip


def write_t5(folder: Path) -> None:
    """T5's encoder, with a tokenizer that knows few words."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "car": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    ).save_pretrained(folder / "tokenizer")
    T5EncoderModel(
        T5Config(vocab_size=8, d_model=TEXT_CHANNELS, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ).save_pretrained(folder / "text_encoder")
