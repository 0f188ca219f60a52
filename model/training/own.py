"""Data augmentation for fine-tuning: shows the things of a user's pictures on colours, several times, and in pairs.

Twenty pictures of a zorb teach a model a zorb. They do not teach it two zorbs, a zorb on blue, or a zorb beside a cat,
because a model of this size learns compositions only by seeing them. If a picture shows one thing on a plain background
and its caption names the thing, the thing is cut out. It is then used in compositions like those of the default corpus.
The other thing of a pair is also cut out of the user's pictures, or painted by the model that is fine-tuned.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from model.drawings.compose import ALONE, Drawing, Picture, count, on_backgrounds, painted, pair
from model.drawings.concepts import Concept, Name, slugify
from model.drawings.cutout import background_of, cut_out
from model.drawings.drawing import WHITE, Colour, RenderError, encode, paint, visible_share
from model.drawings.naming import thing_in
from model.errors import DataError
from model.training.data import Pixels, Sample, iterate
from model.training.filters import Filter
from model.training.prepare import held_out, state_of
from model.training.report import Report
from model.training.rules import RULES, Rules
from model.training.shards import ShardWriter
from model.training.sources import index

log = logging.getLogger(__name__)

_TRIES = 4  # how many colours are tried for one background; the thing must stand out from it
_MOST = 2000  # pictures, because all are held in memory; a larger folder shows things in enough ways by itself
_VISIBLE = 0.5  # share of a thing that must stand out from white in counts and pairs


@dataclass
class Composed:
    """What `compose` made. kinds: pictures of each kind. unchanged: why pictures were not cut out -> how many."""

    kinds: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    things: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)


class _Things:
    """The things that were cut out, by key."""

    def __init__(self) -> None:
        self.inks: dict[str, Image.Image] = {}
        self.backgrounds: dict[str, Colour] = {}  # the backgrounds from which they were cut out

    def add(self, key: str, name: Name, picture: Pixels) -> Drawing:
        """Cut out the thing on a picture. Raises RenderError if nothing can be cut out."""
        self.inks[key], self.backgrounds[key] = cut_out(picture), background_of(picture)
        concept = Concept(slugify(name.text) or key, (name,), (), "object", mirror=False)
        return Drawing(key, "own", "", "", "", "", "flat", concept, "")

    def alone(self, key: str) -> Image.Image:
        """One thing on its own background, in the box that the default corpus uses for a thing alone."""
        return paint(self.backgrounds[key], [(self.inks[key], ALONE)])


def _backgrounds(random: Random, drawing: Drawing, number: int, things: _Things) -> Iterator[tuple[Picture, bytes]]:
    made = ((picture, painted(picture, things.inks)) for picture in on_backgrounds(random, drawing, _TRIES * number))
    yield from islice((both for both in made if both[1]), number)


def _made(
    random: Random, own: Sequence[Drawing], others: Sequence[Drawing], each: tuple[int, int, int], things: _Things
) -> Iterator[tuple[Picture, bytes]]:
    """Every composition, with its WebP. each: how many backgrounds, numbers and pairs are made of one drawing."""
    backgrounds, numbers, pairs = each
    on_white = [drawing for drawing in (*own, *others) if visible_share(things.inks[drawing.key], WHITE) >= _VISIBLE]
    for drawing in own:
        yield from _backgrounds(random, drawing, backgrounds, things)
        if drawing not in on_white:
            continue
        for number in random.sample((2, 3, 4, 5), numbers if drawing.concept.countable else 0):
            picture = count(random, drawing, f"{drawing.key}-times-{number}", number)
            yield picture, painted(picture, things.inks)
        beside = [other for other in on_white if other.concept.slug != drawing.concept.slug]
        for turn, other in enumerate(random.sample(beside, min(pairs, len(beside)))):
            two = (drawing, other) if random.random() < 0.5 else (other, drawing)
            picture = pair(random, *two, f"{drawing.key}-beside-{turn}")
            yield picture, painted(picture, things.inks)


def check(data: Sequence[Path]) -> None:
    """Raises DataError if `data` holds no picture, or more pictures than `compose` can take."""
    if (number := len(index(data))) > _MOST:
        raise DataError(
            f"{', '.join(map(str, data))}: must be at most {_MOST} pictures to compose others of, got {number}"
        )


def compose(
    data: Sequence[Path],
    out: Path,
    *,
    backgrounds: int = 2,
    numbers: int = 1,
    pairs: int = 1,
    beside: Sequence[tuple[str, Pixels]] = (),
    rules: Rules = RULES,
    seed: int = 0,
) -> Composed:
    """Write the pictures of `data`, and compositions of the things on them, to `out` as tar shards.

    A thing that can be cut out is painted again on its background, with the size and position of a thing alone in the
    default corpus. Any other picture is kept as it is.

    backgrounds: how many pictures show each thing on one of the named colours. numbers: how many show it two to five
    times, at most 4. pairs: how many show it beside another thing. beside: captions and pictures (256, 256, 3) RGB that
    a model painted; their things also serve as the other thing. rules: a picture that breaks one is left out.

    Nothing is made of held-out pictures. These are the ones whose "split" says so. If no picture has a "split", they
    are the last ones (`held_out`). Raises DataError if no picture with a caption is left, or if `out` holds shards.
    """
    if out.exists() and any(out.glob("*.tar")):
        raise DataError(f"{out}: must be an empty folder, but it holds shards")
    check(data)
    report, found, judge = Report(), Composed(), Filter(rules=rules)
    samples = list(iterate(data, refine=judge, report=report))
    if not samples:
        raise DataError(f"{', '.join(map(str, data))}: no picture is fit to train on: {report}; {judge.report()}")
    things, random = _Things(), Random(f"{seed} own")
    own = [_drawing(f"own-{at:06d}", sample, things, found.unchanged) for at, sample in enumerate(samples)]
    others = [_beside(f"beside-{at:03d}", *other, things) for at, other in enumerate(beside)]
    found.things = sorted({drawing.concept.names[0].full for drawing in own if drawing})
    learnt: dict[str, dict[str, Any]] = {}  # by the key of a drawing: the metadata of its picture
    seen: set[bytes] = set()
    with ShardWriter(out, "train") as train, ShardWriter(out, "val") as val:
        for at, (drawing, sample, split) in enumerate(zip(own, samples, _splits(samples), strict=True)):
            webp = encode(things.alone(drawing.key) if drawing else Image.fromarray(sample.image))
            if (
                drawing and webp in seen
            ):  # in the middle it equals another one, but its caption may say where the thing stood
                found.unchanged["the same thing as another's"] += 1
                drawing, webp = None, encode(Image.fromarray(sample.image))
            seen.add(webp)
            if drawing and split == "train":
                learnt[drawing.key] = sample.meta
            meta = {"kind": "single", **sample.meta, "captions": sample.captions, "split": split}
            (train if split == "train" else val).add(f"own-{at:06d}", webp, meta)
            found.kinds["single"] += 1
        kept = [drawing for drawing in own if drawing and drawing.key in learnt]
        for made, webp in _made(
            random, kept, [other for other in others if other], (backgrounds, numbers, pairs), things
        ):
            known = learnt.get(made.drawing.key, {})
            meta = {name: known[name] for name in ("concept", "source") if name in known}
            meta |= {"captions": made.captions, "kind": made.kind, "split": "train"}
            train.add(made.key, webp, meta)
            found.kinds[made.kind] += 1
    found.shards = [*train.shards, *val.shards]
    return found


def _splits(samples: Sequence[Sample]) -> list[str]:
    """The split of each sample, "train" or "val". If no sample names one, the last ones (`held_out`) are "val"."""
    if any("split" in sample.meta for sample in samples):
        return [str(sample.meta.get("split", "train")) for sample in samples]
    held = held_out(len(samples))
    return ["train"] * (len(samples) - held) + ["val"] * held


def _drawing(key: str, sample: Sample, things: _Things, unchanged: Counter[str]) -> Drawing | None:
    """The thing on a picture. None if it cannot be cut out; the reason is then counted in `unchanged`."""
    name = thing_in(max(sample.captions, key=lambda caption: caption[0])[1])
    if name is None:
        unchanged["the caption names no single thing"] += 1
        return None
    try:
        return things.add(key, name, sample.image)
    except RenderError as fault:
        unchanged[str(fault)] += 1
        return None


def _beside(key: str, caption: str, picture: Pixels, things: _Things) -> Drawing | None:
    """The thing on a picture that a model painted. None if the caption names no thing, or if it cannot be cut out."""
    name = thing_in(caption)
    if name is None or name.article not in ("a", "an") or name.full != caption:
        return None
    try:
        return things.add(key, name, picture)
    except RenderError:  # a drawing that went wrong teaches nothing
        return None


def compose_once(
    data: Sequence[Path], out: Path, beside: Callable[[], Sequence[tuple[str, Pixels]]], rules: Rules, seed: int
) -> Path:
    """Call `compose` for the folder `out`, unless an earlier call has filled it.

    beside: called only if `compose` is. Raises what `compose` raises, and DataError if the earlier call had other
    pictures or rules.
    """
    made_of = f"{state_of(data)} {rules} {seed}\n"
    note = out / "made-of.txt"
    if note.exists():
        if note.read_text() != made_of and all(path.exists() for path in data):
            raise DataError(f"{out}: the pictures and rules must be those that the run began with, got others")
        return out
    partial = out.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    made = compose(data, partial, beside=beside(), rules=rules, seed=seed)
    kinds = ", ".join(f"{kind} {number}" for kind, number in made.kinds.items())
    log.info("composed %s; things: %s", kinds, ", ".join(made.things) or "none")
    if made.unchanged:
        log.info("used as they are: %s", ", ".join(f"{number} ({why})" for why, number in made.unchanged.items()))
    (partial / note.name).write_text(made_of)
    partial.replace(out)
    return out
