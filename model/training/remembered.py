"""What a reviser that goes on learning shall not forget: prompts, and what it says to them before it learns.

The prompts are those that `revision` makes of all everyday things, so neither pictures nor a corpus are needed, and the
answers are its own: they teach what it knew and nothing else (learning without forgetting, 1606.09282).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from model.reviser import Reviser, plain
from model.tokenizer import Tokenizer
from model.training.corpus.captions import NUMBERS, Captions, of_background, of_count, of_pair, of_single
from model.training.corpus.concepts import everyday
from model.training.corpus.shapes import COLOURS
from model.training.revision import Line, Prompts

Pair = tuple[str, str]  # prompt, caption
KINDS = {"single": 0.5, "background": 0.2, "pair": 0.15, "count": 0.15}
MOST = 2000  # captions that are looked through for new words
COMMON = 0.01  # share of the prompts from which on a word is everybody's

log = logging.getLogger(__name__)


def everyday_lines(random: np.random.Generator) -> list[Line]:
    """Captions of every everyday thing: alone, on a ground, counted, and beside another thing."""
    colours = [colour for colour in COLOURS if colour != "white"]
    things = list(everyday().values())
    lines: list[Line] = []

    def add(kind: str, slug: str, captions: Captions) -> None:
        lines.append({"captions": captions, "concept": slug, "kind": kind})

    for thing in things:
        name, other = thing.names[0], things[int(random.integers(len(things)))].names[0]
        add("single", thing.slug, of_single(thing, "flat"))
        add("background", thing.slug, of_background(name, colours[int(random.integers(len(colours)))]))
        if thing.countable:
            add("count", thing.slug, of_count(name, int(random.integers(2, max(NUMBERS) + 1))))
            add("pair", thing.slug, of_pair(name, other, above=bool(random.random() < 0.3)))
    return lines


def everyday_prompts(number: int, seed: int) -> Iterator[str]:
    """What people may type who mean an everyday thing, `number` of them."""
    random = np.random.default_rng((seed, 0))
    lines = everyday_lines(random)
    among = Counter(line["kind"] for line in lines)
    prompts = Prompts(lines, [KINDS[line["kind"]] / among[line["kind"]] for line in lines])
    yield from (prompts.draw(random)[0] for _ in range(number))


def answer(reviser: Reviser, tokenizer: Tokenizer, prompt: str) -> str | None:
    """What it says, or None where it finds no end."""
    written = reviser.write(tokenizer.encode(plain(prompt), truncate=True), tokenizer.bos, tokenizer.eot)
    return tokenizer.decode(written).strip() if written else None


def remember(
    reviser: Reviser, tokenizer: Tokenizer, captions: Sequence[str], number: int = 3000, seed: int = 0
) -> list[Pair]:
    """Everyday prompts with its own answers, but for those in words that `captions` are about to teach it.

    captions: what it learns next. The words of these that its answers leave out are new; where such a word stands in
    many everyday prompts ("a photo of") it is everybody's, and not new.
    """
    say = partial(answer, reviser.eval(), tokenizer)
    prompts = list(everyday_prompts(number, seed))
    found = Counter(word for prompt in prompts for word in set(prompt.split()))
    texts = sorted(set(captions))[:: 1 + len(set(captions)) // MOST]
    lost = {word for text in texts for word in set(plain(text).split()) - set((say(text) or "").split())}
    new = {word for word in lost if found[word] <= COMMON * number}
    kept = [(prompt, said) for prompt in prompts if not new & set(prompt.split()) and (said := say(prompt))]
    log.info("%d of %d everyday prompts are remembered as they are answered now", len(kept), number)
    return kept


@dataclass(frozen=True)
class Remembering:
    """Draws pairs as `prompts` does, and a share of them from `remembered`."""

    prompts: Prompts
    remembered: Sequence[Pair]
    share: float

    def draw(self, random: np.random.Generator) -> Pair:
        """(prompt, caption)."""
        if self.remembered and random.random() < self.share:
            return self.remembered[int(random.integers(len(self.remembered)))]
        return self.prompts.draw(random)
