"""Train the reviser: from prompts as people type them to the captions of the pictures that a painter was taught.

Texts alone, so a step is cheap and the pictures need no tokens: 128 pairs take 0.5 s on one core with AMX. Every choice
is a function of (seed, step, sample), as in the other stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ReviserConfig, reviser_config
from model.reviser import Reviser
from model.tokenizer import Tokenizer
from model.training.ahead import moved
from model.training.examples import padded
from model.training.filters import RULES, Rules
from model.training.lanes import digest
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
from model.training.prepare import prepare
from model.training.remembered import Remembering, remember
from model.training.revision import Prompts
from model.training.selection import Selection, choose

TABLES = ("table", "parts")
TOGETHER = 16  # prompts of about one length that are read together: among 128 the longest has four times the mean
MEASURED = 512  # prompts that a run looks at


@dataclass(frozen=True)
class ReviserOptions:
    """`dalle-server train reviser`."""

    data: tuple[Path, ...]  # folders or tar shards, as the transformer learns from
    loop: LoopOptions
    preset: str = "default"
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.01
    selection: Selection = field(default_factory=Selection)
    cache: Path = Path("data/prepared")
    rules: Rules = RULES  # what is fit to train on
    remember: float = 0.6  # share of the samples that say what a start said, where there is one


@dataclass(frozen=True)
class Batch:
    """b pairs of texts."""

    prompt: Tensor  # (b, p) int64, padded on the right
    lengths: Tensor  # (b,)
    written: Tensor  # (b, w + 1) int64, padded on the right: <bos>, the caption, <eot>


class Batches:
    """batch_at(step, first, end)."""

    def __init__(self, prompts: Prompts | Remembering, tokenizer: Tokenizer, config: ReviserConfig, seed: int) -> None:
        self.prompts, self.tokenizer, self.config, self.seed = prompts, tokenizer, config, seed

    def __call__(self, step: int, first: int, end: int) -> Batch:
        return self.of([self.prompts.draw(self._random(step, place)) for place in range(first, end)])

    def held_out(self, number: int) -> list[tuple[str, str]]:
        """Pairs drawn by a generator that no step uses; shorter prompts among them are learnt from too."""
        return [self.prompts.draw(self._random(-1, place)) for place in range(number)]

    def _random(self, step: int, place: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, step + 1, place))

    def of(self, pairs: Sequence[tuple[str, str]]) -> Batch:
        """These pairs, by the lengths of their prompts; what is longer than the reviser reads is cut."""
        most, longest = self.config.prompt_positions, self.config.written_positions
        ids = [(self._ids(prompt, most), self._ids(caption, longest)) for prompt, caption in pairs]
        prompts, written = zip(*sorted(ids, key=lambda pair: len(pair[0])), strict=True)
        lengths = torch.tensor(list(map(len, prompts)))
        return Batch(torch.from_numpy(padded(prompts)), lengths, torch.from_numpy(padded(written)))

    def _ids(self, text: str, most: int) -> list[int]:
        ids = self.tokenizer.encode(text, truncate=True)
        return ids if len(ids) <= most else [*ids[: most - 1], self.tokenizer.eot]


def losses(model: nn.Module, batch: Batch) -> Losses:
    """Cross-entropy in nats a written token, and how many of these are the likeliest ones."""
    assert isinstance(model, Reviser)
    wanted = batch.written[:, 1:]
    told = wanted != Tokenizer.pad
    states = []
    for first in range(0, len(wanted), TOGETHER):
        part = slice(first, first + TOGETHER)
        longest = int(batch.lengths[part].max())
        states.append(model.states(batch.prompt[part, :longest], batch.lengths[part], batch.written[part, :-1]))
    logits = model.logits(torch.cat(states)[told])
    return {
        "loss": F.cross_entropy(logits, wanted[told]),
        "accuracy": (logits.argmax(-1) == wanted[told]).float().mean(),
    }


@torch.no_grad()
def written_right(
    model: Reviser, batches: Batches, pairs: Sequence[tuple[str, str]], batch: int = 128
) -> dict[str, float]:
    """val_exact: the share of prompts whose caption is written to the letter; with the captions as inputs, which at a
    caption that is written right is the same as without."""
    device, right = model.table.weight.device, 0
    for first in range(0, len(pairs), batch):
        part = cast(Batch, moved(batches.of(pairs[first : first + batch]), device))
        wanted = part.written[:, 1:]
        found = model.logits(model.states(part.prompt, part.lengths, part.written[:, :-1])).argmax(-1)
        right += int(((found == wanted) | (wanted == Tokenizer.pad)).all(1).sum())
    return {"val_exact": right / len(pairs)} if pairs else {}


def train(options: ReviserOptions, tokenizer: Tokenizer, start: Reviser | None = None) -> Reviser:
    """Train, or go on training, in `options.loop.out`; returns the averaged model.

    tokenizer: of the checkpoint that it is to serve. start: one that reads it, to begin from and not to forget.
    Raises DataError.
    """
    place = find_place(options.loop)
    with first_goes_first(place):
        prepared = prepare(options.data, options.cache, options.rules).with_alike()
    rows, shares = choose(prepared, options.selection)
    prompts = Prompts([prepared.lines[row] for row in rows], shares.tolist())
    position = {"pictures": digest([line["captions"][0][1] for line in prompts.lines], rows.tolist())}
    torch.manual_seed(options.loop.seed)
    model = start or Reviser(reviser_config(options.preset, text_vocab=tokenizer.vocab_size))
    if place.first:
        write_config(options.loop.out, model.config)
        write_tokenizer(options.loop.out, tokenizer)
    drawn: Prompts | Remembering = prompts
    if start and options.remember:
        pairs = remember(start, tokenizer, [text for line in prompts.lines for _, text in line["captions"]])
        drawn = Remembering(prompts, pairs, options.remember)
        position["remembered"] = digest([" -> ".join(pair) for pair in pairs], range(len(pairs)))
    batches = Batches(drawn, tokenizer, model.config, options.loop.seed)
    measured = batches.held_out(MEASURED)
    run = Run(
        model=model,
        optimizers=muon_and_adamw(
            *matrices_and_rest(model, TABLES), options.muon_lr, options.adam_lr, options.weight_decay, place.autocast
        ),
        options=options.loop,
        place=place,
        batch_at=batches,
        losses=losses,
        samples="prompts",
        evaluate=lambda average: written_right(cast(Reviser, average), batches, measured),
        position=lambda _: position,
    )
    run_loop(run, "reviser")
    return cast(Reviser, run.average)


def load(folder: Path) -> Reviser:
    """The averaged model of the run in `folder`. Raises DataError."""
    config, weights, _ = read_average(folder)
    model = Reviser(ReviserConfig(**config))
    model.load_state_dict(weights)
    return model.eval()
