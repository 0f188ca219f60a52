"""The recipe's command line, a corpus of plain figures by three vendors, and painters without a model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from model.checkpoints import load
from model.drawings import captions, compose
from model.drawings.colours import COLOURS
from model.drawings.concepts import Name, article
from model.drawings.drawing import WHITE, encode, paint
from model.recipes.default.commands import cli
from model.training.shards import ShardWriter
from tests.recipes.figures import (
    ALONE,
    BACKGROUNDS,
    DYED,
    FIGURES,
    LEFT,
    LOWER,
    RIGHT,
    UPPER,
    VENDORS,
    Draughtsman,
    Drawing,
    figure,
    name_of,
)
from tests.running import Run, runner


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `python -m model.recipes.default` with these arguments in an empty folder."""
    return runner("recipe", cli.main, capsys, monkeypatch, tmp_path)


@pytest.fixture
def draughtsman(tiny_checkpoint: Path) -> Callable[[Drawing], Draughtsman]:
    def make(drawing: Drawing) -> Draughtsman:
        painter = Draughtsman(load(tiny_checkpoint))
        painter.drawing, painter.asked = drawing, []
        return painter

    return make


@pytest.fixture(scope="session")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of every figure by every vendor, on two backgrounds, counted, and paired with some others."""
    folder = tmp_path_factory.mktemp("figures")
    with ShardWriter(folder, "train") as shard:

        def add(key: str, kind: str, concept: str, texts: captions.Captions, vendor: str, picture: Image.Image) -> None:
            split = "val" if "star-two" in key or key.endswith(DYED[2:]) else "train"
            meta = {"captions": texts, "concept": concept, "source": vendor, "kind": kind, "split": split}
            shard.add(key, encode(picture), meta)

        for vendor, (colour, tilt) in VENDORS.items():
            inks = {name: figure(name, colour, tilt) for name in FIGURES}
            for name in FIGURES:
                alone = [(1.0, name_of(name).full)]
                add(f"{name}-{vendor}", "single", name, alone, vendor, paint(WHITE, [(inks[name], ALONE)]))
            for name, background in zip(FIGURES, BACKGROUNDS * 2, strict=True):
                picture = paint(COLOURS[background], [(inks[name], ALONE)])
                texts = captions.of_background(name_of(name), background)
                add(f"background-{name}-{vendor}", "background", name, texts, vendor, picture)
            for at, name in enumerate(FIGURES):
                boxes = compose.ARRANGEMENTS[2 + at % 4]
                texts = captions.of_count(name_of(name), len(boxes))
                add(
                    f"count-{name}-{vendor}",
                    "count",
                    name,
                    texts,
                    vendor,
                    paint(WHITE, [(inks[name], b) for b in boxes]),
                )
        for name in FIGURES:
            for colour in DYED:
                texts = captions.of_dyed(Name(f"{colour} {name}", article(colour)))
                picture = paint(WHITE, [(figure(name, colour, 3), ALONE)])
                add(f"{name}-in-{colour}", "dyed", name, texts, "one", picture)
        inks = {name: figure(name, "red", 0) for name in FIGURES}
        for at, (a, b) in enumerate(list(combinations(FIGURES, 2))[::2]):
            above = at % 2 == 1
            texts = captions.of_pair(name_of(a), name_of(b), above)
            first, second = (UPPER, LOWER) if above else (LEFT, RIGHT)
            picture = paint(WHITE, [(inks[a], first), (inks[b], second)])
            add(f"pair-{a}-{b}", "pair", f"{a}+{b}", texts, "one", picture)
    return folder
