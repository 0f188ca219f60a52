"""Prepared pictures are made again when the pictures change, and an empty result says the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.errors import DataError
from model.training.count import count
from model.training.prepare import prepare
from model.training.rules import RULES
from model.training.selection import Selection, choose
from tests.training.test_data import picture


def put(folder: Path, name: str, seed: int, caption: str) -> None:
    (folder / f"{name}.png").write_bytes(picture(seed, kind="PNG"))
    (folder / f"{name}.txt").write_text(caption)


def test_a_folder_is_read_again_when_something_in_it_has_changed(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "data" / "cache"  # what is kept is no data, even within it
    data.mkdir()
    put(data, "a", 1, "a red cat")
    home = prepare([data], cache).folder
    (home / "tokens-of-before.npy").write_bytes(b"")
    assert len(prepare([data], cache).lines) == 1
    assert (home / "tokens-of-before.npy").exists()
    (data / "a.txt").write_text("a blue cat")
    os.utime(data / "a.txt", ns=(1, 1))
    assert prepare([data], cache).lines[0]["captions"] == [[1.0, "a blue cat"]]
    assert not (home / "tokens-of-before.npy").exists()
    put(data, "b", 2, "a dog")
    assert len(prepare([data], cache).lines) == 2


def test_pictures_without_a_fit_caption_are_refused_with_the_reason(tmp_path: Path) -> None:
    for at, caption in enumerate(("ein kleiner Hund sitzt auf der Wiese vor dem alten Haus", "", "")):
        put(tmp_path, str(at), at, caption)
    prepared = prepare([tmp_path], tmp_path / "cache")
    with pytest.raises(DataError, match=r"none of 3 pictures has a caption .*no caption 2.*--any-language") as refused:
        choose(prepared, Selection())
    assert "caption not English 1" in str(refused.value)


def test_pictures_that_look_alike_are_learnt_once_and_their_texts_are_read_by_who_reads_texts(tmp_path: Path) -> None:
    for name, seed, caption in (("a", 1, "a red cat"), ("b", 1, "two red cats"), ("c", 2, "a dog")):
        put(tmp_path, name, seed, caption)
    prepared = prepare([tmp_path], tmp_path / "cache")
    said = [line["captions"] for line in prepared.lines]
    assert said == [[[1.0, "a red cat"]], [[1.0, "a dog"]]]
    again = prepare([tmp_path], tmp_path / "cache").with_alike()
    assert [line["captions"] for line in again.lines] == [*said, [[1.0, "two red cats"]]]
    assert choose(again, Selection())[0].tolist() == [0, 2]  # the last picture is held out


def test_a_picture_without_a_caption_takes_none_from_an_equal_one(tmp_path: Path) -> None:
    for name, seed, caption in (("a", 1, ""), ("b", 1, "a red cat"), ("c", 1, ""), ("d", 2, "x"), ("e", 2, "a dog"),
                                ("f", 3, "a tree"), ("g", 3, "")):  # fmt: skip
        put(tmp_path, name, seed, caption)
    prepared = prepare([tmp_path], tmp_path / "cache")
    said = [[text for _, text in line["captions"]] for line in prepared.lines]
    assert said == [[], ["a red cat"], [], ["a dog"], ["a tree"]]
    assert len([texts for texts in said if texts]) == count([tmp_path], RULES).passed
