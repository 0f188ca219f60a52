"""Training of a transformer of DALLE-pytorch's shape: an ordinary decoder, one image token after another.

It is trained and served like our own. `dalle-server export --format dalle-pytorch` gives it to the package.
The loss is the package's (dalle_pytorch.py, DALLE.forward): all text positions count, padding among them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoints.networks import AnyVAE
from model.config import AnyTransformerConfig, from_preset
from model.errors import DataError
from model.families.dalle_pytorch.config import DallePytorchConfig
from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.families.text.config import TextConfig
from model.families.text.huggingface import HuggingFaceTokenizer
from model.tokenizers import AnyTokenizer
from model.training.batches import Batch
from model.training.options import TransformerOptions
from model.vae import VAE

log = logging.getLogger(__name__)

# No hidden matrices: the tables of ids and places, and the rows of the output's matrix.
TABLES = ("text_table", "image_table", "text_places", "row_places", "column_places", "text_head", "image_head")
CrossEntropy = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RunConfig:
    """config.json of a run whose transformer is of another family. tokenizer: what its tokenizer.json holds."""

    transformer: AnyTransformerConfig
    tokenizer: TextConfig


def losses(model: DallePytorchTransformer, batch: Batch, cross_entropy: CrossEntropy) -> tuple[Tensor, Tensor]:
    """The image's loss a token and the text's loss a position, in nats."""
    position = torch.arange(batch.text.shape[1], device=batch.text.device)
    text = batch.text.masked_fill(position >= batch.lengths[:, None], 0)
    states = model.states(text, batch.image[:, :-1], batch.seen[:, :-1])
    first = model.config.max_text - 1  # the state that predicts the first image token
    weights = batch.loss_weights.flatten()
    those = slice(None) if batch.image.is_cuda else weights.nonzero().squeeze(1)
    of_image = cross_entropy(
        states[:, first:].flatten(0, 1)[those], model.image_head.weight, model.image_head.bias,
        batch.image.flatten()[those], weights[those],
    ) / batch.image.numel()  # fmt: skip
    plain = batch.lengths > 1 if batch.plain is None else batch.plain  # null captions teach nothing of text
    weights = plain[:, None].expand(-1, first).flatten().float()
    of_text = cross_entropy(
        states[:, :first].flatten(0, 1), model.text_head.weight, model.text_head.bias,
        model.written(text).flatten(), weights,
    ) / weights.sum().clamp_min(1)  # fmt: skip
    return of_image, of_text


def new_model(options: TransformerOptions, vae: AnyVAE, tokenizer: AnyTokenizer) -> DallePytorchTransformer:
    """The preset's, with random weights, for these tokenizers."""
    sizes = {"text_vocab": tokenizer.vocab_size, "image_vocab": vae.config.codes, "grid": vae.config.grid}
    return DallePytorchTransformer(from_preset(DallePytorchConfig, options.preset, **sizes))


def new_tokenizer(texts: Iterable[str], options: TransformerOptions) -> HuggingFaceTokenizer:
    """A tokenizer that the package reads too, learnt from these texts."""
    text_tokens = from_preset(DallePytorchConfig, options.preset, text_vocab=1, image_vocab=1, grid=1).text_tokens
    return HuggingFaceTokenizer.train(texts, options.vocabulary, text_tokens)


def check(options: TransformerOptions, vae: AnyVAE) -> None:
    """Raises DataError for options that this shape cannot have. Warns where the package has no such VAE."""
    if options.glimpses:
        raise DataError(f"glimpses must be 0 for a transformer of DALLE-pytorch's shape, got {options.glimpses}")
    if options.fused:
        raise DataError("fused must be left out for a transformer of DALLE-pytorch's shape: its steps are not compiled")
    if isinstance(vae, VAE):
        log.warning(
            "DALLE-pytorch has no class for this VAE, so the model can be served and not exported to it; --vae of an "
            "imported DiscreteVAE, VQGAN or OpenAI's dVAE can"
        )
