"""Both stages end to end on a tiny corpus: they learn, resume to the same losses after kill -9, and share a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from model.errors import DataError
from model.training import resident, train_transformer, train_vae
from model.training.batches import easy
from model.training.options import LoopOptions, TransformerOptions, VAEOptions
from model.training.prepare import prepare, tokenize
from model.training.selection import Selection, choose, read_concepts
from tests.training.killed import killed

COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200)}
SCRIPT = """
import sys, torch
from tests.training import test_training as t
from pathlib import Path
torch.set_num_threads(1)
t.run_transformer(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve captioned pictures in a folder: circles and squares in three colours, twice."""
    folder = tmp_path_factory.mktemp("corpus")
    for copy in range(2):
        for name, colour in COLOURS.items():
            for kind in ("circle", "square"):
                image = Image.new("RGB", (256, 256), "white")
                draw = ImageDraw.Draw(image)
                box = (60, 60 + 10 * copy, 190, 190 + 10 * copy)
                (draw.ellipse if kind == "circle" else draw.rectangle)(box, fill=colour)
                key = f"{name}-{kind}-{copy}"
                image.save(folder / f"{key}.png")
                line = {"captions": [[1.0, f"a {name} {kind}"]], "concept": f"{name} {kind}", "kind": "single"}
                (folder / f"{key}.json").write_text(json.dumps(line))
    return folder


@pytest.fixture(scope="module")
def stage_one(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short VAE run in `vae`."""
    home = tmp_path_factory.mktemp("stage-one")
    loop = LoopOptions(out=home / "vae", steps=40, batch=4, warmup=5, ema=0.9, report_every=10, sample_every=40)
    train_vae.train(VAEOptions((corpus,), loop, preset="tiny", crop=64, adam_lr=4e-3, cache=home / "prepared"))
    return home


@pytest.fixture
def stage_two(stage_one: Path) -> Iterator[Path]:
    """The same folder, with no stage 2 in it before and after."""
    yield stage_one
    forget(stage_one)


def forget(home: Path) -> None:
    for path in (home / "transformer").glob("*"):
        path.unlink()


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def run_transformer(corpus: Path, out: Path, steps: int, **changes: Any) -> None:
    """A tiny stage 2 in out/transformer, of the stage 1 beside it."""
    values: dict[str, Any] = {"batch": 4, "warmup": 2, "report_every": 1, "save_every": 3, "sample_every": 1000}
    loop = LoopOptions(out=out / "transformer", steps=steps, **{**values, **changes})
    options = TransformerOptions((corpus,), loop, preset="tiny", vocabulary=300, prompts=(), cache=out / "prepared")
    train_transformer.train(options, train_vae.load(out / "vae"))


def test_stage_one_learns_and_leaves_a_curve_and_a_sheet(stage_one: Path) -> None:
    lines = history(stage_one / "vae")
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert lines[-1]["psnr"] > 8
    assert {path.name for path in (stage_one / "vae").iterdir()} >= {"loss.png", "samples-0000040.png", "state.pt"}
    with Image.open(stage_one / "vae" / "samples-0000040.png") as sheet:
        assert sheet.width > 100


def test_a_folder_is_not_taken_for_another_models_run(corpus: Path, stage_one: Path) -> None:
    loop = LoopOptions(out=stage_one / "vae", steps=41, batch=4)
    with pytest.raises(DataError, match="another model"):
        train_vae.train(VAEOptions((corpus,), loop, preset="small", cache=stage_one / "prepared"))


def test_tokens_are_made_once(corpus: Path, stage_one: Path) -> None:
    prepared = prepare((corpus,), stage_one / "prepared")
    vae = train_vae.load(stage_one / "vae")
    plain, mirrored = tokenize(prepared, vae, torch.device("cpu"), batch=5)
    assert plain.shape == mirrored.shape == (12, 1024)
    image = torch.from_numpy(np.array(prepared.images[7])).permute(2, 0, 1)[None].float() / 255
    same = (vae.encode(image).flatten().numpy() == plain[7]).mean()
    turned = (vae.encode(image.flip(-1)).flatten().numpy() == mirrored[7]).mean()
    assert min(same, turned) > 0.99  # a batch of another size rounds otherwise
    assert np.array_equal(tokenize(prepared, vae, torch.device("cpu"), mirrored=False)[1], plain)
    stamp = {path: path.stat().st_mtime_ns for path in prepared.folder.glob("tokens-*")}
    tokenize(prepared, vae, torch.device("cpu"))
    assert {path: path.stat().st_mtime_ns for path in prepared.folder.glob("tokens-*")} == stamp


def test_the_decoder_alone_learns_on_and_the_codes_stay(corpus: Path, stage_one: Path, tmp_path: Path) -> None:
    start = train_vae.load(stage_one / "vae")
    image = torch.rand(1, 3, 256, 256)
    codes, before = start.encode(image), start.decode(start.encode(image))
    loop = LoopOptions(out=tmp_path / "vae", steps=3, batch=4, warmup=1, report_every=1)
    options = VAEOptions((corpus,), loop, crop=64, cache=stage_one / "prepared", decoder_only=True)
    found = train_vae.train(options, start=start)
    assert torch.equal(found.encode(image), codes)
    assert not torch.equal(found.decode(codes), before)


def test_stage_two_learns(corpus: Path, stage_two: Path) -> None:
    run_transformer(corpus, stage_two, 30, report_every=10)
    lines = history(stage_two / "transformer")
    assert lines[0]["image_bits"] < 14
    assert lines[-1]["image_bits"] < 0.7 * lines[0]["image_bits"]
    assert lines[-1]["val_image_bits"] < 13


def test_killed_and_resumed_gives_the_same_losses(corpus: Path, stage_two: Path) -> None:
    run_transformer(corpus, stage_two, 12)
    expected = [line["loss"] for line in history(stage_two / "transformer")]
    forget(stage_two)
    killed(SCRIPT, 5, corpus, stage_two, 12)
    state = torch.load(stage_two / "transformer" / "state.pt", weights_only=True)
    assert state["step"] == 3
    run_transformer(corpus, stage_two, 12)
    assert [line["loss"] for line in history(stage_two / "transformer")] == expected


def test_two_processes_learn_what_one_learns(corpus: Path, stage_two: Path) -> None:
    run_transformer(corpus, stage_two, 4)
    expected = [line["loss"] for line in history(stage_two / "transformer")]
    forget(stage_two)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    script = stage_two / "two.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(script), str(corpus), str(stage_two), "4"]
    ended = subprocess.run(command, cwd=root, env=environment, timeout=120, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = [line["loss"] for line in history(stage_two / "transformer")]
    assert found == pytest.approx(expected, rel=2e-3)


def test_accumulation_changes_nothing(corpus: Path, stage_two: Path) -> None:
    run_transformer(corpus, stage_two, 3)
    expected = history(stage_two / "transformer")[-1]["loss"]
    forget(stage_two)
    run_transformer(corpus, stage_two, 3, accumulate=2)
    assert history(stage_two / "transformer")[-1]["loss"] == pytest.approx(expected, rel=2e-3)
    with pytest.raises(DataError, match="batch must be a multiple of accumulate x processes, 3, got 4"):
        run_transformer(corpus, stage_two, 4, accumulate=3)


def test_drawn_where_the_pictures_lie_it_learns_and_goes_on_with_the_same_losses(
    corpus: Path, stage_two: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(resident, "DEVICES", ("cpu",))
    run_transformer(corpus, stage_two, 30)
    lines = history(stage_two / "transformer")
    assert lines[-1]["image_bits"] < 0.7 * lines[0]["image_bits"]
    assert lines[-1]["val_image_bits"] < 13
    assert "11 pictures and 7 texts lie on the GPU" in caplog.text
    forget(stage_two)
    for steps in (3, 6):
        run_transformer(corpus, stage_two, steps, cooldown=0.0)
    assert [line["loss"] for line in history(stage_two / "transformer")] == [line["loss"] for line in lines[:6]]


def test_selection_shares_by_kind_then_concept_then_picture(corpus: Path, stage_one: Path) -> None:
    prepared = prepare((corpus,), stage_one / "prepared")
    for row, line in enumerate(prepared.lines):
        line.update(split="train", kind="pair" if row < 2 else "single")
    rows, shares = choose(prepared, Selection(mix={"single": 0.5, "pair": 0.5}))
    assert len(rows) == 12
    assert shares[:2].sum() == pytest.approx(0.5)
    rows, _ = choose(prepared, Selection(concepts={"red*": 1.0, "blue circle": 1.0}))
    assert {prepared.lines[row]["concept"] for row in rows} == {"red circle", "red square", "blue circle"}
    rows, shares = choose(prepared, Selection(concepts={"red*": 1.0, "red circle": 3.0, "blue circle": 0.5}))
    found: dict[str, float] = defaultdict(float)
    for row, share in zip(rows, shares, strict=True):
        if prepared.lines[row]["kind"] == "single":
            found[prepared.lines[row]["concept"]] += share / sum(shares)
    total = sum(found.values())
    weights = {"red circle": 3.0, "red square": 1.0, "blue circle": 0.5}
    kept = sum(weights[name] for name in found)
    assert {name: share / total for name, share in found.items()} == pytest.approx(
        {name: weights[name] / kept for name in found}
    )
    line = {**prepared.lines[int(rows[0])], "source": "flat", "split": "train"}
    both = replace(prepared, lines=[line, {**line, "source": "3d"}, {**line, "source": "other"}])
    assert choose(both, Selection(sources={"flat": 3.0, "3d": 1.0}))[1].tolist() == pytest.approx([0.75, 0.25])
    with pytest.raises(DataError, match="leaves none of 12"):
        choose(prepared, Selection(sources={"nowhere": 1.0}))


def test_a_pair_is_chosen_where_both_its_things_are() -> None:
    chosen = Selection(concepts={"cat": 1.0, "dog": 0.5, "star+heart": 2.0})
    assert chosen.weight("cat+dog") == chosen.weight("dog+cat") == 0.5
    assert chosen.weight("cat+bus") == chosen.weight("star") == 0
    assert chosen.weight("star+heart") == 2.0
    assert Selection().weight("cat+bus") == 1.0


def test_concepts_of_a_file_may_have_weights(tmp_path: Path) -> None:
    path = tmp_path / "concepts.txt"
    path.write_text("cat\n\ndog 0.5\n circle-in-* 2\n")
    assert read_concepts(path) == {"cat": 1.0, "dog": 0.5, "circle-in-*": 2.0}
    for line in ("dog many", "dog 1 2", "dog 0", "dog nan", "dog -1", "dog inf"):
        path.write_text(f"cat\n{line}\n")
        with pytest.raises(DataError, match=f"line 2 must be a name, with or without a weight above 0, got '{line}'"):
            read_concepts(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_concepts(tmp_path / "none.txt")


def test_easy_tokens_repeat_all_their_neighbours() -> None:
    grid = torch.zeros(4, 4, dtype=torch.int64)
    grid[3, 2] = 5
    found = easy(grid.reshape(1, 16), 4).reshape(4, 4)
    expected = ["....", ".##.", ".##.", ".#.."]
    assert ["".join("#" if cell else "." for cell in row) for row in found] == expected
