"""Train the reranker: a small CLIP on the captions and image tokens that the transformer learns from.

Symmetric contrast in a batch (InfoNCE: 2103.00020, figure 3), with two changes: pairs that may both be true are left
out of it, and each picture also has to reject its own caption with one word made false (`contrast`). The contrast is
within what is computed at once, so more accumulation or more processes mean fewer texts to tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip import Clip
from model.config import ClipConfig, clip_config
from model.tokenizer import Tokenizer
from model.training.contrast import concept_of, falsify, may_fit, told, words
from model.training.data import sample_caption
from model.training.filters import RULES, Rules
from model.training.loop import LoopOptions, Losses, Run, find_place, first_goes_first, read_average, write_config
from model.training.loop import train as run_loop
from model.training.optimizers import muon_and_adamw
from model.training.prepare import Prepared, prepare, tokenize
from model.training.selection import Selection, choose
from model.vae import VAE

Ids = npt.NDArray[np.int64]


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
    selection: Selection = field(default_factory=Selection)
    cache: Path = Path("data/prepared")
    rules: Rules = RULES  # what is fit to train on


@dataclass(frozen=True)
class Batch:
    """b pictures, their b captions, and f false captions of some of them."""

    image: Tensor  # (b, grid * grid) int64
    text: Tensor  # (b + f, t) int64, padded on the right
    lengths: Tensor  # (b + f,)
    left_out: Tensor  # (b, b + f) bool: pairs that may be true although they are not on the diagonal


@dataclass(frozen=True)
class _Sample:
    row: int
    image: Ids
    caption: str
    false: str | None


class Batches:
    """batch_at(step, first, end) over prepared tokens; every choice is a function of (seed, step, sample)."""

    def __init__(
        self,
        prepared: Prepared,
        tokens: tuple[Any, Any],
        tokenizer: Tokenizer,
        options: ClipOptions,
        grid: int,
        device: torch.device,
    ) -> None:
        self.prepared, self.tokens, self.tokenizer, self.options = prepared, tokens, tokenizer, options
        self.grid, self.device = grid, device
        self.rows, shares = choose(prepared, options.selection)
        self.edges = np.cumsum(shares)
        self.told = [told(line["captions"]) for line in prepared.lines]

    def __call__(self, step: int, first: int, end: int) -> Batch:
        seed = self.options.loop.seed
        return self._collate([self._sample(np.random.default_rng((seed, step, n))) for n in range(first, end)])

    def of(self, rows: Sequence[int]) -> Batch:
        """Pictures as they are, each with the first of its captions."""
        images = (np.asarray(self.tokens[0][row], dtype=np.int64) for row in rows)
        captions = (self.prepared.lines[row]["captions"][0][1] for row in rows)
        samples = zip(rows, images, captions, strict=True)
        return self._collate([_Sample(row, image, caption, None) for row, image, caption in samples])

    def _sample(self, random: np.random.Generator) -> _Sample:
        options = self.options
        row = int(self.rows[min(int(np.searchsorted(self.edges, random.random())), len(self.rows) - 1)])
        line = self.prepared.lines[row]
        mirrored = bool(line.get("mirror", False)) and random.random() < options.mirror
        caption = sample_caption(line["captions"], random)
        false = falsify(caption, random) if random.random() < options.false_captions else None
        if false is not None and any(false == text for _, text in line["captions"]):
            false = None
        image = np.asarray(self.tokens[int(mirrored)][row], dtype=np.int64)
        return _Sample(row, self._moved(image, random), caption, false)

    def _moved(self, image: Ids, random: np.random.Generator) -> Ids:
        far, grid = self.options.shift, self.grid
        wide = np.pad(image.reshape(grid, grid), far, mode="edge")
        y, x = random.integers(0, 2 * far + 1, 2)
        return np.ascontiguousarray(wide[y : y + grid, x : x + grid]).reshape(-1)

    def _collate(self, samples: list[_Sample]) -> Batch:
        texts = [(i, sample.caption) for i, sample in enumerate(samples)]
        texts += [(i, sample.false) for i, sample in enumerate(samples) if sample.false is not None]
        ids = [self.tokenizer.encode(text, truncate=True) for _, text in texts]
        padded = np.full((len(ids), max(map(len, ids))), self.tokenizer.pad, dtype=np.int64)
        for row, found in zip(padded, ids, strict=True):
            row[: len(found)] = found
        arrays = (
            np.stack([sample.image for sample in samples]),
            padded,
            np.array([len(found) for found in ids]),
            self._left_out(samples, texts),
        )
        return Batch(*(torch.from_numpy(array).to(self.device) for array in arrays))

    def _left_out(self, samples: list[_Sample], texts: list[tuple[int, str]]) -> npt.NDArray[np.bool_]:
        concepts = [concept_of(self.prepared.lines[sample.row]) for sample in samples]
        meant = [*concepts, *[None] * (len(texts) - len(samples))]  # a false caption is false of its concept too
        said = [words(text) for _, text in texts]
        left_out = np.zeros((len(samples), len(texts)), dtype=np.bool_)
        for i, sample in enumerate(samples):
            here = self.told[sample.row]
            for j, (own, _) in enumerate(texts):
                left_out[i, j] = own != i and may_fit(said[j], meant[j], here, concepts[i])
        return left_out


def losses(model: nn.Module, batch: Batch) -> Losses:
    """The mean of both directions' cross-entropy, in nats; and how often a picture's likeliest text is its own."""
    assert isinstance(model, Clip)
    text = model.encode_text(batch.text, batch.lengths)
    logits = model.scale * model.encode_image(batch.image) @ text.mT  # (b, b + f)
    logits = logits.masked_fill(batch.left_out, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    to_text = F.cross_entropy(logits, own)
    to_image = F.cross_entropy(logits[:, : len(logits)].mT, own)
    return {
        "loss": (to_text + to_image) / 2,
        "to_text": to_text,
        "to_image": to_image,
        "accuracy": (logits.argmax(1) == own).float().mean(),
    }


@torch.no_grad()
def retrieval(model: Clip, batches: Batches, rows: Sequence[int], batch: int = 64) -> dict[str, float]:
    """Of these pictures and the first caption of each: how often the nearest one of the other kind is right.

    Pictures that the same caption may be true of count as right. val_chance: what guessing reaches. val_false: how
    often a picture is nearer to its caption than to the caption with a word made false (chance 0.5). {} without rows.
    """
    if len(rows) == 0:
        return {}
    parts = [batches.of(rows[first : first + batch]) for first in range(0, len(rows), batch)]
    image = torch.cat([model.encode_image(part.image) for part in parts])
    text = torch.cat([model.encode_text(part.text, part.lengths) for part in parts])
    fits = batches.of(rows).left_out | torch.eye(len(rows), dtype=torch.bool, device=image.device)
    cosines = image @ text.mT  # (pictures, texts)
    to_text = fits.gather(1, cosines.argmax(1, keepdim=True)).float().mean()
    nearest = cosines.mT.topk(min(5, len(rows)), dim=1).indices  # (texts, 5): pictures
    to_image = fits.mT.gather(1, nearest).float()
    figures = {
        "val_text_to_image": float(to_image[:, 0].mean()),
        "val_text_to_image_5": float(to_image.amax(1).mean()),
        "val_image_to_text": float(to_text),
        "val_chance": float(fits.float().mean()),
    }
    random = np.random.default_rng(0)
    captions = [falsify(batches.prepared.lines[row]["captions"][0][1], random) for row in rows]
    false = [(i, batches.tokenizer.encode(caption, truncate=True)) for i, caption in enumerate(captions) if caption]
    nearer = [
        bool(cosines[i, i] > image[i] @ model.encode_text(torch.tensor([ids], device=image.device))[0])
        for i, ids in false
    ]
    return {**figures, "val_false": sum(nearer) / len(nearer)} if nearer else figures


def parameter_groups(model: Clip) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices, for Muon; and the rest: tables, places, kernels, gains and biases."""
    others = ("text.table", "text.places", "image.places")
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and not name.startswith(others)]
    chosen = {id(p) for p in hidden}
    return hidden, [p for p in model.parameters() if id(p) not in chosen]


def train(options: ClipOptions, vae: VAE, tokenizer: Tokenizer) -> Clip:
    """Train, or go on training, in `options.loop.out`; returns the averaged model.

    vae, tokenizer: those of the checkpoint that it is to serve. Raises DataError.
    """
    place = find_place(options.loop)
    with first_goes_first(place):
        prepared = prepare(options.data, options.cache, options.rules)
        tokens = tokenize(prepared, vae, place.device)
    given = {"text_vocab": tokenizer.vocab_size, "grid": vae.config.grid, "levels": vae.config.levels}
    config = clip_config(options.preset, **given)
    torch.manual_seed(options.loop.seed)
    model = Clip(config)
    if place.first:
        write_config(options.loop.out, config)
        tokenizer.save(options.loop.out / "tokenizer.json")
    batches = Batches(prepared, tokens, tokenizer, options, config.grid, place.device)
    measured = [int(row) for row in prepared.rows("val") if options.selection.takes(prepared.lines[row])][:512]
    run = Run(
        model=model,
        optimizers=muon_and_adamw(*parameter_groups(model), options.muon_lr, options.adam_lr, options.weight_decay),
        options=options.loop,
        place=place,
        batch_at=batches,
        losses=losses,
        evaluate=lambda average: retrieval(average, batches, measured) if isinstance(average, Clip) else {},
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
