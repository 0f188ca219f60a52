"""A user's own pictures: things are cut out of plain backgrounds, and composed with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import app
from model.errors import DataError
from model.recipes.default.evaluation.ink import count as count_things
from model.training import own
from model.training.data import iterate
from tests.drawings.things import drawn
from tests.training.zorbs import BODIES, draw, zorb

Made = dict[str, tuple[npt.NDArray[np.uint8], dict[str, Any]]]
PINK, BLUE = (255, 205, 222), (30, 60, 160)


def read(folder: Path) -> Made:
    """Key -> picture, and what its .json says."""
    return {s.key: (s.image, {**s.meta, "captions": s.captions}) for s in iterate([folder])}


@pytest.fixture
def zorbs(tmp_path: Path) -> Path:
    draw(tmp_path / "zorbs", 6)
    return tmp_path / "zorbs"


def test_a_folder_becomes_these_compositions(zorbs: Path, tmp_path: Path) -> None:
    Image.radial_gradient("L").save(zorbs / "glow.png")
    (zorbs / "glow.txt").write_text("a glow")
    zorb(BODIES["teal"], (255, 255, 255), np.random.default_rng(9)).save(zorbs / "many.png")
    (zorbs / "many.txt").write_text("two teal zorbs and a lamp")
    cat = np.asarray(zorb((90, 60, 30), (255, 255, 255), np.random.default_rng(5)))
    beside = [("a cat", cat), ("two cats", cat), ("a cat on a blue background", cat), ("a fog", np.full_like(cat, 255))]
    summary = own.compose([zorbs], tmp_path / "out", backgrounds=2, numbers=4, pairs=3, beside=beside)
    made = read(tmp_path / "out")

    # eight pictures, one of them held out; a thing on five of the other seven
    assert summary.unchanged == {"on no plain background": 1, "the caption names no single thing": 1}
    assert summary.things == ["a purple zorb", "a teal zorb", "an orange zorb"]
    assert sorted(summary.shards) == sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    captions = {key: [text for _, text in meta["captions"]] for key, (_, meta) in made.items()}
    held = [key for key, (_, meta) in made.items() if meta["split"] == "val"]
    assert [captions[key] for key in held] == [["an orange zorb on a pink background"]]
    kinds = {kind: [key for key in made if made[key][1]["kind"] == kind] for kind in summary.kinds}
    assert {kind: len(keys) for kind, keys in kinds.items()} == summary.kinds
    assert {kind: len(kinds[kind]) for kind in ("single", "background", "count")} == {
        "single": 8, "background": 10, "count": 20
    }  # fmt: skip

    for key in kinds["count"]:
        asked = next(number for number in range(2, 6) if f"times-{number}" in key)
        assert count_things(Image.fromarray(made[key][0])) == asked, key
        assert ("two", "three", "four", "five")[asked - 2] in captions[key][0]
    for key in kinds["background"]:
        colour = " ".join(captions[key][0].removesuffix(" background").split(" on a")[1].split()[-1:])
        assert colour in key
        assert (made[key][0][0, 0] != 255).any(), key
    texts = {text for key in kinds["pair"] for text in captions[key]}
    assert any("a cat" in text for text in texts)
    assert not any("fog" in text or "cats" in text or "lamp" in text for text in texts)
    alone = made["own-000000" if "own-000000" in held else kinds["single"][1]][0]
    rows = np.flatnonzero((np.abs(alone.astype(int) - alone[0, 0]) > 40).any((1, 2)))
    assert abs((rows[0] + rows[-1]) / 2 - 127.5) < 3  # in the middle, wherever it was


def test_the_same_seed_makes_the_same_and_nothing_is_overwritten(zorbs: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        own.compose([zorbs], tmp_path / out, seed=4)
    own.compose([zorbs], tmp_path / "c", seed=5)
    shards = {out: (tmp_path / out / "train-000000.tar").read_bytes() for out in "abc"}
    assert shards["a"] == shards["b"] != shards["c"]
    with pytest.raises(DataError, match="must be an empty folder, but it holds shards"):
        own.compose([zorbs], tmp_path / "a")


def test_bad_folders_are_refused(zorbs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in zorbs.glob("*.txt"):
        text.unlink()
    with pytest.raises(DataError, match=r"zorbs: no picture is fit to train on: 6 pictures read.*'no caption': 6"):
        own.compose([zorbs], tmp_path / "out")
    monkeypatch.setattr(own, "_MOST", 5)
    with pytest.raises(DataError, match="zorbs: must be at most 5 pictures.*, got 6"):
        own.compose([zorbs], tmp_path / "out")


def test_the_metadata_of_the_pictures_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    leaf = ("ellipse", (90, 60, 160, 190), {"fill": (30, 150, 40)})
    told: list[tuple[str, list[Any], Any]] = [
        ("val", [[0.3, "green stuff, a leaf"], [0.7, "a leaf"]], "white"),
        ("train", ["a leaf"], "white"),
        ("train", ["a leaf on the left"], "white"),
        ("train", ["a snowball"], BLUE),
    ]
    for at, (split, captions, background) in enumerate(told):
        ball = ("ellipse", (60, 60, 190, 190), {"fill": (252, 252, 252)})
        picture = drawn(background, ball if background != "white" else leaf)
        moved = Image.new("RGB", picture.size, background)
        moved.paste(picture, (10 * at, 0))
        moved.save(folder / f"{at}.png")
        (folder / f"{at}.json").write_text(json.dumps({"captions": captions, "split": split, "concept": f"c{at}"}))
    summary = own.compose([folder], tmp_path / "out", pairs=2, numbers=2)
    made = read(tmp_path / "out")
    assert summary.unchanged == {"the caption names no single thing": 1, "the same thing as another's": 1}
    kept = {key: meta for key, (_, meta) in made.items() if meta["kind"] == "single"}
    assert [meta["split"] for meta in kept.values()].count("val") == 1
    assert {meta["concept"] for meta in kept.values()} == {"c0", "c1", "c2", "c3"}
    others = [meta for _, meta in made.values() if meta["kind"] != "single"]
    assert {meta["concept"] for meta in others} == {"c3"}  # one leaf is held out, the other is the same in the middle
    assert {meta["kind"] for meta in others} == {"background"}  # a white thing is not put on white


def test_training_on_it(zorbs: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red apple\na cat\n")
    out = tmp_path / "mine"
    command = ["train", "transformer", str(zorbs), "--compose", "--start", str(tiny_checkpoint),
               "--preserve", str(tmp_path / "prompts.txt"), "--cache", str(tmp_path / "prepared"), "--out", str(out),
               "--batch", "4", "--set", "warmup=1", "--set", "report_every=1", "--prompt", "a zorb"]  # fmt: skip
    made = []
    for steps in ("1", "2"):
        done = CliRunner().invoke(app, [*command, "--steps", steps], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        made.append((out / "composed" / "train-000000.tar").stat().st_mtime_ns)
    assert made[0] == made[1]  # composed once
    prepared = next((tmp_path / "prepared").glob("*/captions.jsonl"))
    lines = [json.loads(line) for line in prepared.read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"single", "background", "count", "pair"}
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    (zorbs / "zorb01.txt").write_text("a yellow zorb")
    changed = CliRunner().invoke(app, [*command, "--steps", "3"])
    assert changed.exit_code != 0
    assert "those that the run began with" in changed.output + str(changed.exception)
    refused = CliRunner().invoke(app, [*command, "--stream"])
    assert refused.exit_code == 2
    assert "reads a whole folder" in refused.output
