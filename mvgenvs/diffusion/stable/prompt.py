"""The embedding of a prompt by a checkpoint's text encoder: computed once, when a model is built, by transformers."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvgenvs.errors import UserError

LONGEST_PROMPT = 77  # tokens, if a tokenizer states no length of its own
ENCODERS = {"clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}  # by the model_type in their configuration


@dataclass(frozen=True, eq=False)
class Tokens:
    """A prompt, padded to the tokenizer's length."""

    ids: Int[Tensor, "1 tokens"]
    mask: Int[Tensor, "1 tokens"]  # 0 for the padding


def tokenize(folder: Path, prompt: str) -> Tokens:
    """The prompt's tokens by the tokenizer in `folder`, of any class. Raises what transformers raises."""
    tokenizer = _transformers().AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(
        prompt,
        padding="max_length",
        max_length=min(tokenizer.model_max_length, LONGEST_PROMPT),
        truncation=True,
        return_tensors="pt",
    )
    return Tokens(tokens.input_ids, tokens.attention_mask)


@torch.no_grad()
def embed(folder: Path, tokens: Tokens) -> Float[Tensor, "tokens channels"]:
    """The last hidden states by the encoder in `folder`: CLIP's text model or T5's encoder, as its configuration says.

    In Stable Diffusion, CLIP sees its padding and T5 does not. Raises what transformers raises, and `ValueError` for
    other kinds of encoders.
    """
    transformers = _transformers()
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    if kind not in ENCODERS:
        raise ValueError(f"it is a {kind}, not one of {', '.join(ENCODERS)}")
    encoder = getattr(transformers, ENCODERS[kind]).from_pretrained(folder).float().eval()
    mask = tokens.mask if kind == "t5" else None
    return encoder(tokens.ids, attention_mask=mask).last_hidden_state[0]


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise UserError("Stable Diffusion's text encoder needs transformers: pip install 'mvgenvs[train]'") from error
    return transformers
