"""Stage 2: train the transformer on captions and image tokens.

Next-token loss on both; the image part weighs seven times the text part, as in the paper (2102.12092, section 2.2). One
caption in ten is dropped, for classifier-free guidance (2207.12598). Some image tokens are withheld as inputs, which
makes the model rely on the words and forgive its own mistakes.

A model that so relies on the words tears a picture where they are of two minds: it begins one thing and goes on with
another. `contradict` puts some pictures under words of something else and asks for the later part alone, so what is
begun is ended, whatever the words say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from model.checkpoints import Checkpoint
from model.config import CheckpointConfig, SamplingDefaults, TransformerConfig, transformer_config
from model.errors import DataError
from model.painter import Painter
from model.sheets import contact_sheet
from model.tokenizer import Tokenizer
from model.training.ahead import moved
from model.training.clutter import UNKNOWN, clutter
from model.training.clutter import texts as clutter_texts
from model.training.corpus.own import check, compose_once
from model.training.cross_entropy import linear_cross_entropy
from model.training.data import sample_caption
from model.training.examples import Example, Examples, Ids, find_examples, padded
from model.training.filters import RULES, Rules
from model.training.loop import (
    LoopOptions,
    Losses,
    Run,
    find_place,
    first_goes_first,
    read_average,
    write_config,
    write_tokenizer,
)
from model.training.loop import train as run_loop
from model.training.optimizers import matrices_and_rest, muon_and_adamw
from model.training.preserve import PreservingExamples, draw_once, pictures_of
from model.training.selection import Selection
from model.transformer import Transformer
from model.transformer.transformer import through
from model.vae import VAE

log = logging.getLogger(__name__)

TABLES = ("text_table", "local.codes", "places")  # that are no hidden matrices
IMAGE_WEIGHT = 7.0  # to 1 for the text: 2102.12092, section 2.2
GLIMPSED = 8  # groups of a picture that a glimpse asks for
EDGE = 2  # tokens at a picture's edges on which hardly anything is drawn
WHOLE = ("single", "styled", "background", "recolour")  # kinds whose later part the earlier one tells


PROMPTS = (
    "a red apple", "a cat", "a rocket", "a slice of pizza", "the flag of japan", "a blue circle",
    "a dog", "a house", "a tree", "the sun", "a car", "a yellow star",
    "a fish", "a rose", "a robot", "a cup of coffee", "a snowman", "a bus",
    "a grinning face", "a red heart", "a banana", "an octopus", "a guitar", "a green apple on a blue background",
)  # fmt: skip


@dataclass(frozen=True)
class TransformerOptions:
    """`dalle-server train transformer`."""

    data: tuple[Path, ...]  # folders or tar shards
    loop: LoopOptions
    preset: str = "default"
    changes: dict[str, Any] = field(default_factory=dict)  # fields of TransformerConfig
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    weight_decay: float = 0.01
    null_captions: float = 0.1  # share of captions dropped
    clutter: float = 0.0  # share of the others as people type them: among words that say nothing of the picture, ...
    contradict: float = 0.0  # share of pictures under a text that does not fit, whose later part alone is learnt
    withhold: float = 1.0  # largest share of image tokens withheld as inputs; drawn for half of the pictures, from 0 on
    blind: float = 0.2  # share of pictures with every token withheld: the words alone must tell what stands where
    glimpses: int = 0  # for each picture so many further ones, of which the words alone must tell a few places
    mirror: float = 0.5  # chance that a picture that may be mirrored is
    easy_share: float = 0.25  # share of tokens that repeat all their neighbours which the loss looks at (weighted up)
    vocabulary: int = 8192  # text tokens, where a tokenizer is trained
    selection: Selection = field(default_factory=Selection)
    prompts: tuple[str, ...] = PROMPTS  # of the sample sheets
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)  # of the sheets, and of what is preserved
    preserve: tuple[str, ...] = ()  # prompts that the start draws itself, so as not to forget them
    preserve_share: float = 0.4  # of the samples: these drawings
    compose: bool = False  # what stands alone on a plain ground also on colours, several times, and beside other things
    fused: bool | None = None  # compile the blocks and the image loss; None for on a GPU, where that is possible
    cache: Path = Path("data/prepared")
    rules: Rules = RULES  # what is fit to train on
    stream: bool = False  # read tars one after another, instead of preparing all pictures on disk


@dataclass(frozen=True)
class Glimpses:
    """Texts, and a few groups of tokens of the picture of each."""

    text: Tensor  # (n, t) int64
    lengths: Tensor  # (n,)
    steps: Tensor  # (n, GLIMPSED) int64: which groups, ascending
    image: Tensor  # (n, GLIMPSED * group) int64: their tokens


@dataclass(frozen=True)
class Batch:
    """Whole sequences, padded."""

    text: Tensor  # (b, t) int64
    lengths: Tensor  # (b,)
    image: Tensor  # (b, grid * grid) int64
    seen: Tensor  # (b, grid * grid) float32, 0 where an image token is withheld as an input
    looked_at: Tensor  # (b, grid * grid) float32: the weight of each token's loss; 0 for easy ones passed over
    plain: Tensor | None = None  # (b,) bool: captions of the corpus, from which the text part learns; None for all
    glimpses: Glimpses | None = field(default=None, kw_only=True)


def easy(image: np.ndarray[Any, Any], grid: int) -> np.ndarray[Any, Any]:
    """(..., grid * grid) ids -> bool: tokens equal to those left, above, above left and above right of them."""
    rows = image.reshape(*image.shape[:-1], grid, grid)
    same = np.zeros(rows.shape, dtype=bool)
    centre = rows[..., 1:, 1:-1]
    same[..., 1:, 1:-1] = (
        (centre == rows[..., 1:, :-2]) & (centre == rows[..., :-1, 1:-1])
        & (centre == rows[..., :-1, :-2]) & (centre == rows[..., :-1, 2:])
    )  # fmt: skip
    return same.reshape(image.shape)


def late(image: Ids, grid: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """(grid * grid,) ids -> 1 where enough stands before a token to tell what is drawn, else 0.

    Enough is 3 to 70 % of the tokens that are not `easy`. At the edges, where blank tokens are no likes either (the
    VAE's padding), nothing is drawn.
    """
    inside = np.zeros((grid, grid), dtype=bool)
    inside[EDGE:-EDGE, EDGE:-EDGE] = True
    drawn = np.cumsum(~easy(image, grid) & inside.reshape(-1))
    return (drawn > random.uniform(0.03, 0.7) * drawn[-1]).astype(np.float32)


Sample = tuple[list[int], Any, Any, Any, bool]  # text, image, seen, looked_at, plain: as in Batch, of one sequence


class Batches:
    """batch_at(step, first, end) over tokens; every choice is a function of (seed, step, sample)."""

    def __init__(
        self,
        examples: Examples,
        tokenizer: Tokenizer,
        options: TransformerOptions,
        config: TransformerConfig,
    ) -> None:
        self.examples, self.tokenizer = examples, tokenizer
        self.options, self.config = options, config

    def __call__(self, step: int, first: int, end: int) -> Batch:
        batch = self._collate([self._sample(step, place) for place in range(first, end)])
        if not self.options.glimpses:
            return batch
        keys = [(step, place, i) for place in range(first, end) for i in range(self.options.glimpses)]
        return replace(batch, glimpses=self._collate_glimpses([self._glimpse(*key) for key in keys]))

    def held_out(self) -> list[Sample]:
        """Samples of the held-out pictures, each with the first of its captions, nothing withheld."""
        ones = np.ones(self.config.image_tokens, dtype=np.float32)
        return [
            (self.tokenizer.encode(example.captions[0][1], truncate=True), example.image, ones, ones, True)
            for example in self.examples.held_out()
        ]

    def _sample(self, step: int, place: int) -> Sample:
        options = self.options
        random = np.random.default_rng((options.loop.seed, step, place))
        example = self.examples.draw(step, place, random, options.mirror)
        image, caption = example.image, sample_caption(example.captions, random)
        whole = options.contradict > 0 and random.random() < options.contradict and example.kind in WHOLE
        if whole:
            other = self.examples.draw(step, (place + 1) % options.loop.batch, random, options.mirror)
            caption, example = sample_caption(other.captions, random), other
        dropped = random.random() < options.null_captions
        cluttered = random.random() < options.clutter or (options.clutter > 0 and example.concept == UNKNOWN)
        if cluttered:
            evoking = example.kind == "single"  # such a text would not say how a composition looks
            caption = clutter(caption, random, (example.concept or "") if evoking else "")
        text = self.tokenizer.null if dropped else self.tokenizer.encode(caption, truncate=True)
        kind = random.random()  # blind, partly withheld, or all seen
        share = random.random() * options.withhold if kind < (1 + options.blind) / 2 else 0.0
        share = 1.0 if kind < options.blind else share
        seen = (random.random(image.shape) >= (0.0 if whole else share)).astype(np.float32)
        repeated = easy(image, self.config.grid)
        passed = repeated & (random.random(image.shape) >= options.easy_share)
        kept = np.where(repeated, 1 / options.easy_share, 1.0)
        looked_at = np.where(passed, 0.0, kept).astype(np.float32)
        if whole:
            looked_at *= late(image, self.config.grid, random)
        return text, image, seen, looked_at, not (dropped or cluttered or whole)

    def _glimpse(self, step: int, place: int, which: int) -> tuple[list[int], Ids, Ids]:
        """A text, ascending groups, and their tokens, of places where something is drawn.

        What a picture shows can be told from any few of its tokens, so many texts can be learnt for the price of one
        picture; with `clutter`, all of these are such as people type.
        """
        random = np.random.default_rng((self.options.loop.seed, step, place, which))
        example = self.examples.draw(step, place, random, self.options.mirror)
        caption = sample_caption(example.captions, random)
        if self.options.clutter > 0:
            caption = clutter(caption, random, (example.concept or "") if example.kind == "single" else "")
        group = self.config.group
        shares = np.where(easy(example.image, self.config.grid).reshape(-1, group).all(-1), 1e-6, 1.0)
        shares[0] = 0.0  # the first group is told by <eot>
        steps = np.sort(random.choice(len(shares), GLIMPSED, replace=False, p=shares / shares.sum()))
        image = example.image.reshape(-1, group)[steps].flatten()
        return self.tokenizer.encode(caption, truncate=True), steps, image

    def _tensors(self, texts: list[list[int]], *columns: Sequence[Any]) -> list[Tensor]:
        """Texts (b, longest), padded on the right; their lengths (b,); and each further column, stacked."""
        arrays = (padded(texts), np.array(list(map(len, texts))), *map(np.stack, columns))
        return list(map(torch.from_numpy, arrays))

    def _collate(self, samples: list[Sample]) -> Batch:
        texts, *columns = zip(*samples, strict=True)
        return Batch(*self._tensors(list(texts), *columns))

    def _collate_glimpses(self, samples: list[tuple[list[int], Ids, Ids]]) -> Glimpses:
        texts, *columns = zip(*samples, strict=True)
        return Glimpses(*self._tensors(list(texts), *columns))


def losses(model: nn.Module, batch: Batch, fused: bool = False) -> Losses:
    """Both parts of the loss, in nats a token. fused: with compiled kernels."""
    assert isinstance(model, Transformer)
    text, predicting, grid = model.states(batch.text, batch.lengths, batch.image, batch.seen)
    local, cross_entropy = model.local, partial(linear_cross_entropy, fused=fused)
    weights = batch.looked_at.flatten()
    looked_at = weights.nonzero().squeeze(1)
    inputs = model.local_inputs(predicting, grid).flatten(0, 1)[looked_at]
    count = batch.image.numel()
    image_loss = cross_entropy(
        local.refine(inputs), local.codes(), local.bias, batch.image.flatten()[looked_at], weights[looked_at]
    )
    image_loss = image_loss / count
    glimpsed, told_by_words = image_loss.new_zeros(()), {}
    if batch.glimpses is not None:  # each of their tokens counts as much as one of the pictures'
        seen = batch.glimpses
        inputs, wanted = model.glimpses(seen.text, seen.lengths, seen.steps).flatten(0, 1), seen.image.flatten()
        glimpsed = cross_entropy(
            local.refine(inputs), local.codes(), local.bias, wanted, torch.ones_like(wanted, dtype=torch.float32)
        )
        told_by_words = {"glimpse_bits": glimpsed.detach() / len(wanted) / math.log(2)}
    place = torch.arange(batch.text.shape[1] - 1, device=batch.text.device)
    plain = batch.lengths > 2 if batch.plain is None else batch.plain  # null captions teach nothing of text
    told = (place < batch.lengths[:, None] - 1) & plain[:, None]
    zero_bias = torch.zeros(model.config.text_vocab, device=text.device)
    text_loss = linear_cross_entropy(
        text[:, :-1][told], model.text_table.weight, zero_bias, batch.text[:, 1:][told],
        torch.ones(int(told.sum()), device=text.device),
    ) / told.sum().clamp_min(1)  # fmt: skip
    return {
        "loss": (text_loss + IMAGE_WEIGHT * (image_loss + glimpsed / count)) / (1 + IMAGE_WEIGHT),
        "image_bits": image_loss / math.log(2),
        "text_loss": text_loss,
        **told_by_words,
    }


@torch.no_grad()
def held_out(model: Transformer, batches: Batches, batch: int = 8) -> dict[str, float]:
    """Bits per image token on held-out pictures."""
    samples, total, device = batches.held_out(), 0.0, model.text_table.weight.device
    for first in range(0, len(samples), batch):
        part = samples[first : first + batch]
        total += float(losses(model, moved(batches._collate(part), device))["image_bits"]) * len(part)
    return {"val_image_bits": total / len(samples)} if samples else {}


def sample_sheet(checkpoint: Checkpoint, prompts: Sequence[str]) -> Image.Image:
    """One picture a prompt with seed 0 and the checkpoint's sampling defaults, painted by the engine that serves."""
    pictures = Painter(checkpoint).generate_each(prompts, seed=0)
    return contact_sheet(pictures, prompts, columns=6)


def why_not_compiled(device: torch.device) -> str | None:
    """What keeps torch.compile from working: mostly there is no C compiler. None where it works."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception as error:  # of many kinds, from the tools that it calls
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _all_texts(examples: Examples, options: TransformerOptions) -> Iterator[str]:
    """What a tokenizer learns from."""
    yield from examples.captions()
    if options.clutter > 0:
        yield from clutter_texts()


def _whole(options: TransformerOptions, vae: VAE, words: Tokenizer, transformer: Transformer) -> Checkpoint:
    """With what it takes to paint."""
    config = CheckpointConfig("training", "", vae.config, transformer.config, options.sampling)
    return Checkpoint(config, words, vae, transformer, Path())


def train(
    options: TransformerOptions, vae: VAE, tokenizer: Tokenizer | None = None, start: Transformer | None = None
) -> tuple[Transformer, Tokenizer]:
    """Train, or go on training, in `options.loop.out`; returns the averaged transformer and the tokenizer.

    tokenizer: one is trained on the captions when not given. start: weights to begin from, for fine-tuning.
    preserve needs both. Raises DataError, and PromptTooLong for a prompt to preserve.
    """
    place, folder = find_place(options.loop), options.loop.out
    folder.mkdir(parents=True, exist_ok=True)
    if options.compose:
        check(options.data)
    examples = None if options.compose else find_examples(options, vae, place)
    drawn: list[Example] = []
    if options.preserve:
        if start is None or tokenizer is None:
            raise DataError("preserve: prompts, and no start; a new model has nothing to preserve")
        begun = _whole(options, vae, tokenizer, start)
        with first_goes_first(place):
            path = folder / "preserved.npz"
            drawn = draw_once(begun, options.preserve, place.device, options.loop.seed, path)
    if examples is None:
        beside = partial(pictures_of, drawn, vae)
        with first_goes_first(place):
            made = compose_once(options.data, folder / "composed", beside, options.rules, options.loop.seed)
        options = replace(options, data=(made,), rules=replace(options.rules, near=False))
        examples = find_examples(options, vae, place)
    if drawn:
        examples = PreservingExamples(examples, drawn, options.preserve_share)
    saved = folder / "tokenizer.json"
    with first_goes_first(place):
        words = tokenizer or (
            Tokenizer.load(saved)
            if saved.exists()
            else Tokenizer.train(_all_texts(examples, options), options.vocabulary)
        )
        if place.first:
            write_tokenizer(folder, words)
    torch.manual_seed(options.loop.seed)
    changes = {"text_vocab": options.vocabulary, **options.changes}
    model = start or Transformer(transformer_config(options.preset, **changes))
    if place.first:
        write_config(folder, model.config)

    batches = Batches(examples, words, options, model.config)
    hidden, rest = matrices_and_rest(model, TABLES)
    fused = options.fused if options.fused is not None else place.device.type == "cuda"
    if fused and (fault := why_not_compiled(place.device)):
        if options.fused:
            raise DataError(f"fused: PyTorch cannot compile here ({fault}); --eager does without")
        log.warning("steps are not compiled, which makes them longer: %s", fault)
        fused = False

    def sample(average: nn.Module, path: Path) -> None:
        assert isinstance(average, Transformer)
        if options.prompts:
            sample_sheet(_whole(options, vae, words, average), options.prompts).save(path)

    run = Run(
        model=model,
        optimizers=muon_and_adamw(hidden, rest, options.muon_lr, options.adam_lr, options.weight_decay, place.autocast),
        options=options.loop,
        place=place,
        batch_at=batches,
        losses=partial(losses, fused=fused),
        tokens_a_sample=model.config.image_tokens,
        evaluate=lambda average: held_out(average, batches) if isinstance(average, Transformer) else {},
        sample=sample,
        position=examples.position,
    )
    if fused:
        model.through = torch.compile(through, dynamic=True)  # the average has its own, which is not compiled
    run_loop(run, "transformer")
    average = run.average
    assert isinstance(average, Transformer)
    return average, words


def load(folder: Path) -> Transformer:
    """The averaged transformer of the run in `folder`. Raises DataError."""
    config, weights, _ = read_average(folder)
    model = Transformer(TransformerConfig(**config))
    model.load_state_dict(weights)
    return model.eval()
