"""Prior preservation: what a model draws before it is fine-tuned is learnt along with what is new."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import model
from app.cli import app
from model.checkpoints import Checkpoint, load
from model.errors import DataError
from model.prompts import read_prompts
from model.training import preserve
from model.training.examples import Example

PROMPTS = ("a red apple", "a blue circle", "a cat")


@pytest.fixture
def zorbs(tmp_path: Path) -> Path:
    folder = tmp_path / "zorbs"
    folder.mkdir()
    for at in range(3):
        Image.radial_gradient("L").rotate(90 * at).convert("RGB").crop((40 * at, 0, 256, 256)).save(
            folder / f"{at}.png"
        )
        (folder / f"{at}.txt").write_text(f"a zorb of kind {at}")
    return folder


@pytest.fixture
def start(tiny_checkpoint: Path) -> Checkpoint:
    return load(tiny_checkpoint)


def test_drawings_are_what_the_start_draws(start: Checkpoint, tiny_checkpoint: Path) -> None:
    before = {name: tensor.clone() for name, tensor in start.transformer.state_dict().items()}
    found = preserve.draw(start, PROMPTS, torch.device("cpu"), seed=3)
    painter = model.load(tiny_checkpoint, "cpu")
    for prompt, example in zip(PROMPTS, found, strict=True):
        assert example.captions == [(1.0, prompt)]
        ids = torch.from_numpy(example.image).view(1, 32, 32)
        mine = (start.vae.decode(ids)[0].permute(1, 2, 0) * 255).round().detach().numpy()
        theirs = np.asarray(painter.generate(prompt, seed=3)[0], dtype=np.float32)
        assert np.abs(mine - theirs).max() <= 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.transformer.state_dict().items())


def test_they_are_drawn_once_and_for_these_prompts(start: Checkpoint, tmp_path: Path) -> None:
    path, cpu = tmp_path / "preserved.npz", torch.device("cpu")
    first = preserve.draw_once(start, PROMPTS[:1], cpu, 0, path)
    with torch.no_grad():
        for parameter in start.transformer.parameters():
            parameter.zero_()  # would draw something else
    again = preserve.draw_once(start, PROMPTS[:1], cpu, 0, path)
    assert again[0].captions == first[0].captions
    assert np.array_equal(again[0].image, first[0].image)
    with pytest.raises(DataError, match="the prompts must be the 1 that the run began with"):
        preserve.draw_once(start, PROMPTS[:2], cpu, 0, path)


class Others:
    """Examples of one caption."""

    def draw(self, step: int, place: int, random: np.random.Generator, mirror: float) -> Example:
        return Example([(1.0, f"{step} {place} {mirror}")], random.integers(8192, size=4))


def test_a_share_of_the_samples_are_preserved_and_each_is_a_function_of_its_place() -> None:
    kept = [Example([(1.0, prompt)], np.zeros(4, np.int64)) for prompt in PROMPTS]
    examples = preserve.PreservingExamples(Others(), kept, 0.3)  # type: ignore[arg-type]

    def captions() -> list[str]:
        drawn = (examples.draw(0, place, np.random.default_rng((0, place)), 0.5) for place in range(1000))
        return [example.captions[0][1] for example in drawn]

    found = captions()
    assert found == captions()
    assert 0.25 < sum(text in PROMPTS for text in found) / 1000 < 0.35
    assert all(text in PROMPTS or text == f"0 {place} 0.5" for place, text in enumerate(found))
    assert set(PROMPTS) <= set(found)


def test_the_command_and_that_it_goes_on(zorbs: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple\n\n  a cat\n")
    out = tmp_path / "mine"
    command = ["train", "transformer", str(zorbs), "--start", str(tiny_checkpoint), "--preserve", str(prompts),
               "--out", str(out), "--cache", str(tmp_path / "prepared"), "--batch", "4", "--set", "warmup=1",
               "--set", "report_every=1", "--prompt", "a cat", "--any-language"]  # fmt: skip
    for steps in ("1", "2"):
        done = CliRunner().invoke(app, [*command, "--steps", steps], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    assert json.loads((out / "checkpoint" / "config.json").read_text())["transformer"]
    with np.load(out / "preserved.npz") as kept:
        assert kept["prompts"].tolist() == ["a red apple", "a cat"]


def test_bad_lists_are_refused(zorbs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read"):
        read_prompts(tmp_path / "nowhere.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.txt: no prompts"):
        read_prompts(tmp_path / "empty.txt")
    done = CliRunner().invoke(app, ["train", "transformer", str(zorbs), "--preserve", str(tmp_path / "empty.txt")])
    assert done.exit_code == 2
    assert "needs --start" in done.output
