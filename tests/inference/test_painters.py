"""A style with a transformer of its own: its pictures come from that one, in any company, and it is kept and read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from model.checkpoints import Checkpoint, load, save
from model.checkpoints.describe import describe
from model.checkpoints.native import restyle
from model.config import Style
from model.errors import CheckpointError
from model.inference.engine import Engine
from model.inference.events import Painted
from model.inference.requests import GenerationRequest, SamplingParams
from model.styles import Styles
from model.transformer import Transformer
from tests.conftest import randomise

STYLES = Styles((Style("flat"), Style("3d", "3d", "things-3d.txt", transformer=True)), (None, ("cat",)))


@pytest.fixture(scope="module")
def checkpoint(small: Checkpoint) -> Checkpoint:
    """The small checkpoint with another transformer for 3d."""
    other = Transformer(small.own().transformer.config)
    randomise(other, seed=9)
    config = dataclasses.replace(small.config, styles=STYLES.styles)
    return dataclasses.replace(small, config=config, styles=STYLES, painters={"3d": other.eval()})


def paint(checkpoint: Checkpoint, asked: dict[str, str], strict: bool = True, slots: int = 6) -> dict[str, list[bytes]]:
    """The pictures of two images of each text, by the name of the request. asked: texts by name."""
    engine = Engine(checkpoint, slots=slots, strict=strict)
    for name, text in asked.items():
        params = SamplingParams(seed=5, guidance=2.0)
        engine.add(GenerationRequest(name, tuple(engine.tokenizer.encode(text)), 2, params))
    found: dict[str, list[bytes]] = {name: [] for name in asked}
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, Painted):
                found[event.request_id].append(event.rgb)
    return found


def test_pictures_of_the_style_come_from_its_transformer(small: Checkpoint, checkpoint: Checkpoint) -> None:
    both = paint(checkpoint, {"flat": "a cat", "solid": "a 3d cat", "none": "a 3d dog"})
    only = dataclasses.replace(small, transformer=checkpoint.painters["3d"])
    assert both["flat"] == paint(small, {"flat": "a cat"})["flat"]
    assert both["solid"] == paint(only, {"solid": "a 3d cat"})["solid"]
    assert both["none"] == paint(small, {"none": "a 3d dog"})["none"]  # which 3d does not know
    assert both["solid"] != paint(small, {"solid": "a 3d cat"})["solid"]


def test_a_picture_with_broken_numbers_harms_no_other_style(checkpoint: Checkpoint) -> None:
    broken = Transformer(checkpoint.own().transformer.config).eval()
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(float("nan"))
    engine = Engine(dataclasses.replace(checkpoint, painters={"3d": broken}), slots=4)
    for name, text in (("flat", "a cat"), ("solid", "a 3d cat")):
        engine.add(GenerationRequest(name, tuple(engine.tokenizer.encode(text)), 1, SamplingParams(seed=5)))
    ended: dict[str, str] = {}
    while engine.has_work:
        ended |= {event.request_id: type(event).__name__ for event in engine.step()}
    assert ended == {"flat": "Finished", "solid": "Failed"}


def test_it_is_kept_and_read(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "styled"
    parts = (checkpoint.config, checkpoint.tokenizer, checkpoint.vae, checkpoint.transformer, torch.float32)
    with pytest.raises(ValueError, match="painters"):
        save(path, *parts, styles=checkpoint.styles)
    save(path, *parts, styles=checkpoint.styles, painters=checkpoint.painters)
    assert sorted(file.name for file in path.glob("style-*")) == ["style-3d-1-of-1.safetensors"]
    assert paint(load(path), {"a": "a 3d cat"}) == paint(checkpoint, {"a": "a 3d cat"})
    assert "style-3d" in dict(describe(path).parameters)
    restyle(path, Styles((Style("flat"),), (None,)))
    assert list(path.glob("style-*")) == []
    restyle(path, STYLES, checkpoint.painters)
    (path / "style-3d-1-of-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="style-3d-1-of-1"):
        load(path)
