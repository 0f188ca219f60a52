"""The filters: each rule alone, then what a whole pipeline counts."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DataError
from model.training import filters
from model.training.data import Sample
from model.training.filters import Filter
from model.training.rules import Rules


def sample(text: str | None = "a red apple", size: tuple[int, int] = (256, 256), seed: int = 0) -> Sample:
    image = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    return Sample(f"k{seed}", image, [] if text is None else [(1.0, text)], {}, size)


@pytest.mark.parametrize("text", ["a cat", "the flag of japan", "grapes", "sushi", "a taco", "a burrito, flat design",
                                  "a 3d render of a kimono", "a small blue circle in the top left corner"])  # fmt: skip
def test_short_plain_english_passes_every_rule(text: str) -> None:
    assert filters.long_enough(text)
    assert filters.not_boilerplate(text)
    assert filters.english(text)


@pytest.mark.parametrize("text", ["eine rote Katze auf einem Tisch", "une pomme rouge sur une table", "красное яблоко",
                                  "das ist ein Hund im Park", "猫の絵", "bottiglia di vino rosso"])  # fmt: skip
def test_other_languages_are_refused(text: str) -> None:
    assert not filters.english(text)


@pytest.mark.parametrize("text", ["IMG_2041.jpg", "DSC 0012", "photographed on 12 May 2009", "2009-05-12", "untitled",
                                  "https://example.org/a.png", "Tap to zoom", "taken on March 3, 2011",
                                  "Photo taken on 4 May 2010", "image from 2009-05-12"])  # fmt: skip
def test_boilerplate_is_refused(text: str) -> None:
    assert not filters.not_boilerplate(text)


def test_too_few_letters_are_refused() -> None:
    assert not filters.long_enough("42 !?")
    assert not filters.long_enough("ab")


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_aspect_is_symmetric_and_bounded_by_two(width: int, height: int) -> None:
    rules = Rules(least_side=1)
    assert rules.size(width, height) == rules.size(height, width)
    assert (rules.size(width, height) == "") == (max(width, height) / min(width, height) <= 2)


@given(st.integers(1, 500), st.integers(1, 500))
def test_size_is_that_of_the_shorter_side(width: int, height: int) -> None:
    assert ("smaller than 64" in Rules().size(width, height)) == (min(width, height) < 64)


def test_every_refusal_is_counted_under_one_rule() -> None:
    judge = Filter()
    good = sample(seed=1)
    blank = Sample("blank", np.full((256, 256, 3), 200, np.uint8), [(1.0, "a cat")])
    texts = (None, "x", "IMG_1.png", "ein rotes Haus auf einem Berg")
    samples = [good, good, blank, *(sample(text, seed=2 + at) for at, text in enumerate(texts))]
    samples += [sample(size=(600, 200)), sample(size=(40, 50))]
    kept = [s for s in map(judge, samples) if s is not None]
    assert [s.key for s in kept] == ["k1"]
    assert judge.report() == {
        "passed": 1,
        "duplicate picture": 1,
        "blank picture": 1,
        "no caption": 1,
        "caption too short": 1,
        "caption is boilerplate": 1,
        "caption not English": 1,
        "aspect ratio outside 1:2": 1,
        "smaller than 64 pixels": 1,
    }
    assert sum(judge.report().values()) == len(samples)


@pytest.mark.parametrize(
    ("first", "size", "reason"),
    [
        ((640, 480), (256, 192), "passed"),
        ((900, 300), (256, 256), "aspect ratio outside 1:2"),  # fetched with --resize_mode center_crop
        ((50, 40), (256, 256), "smaller than 64 pixels"),  # made larger
        ((640, 480), (40, 30), "smaller than 64 pixels"),  # fetched with --image_size 30
        ((640, 480), (300, 100), "aspect ratio outside 1:2"),
    ],
)
def test_both_the_first_size_and_the_size_must_pass(first: tuple[int, int], size: tuple[int, int], reason: str) -> None:
    judge = Filter()
    found = replace(sample(size=size), meta={"original_width": first[0], "original_height": first[1]})
    assert (judge(found) is not None) == (reason == "passed")
    assert judge.report()[reason] == 1


def test_captions_that_break_a_rule_are_removed_and_others_stay() -> None:
    mixed = Sample("m", sample().image, [(0.5, "a cat"), (0.3, "IMG_1.png"), (0.2, "ein Hund und eine Katze")])
    kept = Filter()(mixed)
    assert kept is not None
    assert kept.captions == [(0.5, "a cat")]


def test_pictures_alone_need_no_caption() -> None:
    assert Filter(captions=False)(sample(None)) is not None


def test_without_the_language_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    filters.english.cache_clear()
    filters._rank.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(DataError, match="needs py3langid.*make train-deps"):
        filters.english("a caption of five words")
    filters.english.cache_clear()
