"""Train the reranker: a small CLIP on the captions and image tokens that the transformer learns from.

Symmetric contrast in a batch (InfoNCE: 2103.00020, figure 3), with changes: pairs that may both be true are left
out of it, and false ones are added: each picture has to reject its own caption with one word made false (`contrast`),
and each caption its own picture with parts missing or of another one (`tearing`). The contrast is within what is
computed at once, so more accumulation or more processes mean fewer texts to tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip import Clip
from model.config import ClipConfig, clip_config
from model.tokenizer import Tokenizer
from model.training.ahead import moved
from model.training.contrast import falsify, may_fit, told, words
from model.training.data import sample_caption
from model.training.examples import Example, Examples, Ids, find_examples, padded
from model.training.filters import RULES, Rules
from model.training.loop import LoopOptions, Losses, Run, find_place, read_average, write_config
from model.training.loop import train as run_loop
from model.training.optimizers import matrices_and_rest, muon_and_adamw
from model.training.selection import Selection
from model.training.tearing import tear
from model.vae import VAE

TABLES = ("text.table", "text.places", "image.places")
MEASURED = 512  # held-out pictures that a run looks at


@dataclass(frozen=True)
class ClipOptions:
    """`dalle-server train clip`."""

    data: tuple[Path, ...]  # folders or tar shards
    loop: LoopOptions
    preset: str = "default"
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.05
    mirror: float = 0.5  # chance that a picture that may be mirrored is
    shift: int = 2  # image tokens by which a picture is moved at most, to each side; its edge is repeated
    false_captions: float = 1.0  # chance that a caption which can be made false has a false one beside it
    torn: float = 1.0  # chance that a picture has a torn copy beside it
    selection: Selection = field(default_factory=Selection)
    cache: Path = Path("data/prepared")
    rules: Rules = RULES  # what is fit to train on
    stream: bool = False  # read tars one after another, instead of preparing all pictures on disk


@dataclass(frozen=True)
class Batch:
    """b pictures, their b captions, f false captions of some of them, and t torn copies."""

    image: Tensor  # (b + t, grid * grid) int64
    text: Tensor  # (b + f, t) int64, padded on the right
    lengths: Tensor  # (b + f,)
    left_out: Tensor  # (b, b + f) bool: pairs that may be true although they are not on the diagonal


@dataclass(frozen=True)
class _Sample:
    """An example of a batch, as it is shown."""

    example: Example
    image: Ids
    caption: str
    false: str | None = None
    torn: Ids | None = None


class Batches:
    """batch_at(step, first, end) over tokens; every choice is a function of (seed, step, sample)."""

    def __init__(self, examples: Examples, tokenizer: Tokenizer, options: ClipOptions, grid: int) -> None:
        self.examples, self.tokenizer, self.options = examples, tokenizer, options
        self.grid = grid

    def __call__(self, step: int, first: int, end: int) -> Batch:
        return self._collate([self._sample(step, place) for place in range(first, end)])

    def of(self, examples: Sequence[Example]) -> Batch:
        """Pictures as they are, each with the first of its captions."""
        return self._collate([_Sample(example, example.image, example.captions[0][1]) for example in examples])

    def _sample(self, step: int, place: int) -> _Sample:
        options = self.options
        random = np.random.default_rng((options.loop.seed, step, place))
        example = self.examples.draw(step, place, random, options.mirror)
        caption = sample_caption(example.captions, random)
        false = falsify(caption, random) if random.random() < options.false_captions else None
        if false is not None and any(false == text for _, text in example.captions):
            false = None
        image = self._moved(example.image, random)
        return _Sample(example, image, caption, false, self._torn(image, step, place, random))

    def _torn(self, image: Ids, step: int, place: int, random: np.random.Generator) -> Ids | None:
        options = self.options
        if not random.random() < options.torn:
            return None
        other = self.examples.draw(step, (place + 1) % options.loop.batch, random, options.mirror)
        return tear(image, self._moved(other.image, random), self.grid, random)

    def _moved(self, image: Ids, random: np.random.Generator) -> Ids:
        far, grid = self.options.shift, self.grid
        wide = np.pad(image.reshape(grid, grid), far, mode="edge")
        y, x = random.integers(0, 2 * far + 1, 2)
        return np.ascontiguousarray(wide[y : y + grid, x : x + grid]).reshape(-1)

    def _collate(self, samples: list[_Sample]) -> Batch:
        texts = [(i, sample.caption) for i, sample in enumerate(samples)]
        texts += [(i, sample.false) for i, sample in enumerate(samples) if sample.false is not None]
        ids = [self.tokenizer.encode(text, truncate=True) for _, text in texts]
        arrays = (
            np.stack([sample.image for sample in samples] + [s.torn for s in samples if s.torn is not None]),
            padded(ids),
            np.array([len(found) for found in ids]),
            _left_out([sample.example for sample in samples], texts),
        )
        return Batch(*map(torch.from_numpy, arrays))


def _left_out(examples: list[Example], texts: list[tuple[int, str]]) -> npt.NDArray[np.bool_]:
    """Which texts, each given with its picture's place, may be true of which other pictures: (b, b + f)."""
    concepts = [example.concept for example in examples]
    meant = [*concepts, *[None] * (len(texts) - len(examples))]  # a false caption is false of its concept too
    said = [words(text) for _, text in texts]
    left_out = np.zeros((len(examples), len(texts)), dtype=np.bool_)
    for i, example in enumerate(examples):
        here = told(example.captions)
        for j, (own, _) in enumerate(texts):
            left_out[i, j] = own != i and may_fit(said[j], meant[j], here, concepts[i])
    return left_out


def losses(model: nn.Module, batch: Batch) -> Losses:
    """The mean of both directions' cross-entropy, in nats; and how often a picture's likeliest text is its own."""
    assert isinstance(model, Clip)
    text = model.encode_text(batch.text, batch.lengths)
    every = model.scale * model.encode_image(batch.image) @ text.mT  # (b + t, b + f)
    b = len(batch.left_out)
    logits = every[:b].masked_fill(batch.left_out, float("-inf"))
    own = torch.arange(b, device=logits.device)
    to_text = F.cross_entropy(logits, own)
    to_image = F.cross_entropy(torch.cat([logits, every[b:]])[:, :b].mT, own)  # a torn picture is nobody's
    return {
        "loss": (to_text + to_image) / 2,
        "to_text": to_text,
        "to_image": to_image,
        "accuracy": (logits.argmax(1) == own).float().mean(),
    }


@torch.no_grad()
def retrieval(model: Clip, batches: Batches, examples: Sequence[Example], batch: int = 64) -> dict[str, float]:
    """Of these pictures and the first caption of each: how often the nearest one of the other kind is right.

    Pictures that the same caption may be true of count as right. val_chance: what guessing reaches. val_false: how
    often a picture is nearer to its caption than to the caption with a word made false (chance 0.5), and val_torn the
    same of a caption and a picture's torn copy. {} without any.
    """
    if not examples:
        return {}
    device = next(model.parameters()).device
    parts = [moved(batches.of(examples[first : first + batch]), device) for first in range(0, len(examples), batch)]
    image = torch.cat([model.encode_image(part.image) for part in parts])
    text = torch.cat([model.encode_text(part.text, part.lengths) for part in parts])
    fits = batches.of(examples).left_out.to(device) | torch.eye(len(examples), dtype=torch.bool, device=device)
    cosines = image @ text.mT  # (pictures, texts)
    to_text = fits.gather(1, cosines.argmax(1, keepdim=True)).float().mean()
    nearest = cosines.mT.topk(min(5, len(examples)), dim=1).indices  # (texts, 5): pictures
    to_image = fits.mT.gather(1, nearest).float()
    figures = {
        "val_text_to_image": float(to_image[:, 0].mean()),
        "val_text_to_image_5": float(to_image.amax(1).mean()),
        "val_image_to_text": float(to_text),
        "val_chance": float(fits.float().mean()),
    }
    random = np.random.default_rng(0)
    captions = [falsify(example.captions[0][1], random) for example in examples]
    false = [(i, batches.tokenizer.encode(caption, truncate=True)) for i, caption in enumerate(captions) if caption]
    nearer = [
        bool(cosines[i, i] > image[i] @ model.encode_text(torch.tensor([ids], device=image.device))[0])
        for i, ids in false
    ]
    if nearer:
        figures["val_false"] = sum(nearer) / len(nearer)
    copies = [
        (i, tear(example.image, examples[i - 1].image, batches.grid, random)) for i, example in enumerate(examples)
    ]
    torn = [(i, torch.from_numpy(copy)[None].to(image.device)) for i, copy in copies if copy is not None]
    if torn:
        told_apart = [bool(cosines[i, i] > model.encode_image(copy)[0] @ text[i]) for i, copy in torn]
        figures["val_torn"] = sum(told_apart) / len(told_apart)
    return figures


def train(options: ClipOptions, vae: VAE, tokenizer: Tokenizer) -> Clip:
    """Train, or go on training, in `options.loop.out`; returns the averaged model.

    vae, tokenizer: those of the checkpoint that it is to serve. Raises DataError.
    """
    place = find_place(options.loop)
    examples = find_examples(options, vae, place)
    given = {"text_vocab": tokenizer.vocab_size, "grid": vae.config.grid, "levels": vae.config.levels}
    config = clip_config(options.preset, **given)
    torch.manual_seed(options.loop.seed)
    model = Clip(config)
    if place.first:
        write_config(options.loop.out, config)
        tokenizer.save(options.loop.out / "tokenizer.json")
    batches = Batches(examples, tokenizer, options, config.grid)
    measured = list(examples.held_out(MEASURED))
    run = Run(
        model=model,
        optimizers=muon_and_adamw(
            *matrices_and_rest(model, TABLES), options.muon_lr, options.adam_lr, options.weight_decay, place.autocast
        ),
        options=options.loop,
        place=place,
        batch_at=batches,
        losses=losses,
        evaluate=lambda average: retrieval(average, batches, measured) if isinstance(average, Clip) else {},
        position=examples.position,
    )
    run_loop(run, "CLIP")
    average = run.average
    assert isinstance(average, Clip)
    return average


def load(folder: Path) -> Clip:
    """The averaged model of the run in `folder`. Raises DataError."""
    config, weights, _ = read_average(folder)
    model = Clip(ClipConfig(**config))
    model.load_state_dict(weights)
    return model.eval()
