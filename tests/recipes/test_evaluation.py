"""The whole evaluation on figures that are easy to tell apart. A painter that follows its prompts must score high.

The judge is the real one.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.drawings import captions, compose
from model.drawings.drawing import Box, encode
from model.errors import DataError
from model.inference.requests import SamplingParams
from model.painter import Painter, load
from model.recipes.default.evaluation import PARTS, Options, evaluate, markdown, sheet, table, to_json
from model.recipes.default.evaluation.drawings import Drawings
from model.recipes.default.evaluation.judge import Judge, Prototypes
from model.recipes.default.evaluation.report import KEYS
from model.recipes.default.evaluation.sweep import choose, plot, sweep
from model.recipes.default.evaluation.sweep import to_json as sweep_json
from model.training.selection import Selection
from model.training.shards import ShardWriter
from tests.recipes.figures import (
    ALONE,
    FIGURES,
    LEFT,
    RIGHT,
    VENDORS,
    Draughtsman,
    Drawing,
    draw,
    drawn,
    name_of,
)

OPTIONS = Options(concepts=6, compositions=6, pictures=40, codes=8, seeds=2, various=3)
Make = Callable[[Drawing], Draughtsman]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that the judge looks at each drawing once."""
    return tmp_path_factory.mktemp("evaluation")


def remember(out: Path, other: Path) -> None:
    """Give the judge the features that earlier tests have computed, which saves seconds."""
    if (out / "features.npz").exists():
        shutil.copy(out / "features.npz", other)


def right(prompt: str, _: SamplingParams, index: int) -> tuple[Image.Image, float]:
    return draw(prompt), float(-index)


def measure(painter: Painter, figures: Path, out: Path, **arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(to_json(evaluate(painter, [figures], out, OPTIONS, **arguments)))
    return found


def test_a_painter_that_follows_its_prompts_scores_high(
    draughtsman: Make, figures: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    painter = draughtsman(right)
    report = evaluate(painter, [figures], out, OPTIONS, parts=[name for name in PARTS if name not in ("vae", "loss")])
    found = json.loads(to_json(report))
    assert found["concept_top1"] >= 5 / 6
    assert found["concept_top5"] == found["real_top5"] == 1.0
    assert found["real_top1"] >= 5 / 6
    assert found["background"] == found["background_both"] == found["counts"] == found["both_objects"] == 1.0
    assert found["real_background"] == found["real_counts"] == found["real_both_objects"] == 1.0
    assert found["left_right"] == found["above_below"] == found["real_left_right"] == 1.0
    assert found["seen_pairs"] == found["unseen_pairs"] == 1.0
    assert found["n"]["seen_pairs"] == found["n"]["unseen_pairs"] == 9
    assert found["coloured"] == found["real_coloured"] == 1.0
    assert found["coloured_both"] >= 5 / 6
    assert found["n"]["seen_colours"] == found["n"]["unseen_colours"] == 3
    assert found["shuffled_top1"] <= 2 / 6
    assert max(found["shuffled_background"], found["shuffled_counts"], found["shuffled_both_objects"]) <= 0.5
    assert found["shuffled_coloured"] <= 0.5
    assert found["best_of_4_top1"] is None
    assert "best_of_2_top1" in found["reasons"]["best_of_4_top1"]
    assert found["diversity"] == pytest.approx(0, abs=1e-3)  # it draws the same every time
    assert 0 < found["nearest_train"] < found["real_diversity"]
    low, high = found["intervals"]["background"]
    assert (low, high) == (pytest.approx(0.6097, abs=1e-4), 1.0)
    assert (found["things_asked"], found["things_told_apart"]) == (6, 6)
    rows = table(report.findings)
    assert len({len(row) for row in rows}) == 1
    assert "| background | 6 | 100.0 % [61.0, 100.0] |" in markdown(report.findings)
    whole = sheet(report.findings.sections)
    assert whole.width > 800
    seconds = OPTIONS.concepts + OPTIONS.compositions  # of best_of: things, and things on colours
    assert len(painter.asked) == len(set(painter.asked)) + seconds
    asked = len(painter.asked)
    again = evaluate(painter, [figures], out, OPTIONS, parts=["concepts", "best_of", "counts"])
    assert len(painter.asked) == asked  # all of them were kept
    assert again.findings.figures["counts"] == report.findings.figures["counts"]
    assert capsys.readouterr().out == ""


def test_a_painter_that_ignores_its_prompts_scores_by_chance(
    draughtsman: Make, figures: Path, tmp_path: Path, out: Path
) -> None:
    remember(out, tmp_path)
    deaf = draughtsman(lambda _prompt, _params, _index: (draw("a star"), 0.0))
    found = measure(deaf, figures, tmp_path, parts=["concepts", "background", "counts", "pairs", "colours"])
    assert found["concept_top1"] == pytest.approx(1 / 6, abs=1e-4)
    assert found["coloured"] == 0.0
    assert found["background"] == 0.0
    assert found["counts"] == pytest.approx(2 / 6, abs=1e-4)  # those of one
    assert found["both_objects"] == 0.0
    assert found["left_right"] is None
    assert "shows both" in found["reasons"]["left_right"]
    assert found["real_top1"] >= 5 / 6


def test_mirrored_order_is_seen(draughtsman: Make, figures: Path, tmp_path: Path, out: Path) -> None:
    remember(out, tmp_path)

    def wrong_way(prompt: str, _params: SamplingParams, _index: int) -> tuple[Image.Image, float]:
        return draw(prompt.replace("left", "?").replace("right", "left").replace("?", "right")), 0.0

    found = measure(draughtsman(wrong_way), figures, tmp_path, parts=["pairs"])
    assert (found["both_objects"], found["left_right"], found["above_below"]) == (1.0, 0.0, 1.0)


def test_the_best_score_wins(draughtsman: Make, figures: Path, tmp_path: Path, out: Path) -> None:
    remember(out, tmp_path)

    def second_best(prompt: str, _params: SamplingParams, index: int) -> tuple[Image.Image, float]:
        figure, on, background = prompt.removeprefix("a ").partition(" on ")
        other = FIGURES[(FIGURES.index(figure) + 1) % len(FIGURES)]
        return draw(f"a {figure if index == 1 else other}{on}{background}"), float(index)

    found = measure(draughtsman(second_best), figures, tmp_path, parts=["concepts", "best_of"])
    assert found["concept_top1"] <= 1 / 6
    assert found["best_of_2_top1"] >= 5 / 6
    assert found["best_of_lift"] == pytest.approx(found["best_of_2_top1"] - found["concept_top1"], abs=1e-4)
    assert found["any_of_top1"] == found["best_of_2_top1"]
    assert found["best_of_2_background_both"] == found["any_of_background"] >= 5 / 6
    assert found["background_lift"] >= 4 / 6


def test_prompts_of_a_users_file_are_judged(draughtsman: Make, figures: Path, tmp_path: Path, out: Path) -> None:
    remember(out, tmp_path)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a star\n\na heart\nhappiness\na ring\tring\n")
    painter = draughtsman(lambda prompt, *_: (draw(prompt) if prompt != "happiness" else drawn([]), 0.0))
    report = evaluate(painter, [figures], tmp_path, OPTIONS, parts=["concepts"], prompts=prompts)
    assert report.findings.figures["concept_top1"].n == 3
    (section,) = report.findings.sections
    assert [caption.split(":")[0] for caption in section.captions] == ["a star", "a heart", "happiness", "a ring"]
    prompts.write_text("a star\tstarfish\n")
    with pytest.raises(DataError, match="must be one of the 6 things of the judge, got 'starfish'"):
        evaluate(painter, [figures], tmp_path, OPTIONS, parts=["concepts"], prompts=prompts)


def test_both_stages_of_a_real_checkpoint(tiny_checkpoint: Path, figures: Path, out: Path) -> None:
    painter = load(tiny_checkpoint, "cpu")
    found = measure(painter, figures, out, parts=["vae", "loss"], held_out=Path("nowhere"))
    lines = list(Drawings([figures]).of(split="val"))
    pictures = np.stack([np.asarray(line.picture()) for line in lines])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    ids = painter.vae.encode(images)
    error = (painter.vae.decode(ids) - images).square().mean(dim=(1, 2, 3))
    assert found["vae_psnr"] == pytest.approx(float((-10 * error.log10()).mean()), abs=1e-3)
    assert 0 < found["vae_usage"] <= 1
    assert 1 <= found["vae_perplexity"] <= 8192 * found["vae_usage"]
    assert found["vae_psnr_openmoji"] is None
    assert (
        "nowhere: no such file or folder; `python -m model.recipes.default build eval"
        in found["reasons"]["vae_psnr_openmoji"]
    )
    bits = []
    for line, grid in zip(lines, ids.flatten(1), strict=True):
        text = painter.tokenizer.encode(line.caption)
        with torch.no_grad():
            logits = painter.transformer.logits(torch.tensor([text]), grid[None])[0, len(text) - 1 : -1]
        told = logits[:, painter.transformer.config.text_vocab :].log_softmax(-1)[torch.arange(len(grid)), grid]
        bits.append(-float(told.mean()) / math.log(2))
    assert found["n"]["image_bits"] == len(lines) == 15
    assert found["image_bits"] == pytest.approx(sum(bits) / len(bits), rel=1e-3)
    low, high = found["intervals"]["image_bits"]
    assert low < found["image_bits"] < high
    assert set(KEYS) <= set(found)
    assert {name for name in KEYS if found[name] is None} <= set(found["reasons"])


def test_the_file_of_concepts_says_what_training_saw(figures: Path) -> None:
    some = Drawings([figures], Selection({"star": 1.0, "heart": 1.0}))
    tested, others = some.choose(4, seed=0)
    assert {thing.name.text for thing in tested} == {"star", "heart"}
    assert len(others) == 2
    assert {line.concept for line in some.shown("background")} == {"star", "heart"}
    assert [line.concept for line in some.shown("pair")] == ["star+heart"]
    everything = Drawings([figures])
    assert len(everything.shown("pair")) == 8
    assert [thing.name.text for thing in everything.choose(6, seed=1)[0]] != [
        thing.name.text for thing in everything.choose(6, seed=2)[0]
    ]
    with pytest.raises(DataError, match="0 things in"):
        Drawings([figures], Selection({"cat": 1.0})).choose(4, seed=0)


def test_only_what_a_file_of_concepts_names_is_asked_for(draughtsman: Make, figures: Path, tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("star\nhe*\n")
    painter = draughtsman(right)
    found = measure(painter, figures, tmp_path, parts=["counts"], known=tmp_path / "known.txt")
    assert found["counts"] == 1.0
    assert {name for name in FIGURES if name in "; ".join(painter.asked)} == {"star", "heart"}
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        measure(painter, figures, tmp_path, parts=["counts"], known=tmp_path / "gone.txt")


def test_only_what_the_corpus_counts_and_pairs_is_asked_for_so(draughtsman: Make, tmp_path: Path) -> None:
    """A thing shown small, in a place, is neither counted nor put beside another by that."""
    with ShardWriter(tmp_path / "data", "train") as shard:

        def add(kind: str, concept: str, texts: captions.Captions, vendor: str, *placed: tuple[str, Box]) -> None:
            meta = {"captions": texts, "concept": concept, "source": vendor, "kind": kind, "split": "train"}
            shard.add(f"{kind}-{concept}-{vendor}", encode(drawn(placed, colour=VENDORS[vendor][0])), meta)

        for vendor in VENDORS:
            for name in FIGURES:
                add("single", name, [(1.0, name_of(name).full)], vendor, (name, ALONE))
        for name in ("star", "heart"):
            boxes = compose.ARRANGEMENTS[3]
            add("count", name, captions.of_count(name_of(name), 3), "one", *((name, box) for box in boxes))
        for a, b in (("star", "heart"), ("heart", "cross")):
            texts = captions.of_pair(name_of(a), name_of(b), above=False)
            add("pair", f"{a}+{b}", texts, "one", (a, LEFT), (b, RIGHT))
        add("place", "ring", captions.of_place(name_of("ring"), "small", ""), "one", ("ring", (0.3, 0.3, 0.7, 0.7)))
    painter = draughtsman(right)
    found = measure(painter, tmp_path / "data", tmp_path / "out", parts=["counts", "pairs"])
    assert found["counts"] == found["seen_pairs"] == found["unseen_pairs"] == 1.0
    asked = "; ".join(painter.asked)
    assert all(name in asked for name in ("star", "heart", "cross"))
    assert not any(name in asked for name in ("ring", "triangle", "square", "two crosses", "three crosses"))


def test_a_copy_is_not_judged_by_its_original() -> None:
    """Two things, three families; one family draws the second thing just as another draws the first."""
    apple, pear, noise = np.eye(3, 8)[0], np.eye(3, 8)[1], np.eye(3, 8)[2]
    features = np.array([apple, apple, apple + pear + noise, pear, pear, pear], dtype=np.float32)
    things, families = [0, 0, 0, 1, 1, 1], ["a", "b", "c", "a", "b", "c"]
    prototypes = Prototypes(features, things, families)
    assert prototypes.ranks(features[:2], [0, 0]).tolist() == [1, 1]
    assert prototypes.ranks(features[:2], [1, 1]).tolist() == [2, 2]
    only = Prototypes(np.concatenate((features, 9 * noise[None])).astype(np.float32), [*things, 2], [*families, "a"])
    assert only.similarities(9 * noise[None].astype(np.float32))[0, 2] == -1.0  # nobody else has drawn it


def test_without_its_packages_the_judge_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, draughtsman: Make, figures: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DataError, match=r"pip install -e '\.\[recipe\]'"):
        Judge(tmp_path / "features.npz")
    with pytest.raises(DataError, match=r"\.\[recipe\]"):
        evaluate(draughtsman(right), [figures], tmp_path, OPTIONS, parts=["concepts"])
    painter = draughtsman(right)
    found = measure(painter, figures, tmp_path, parts=["counts"])  # needs none
    assert found["counts"] == 1.0


def test_the_sweep_finds_what_paints_best(draughtsman: Make, figures: Path, tmp_path: Path, out: Path) -> None:
    remember(out, tmp_path)

    def tuned(prompt: str, params: SamplingParams, index: int) -> tuple[Image.Image, float]:
        """It follows the prompt only with guidance 3 or more. Its pictures vary more at a higher temperature."""
        figure = prompt.removeprefix("a ") if params.guidance >= 3 else "ring"
        hot = params.temperature > 0.7
        return drawn([(figure, (0.08, 0.08, 0.92, 0.92))], colour=("orange", "black")[index * hot]), 0.0

    grid = {"guidance": (1.0, 3.0), "temperature": (0.5, 0.9)}
    painter = draughtsman(tuned)
    found = sweep(painter, [figures], tmp_path, OPTIONS, grid=grid, progress=lambda *_: None)
    assert found.chosen == {"guidance": 3.0, "temperature": 0.9, "top_k": 200, "top_p": 1.0}
    assert [choose(trials).params.guidance for trials in found.tried.values()] == [3.0, 3.0]
    assert found.tried["guidance"][1].score.value > found.tried["guidance"][0].score.value
    assert len(painter.asked) == 3 * 3 * 2  # settings, things, pictures: one setting is in both rows
    told = json.loads(sweep_json(found))
    assert (told["guidance"], len(told["tried"]["temperature"])) == (3.0, 2)
    plot(found, tmp_path / "sweep.png")
    with Image.open(tmp_path / "sweep.png") as image:
        assert image.width > 600
