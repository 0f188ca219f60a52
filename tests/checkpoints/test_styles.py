"""Styles in a checkpoint: config.json lists them, a file tells the things of each, and both are checked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.checkpoint import ServedCheckpoint
from model.checkpoints import load, save, sums
from model.config import Style
from model.config_file import from_dict
from model.errors import CheckpointError
from model.styles import THINGS_BYTES, Styles
from tests.checkpoints.refused import refusal, values_of

FLAT: dict[str, Any] = {"name": "flat"}
DEEP: dict[str, Any] = {"name": "3d", "word": "3d", "things": "things-3d.txt"}


def test_styles_are_read_with_what_they_know(whole: Path) -> None:
    loaded, served = load(whole), ServedCheckpoint.read(whole)
    assert loaded.styles == served.styles
    assert loaded.styles.names == ("flat", "3d")
    assert loaded.styles.things == (None, ("cat", "sun"))
    assert loaded.config.styles[0] == Style("flat", "", "")
    assert "things-3d.txt" in served.known


def test_saving_keeps_them_and_needs_them(whole: Path, tmp_path: Path) -> None:
    loaded = load(whole)
    parts = (loaded.config, loaded.tokenizer, loaded.vae, loaded.transformer)
    save(tmp_path / "again", *parts, clip=loaded.clip, reviser=loaded.reviser, styles=loaded.styles)
    assert load(tmp_path / "again").styles == loaded.styles
    assert (tmp_path / "again" / "things-3d.txt").read_text() == "cat\nsun\n"
    with pytest.raises(ValueError, match="styles: the config says "):
        save(tmp_path / "without", *parts, clip=loaded.clip, reviser=loaded.reviser)
    hostile = Styles(loaded.config.styles, (None, ("cat\x1b[2J",)))
    with pytest.raises(CheckpointError, match=r"things-3d\.txt: line 1 must be the name of a thing"):
        save(tmp_path / "hostile", *parts, clip=loaded.clip, reviser=loaded.reviser, styles=hostile)
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize(
    ("styles", "line"),
    [
        ({}, "styles must be a list of 0 to 16 objects, got an object"),
        ("3d", "styles must be a list of 0 to 16 objects, got '3d'"),
        (None, "styles must be a list of 0 to 16 objects, got null"),
        ([FLAT] * 17, "styles must be a list of 0 to 16 objects, got a list of 17"),
        ([7], "styles[0] must be an object, got 7"),
        ([{}], "styles[0]: the key 'name' is missing"),
        ([FLAT | {"url": "x"}], "styles[0]: unknown key 'url'; known are name, things, transformer, word"),
        ([FLAT | {"word": "flat"}], "styles[0]: things: must name a file where the word is 'flat', got none"),
        ([DEEP], "styles[0].word: must be empty, because the first style is the unstyled one, got '3d'"),
        ([FLAT, DEEP | {"word": ""}], "styles[1].word: must be a word of the captions, got ''"),
        ([FLAT, DEEP | {"word": "  "}], "styles[1].word must be a text of 0 to 32 printable characters, or empty"),
        ([FLAT, DEEP | {"word": "3d "}], "styles[1]: word: must be words with single spaces between them, got '3d '"),
        ([FLAT, DEEP | {"word": "3d\n"}], "styles[1].word must be a text of 0 to 32 printable characters"),
        ([FLAT, DEEP | {"name": "auto"}], "styles[1]: name: must be letters a to z, digits and single hyphens, and"),
        ([FLAT, DEEP | {"name": "3 D"}], "styles[1]: name: must be letters a to z, digits and single hyphens, and"),
        ([FLAT, DEEP | {"name": ""}], "styles[1].name must be a text of 1 to 32 printable characters, not blank"),
        ([FLAT, DEEP, DEEP], "styles: must differ in their name, got '3d' twice"),
        ([FLAT, DEEP, DEEP | {"name": "more"}], "styles: must differ in their word, got '3d' twice"),
        *(
            ([FLAT, DEEP | {"things": name}], "styles[1]: things: must be the name of a .txt file beside config.json")
            for name in ("../things.txt", "/etc/passwd", "a/b.txt", ".hidden.txt", "config.json", "SHA256SUMS", "ä.txt")
        ),
        ([FLAT, DEEP | {"things": ["a.txt"]}], "styles[1].things must be a text of 0 to 128 printable characters"),
    ],
    ids=str,
)
def test_what_are_no_styles_is_refused_by_key(whole: Path, styles: Any, line: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_dict({**values_of(whole), "styles": styles})
    assert str(caught.value).startswith(f"config.json: {line}")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"cat\n\n", "things-3d.txt: line 2 must be the name of a thing of 1 to 128 printable characters"),
        (b"cat\ncat\n", "things-3d.txt: line 2 names 'cat' again"),
        (b"\xff", "things-3d.txt: not a list of things in UTF-8"),
        (b"x\n" * THINGS_BYTES, "things-3d.txt must be at most 1,048,576 bytes"),
    ],
    ids=["blank", "twice", "binary", "large"],
)
def test_a_file_of_things_that_is_none_is_refused_by_line(copy: Path, data: bytes, line: str) -> None:
    (copy / "things-3d.txt").write_bytes(data)
    sums.write(copy)
    assert re.match(rf"{re.escape(str(copy))}/{re.escape(line)}", refusal(copy))
    assert re.match(rf"{re.escape(str(copy))}/{re.escape(line)}", refusal(copy, ServedCheckpoint.read))


def test_a_file_of_things_must_be_listed(copy: Path) -> None:
    listed = (copy / "SHA256SUMS").read_text()
    (copy / "SHA256SUMS").write_text("".join(line for line in listed.splitlines(True) if "things" not in line))
    assert "things-3d.txt: not listed in SHA256SUMS" in refusal(copy)


def test_a_checkpoint_without_styles_needs_no_files(copy: Path) -> None:
    values = values_of(copy)
    for styles in ([], [FLAT]):
        (copy / "config.json").write_text(json.dumps({**values, "styles": styles}))
        sums.write(copy)
        assert load(copy).styles.things == (None,) * len(styles)
    del values["styles"]
    (copy / "config.json").write_text(json.dumps(values))
    sums.write(copy)
    assert load(copy).styles == Styles()
