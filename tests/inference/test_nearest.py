"""What a prompt asks for, what is nearest to it where the reviser fails, and captions that are mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config import FitConfig
from model.inference.asking import code, content, wanted
from model.inference.captions import formed, mended
from model.inference.events import Fit
from model.inference.fit import Reading, Verdict, settle
from model.inference.nearest import closest, named
from model.inference.numbers import at_most_five, unglued
from model.plurals import plural
from model.things import THINGS, Things, parse

WEIGHTS = Path(__file__).parents[2] / "weights" / "default"
FACE = "a thinking face"
NONSENSE = Reading(FACE, -0.5, -0.5)


@pytest.fixture(scope="module")
def things() -> Things:
    return parse((WEIGHTS / THINGS).read_bytes())


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a car without wheels", ["car"]),
        ("no cats", []),
        ("don't draw a cat", []),
        ("anything but a dog", []),
        ("not a dog but a cat", ["but", "cat"]),
        ("a dog, not a cat", ["dog"]),
        ("why don't you paint a star", ["why", "don't", "star"]),
        ("a no entry sign", ["no", "entry", "sign"]),  # a thing's own words
        ("not sure", ["not", "sure"]),
        ("no more than two ducks", ["no", "more", "than", "2", "duck"]),
        ("not only cats", ["not", "only", "cat"]),
        ("a knot", ["knot"]),
        ("neither a cat nor a dog", []),
        ("zero", ["zero"]),
        ("zero cats", []),
    ],
)
def test_what_is_not_wanted_is_not_asked_for(things: Things, prompt: str, words: list[str]) -> None:
    assert content(wanted(prompt, things)) == words


def test_code_is_told_from_sentences() -> None:
    for text in (
        'print("a cat")', "https://example.com/cat.png", "<b>dog</b>", '{"text": "a cat"}', "SELECT name FROM cats",
        "cat@example.com", "UPDATE cats SET age = 3", "DROP TABLE cats;", "if (x > 3) return cat;",
    ):  # fmt: skip
        assert code(text), text
    for text in (
        "a cat (sleeping)",
        "I <3 cats",
        "a gift for (my) cat",
        "two cats; a dog",
        "50% of a pizza",
        "select a cat from these",
        "a/b",
    ):
        assert not code(text), text


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("owls", "an owl"),
        ("the dragon who guards an old castle", "a dragon"),
        ("a cat by Van Gogh", "a cat"),
        ("my uncle bought a tractor yesterday", "a tractor"),
        ("a lego car", "a car"),
        ("a hot dog", "a hot dog"),
        ("a fire hydrant", ""),
        ("Tiger Woods", ""),
        ("Two Dogs And A Cat", "a dog"),
        ("a turkey sandwich", "a sandwich"),
        ("do penguins fly?", "a penguin"),
        ("a robot loves a cat", "a robot"),
        ("are penguins able to fly?", "a penguin"),
        ("an ambulance stuck in traffic", "an ambulance"),
        ("a cute cat sticker, vector art", "a cat"),
        ("a snail faster than a rocket", "a snail"),
        ("Captain Hook", ""),
        ("how to fish", ""),
        ("an empty glass", ""),  # no glasses
        ("purple", ""),
        ("an orange", "an orange"),
        ("un chat noir", ""),
        ("zwei robots", ""),
        ("un robot qui mange", ""),
        ("dans robot", ""),
        ("a robot by Dan", "a robot"),
        ("éléphant rose", ""),
        ("a rainbow coloured unicorn", "a unicorn"),
        ("no dogs", ""),
        ("def cat(): return 1", ""),
        ("", ""),
    ],
)
def test_a_prompt_names_what_it_is_about(things: Things, prompt: str, name: str) -> None:
    found = named(prompt, things)
    assert (found.name if found else "") == name


def test_a_thing_that_is_named_is_painted_where_the_reviser_fails(things: Things) -> None:
    def said(prompt: str, reading: Reading = NONSENSE) -> Verdict:
        return settle(prompt, reading, things, FitConfig())

    assert said("the robots are coming") == Verdict(Fit.NEAR, "a robot", "a robot")
    assert said("a car without wheels", Reading("a ferris wheel", -0.5, -9)) == Verdict(Fit.NEAR, "a car", "a car")
    assert said("a violin in the subway", Reading("a woman", -0.1, -9)).caption == "a violin"
    assert said("I would love to see a camel", Reading("a love letter", -0.2, -9)).caption == "a camel"
    assert said("a pig that can fly", Reading("a fly", -0.2, -9)).caption == "a pig"
    assert said("a corgi on a beach", Reading("a dog", -0.01, -9)).caption == "a dog"
    assert said("a truck full of bananas", Reading("a truck", -0.01, -9)).caption == "a truck"
    assert said("a monkey stealing a banana", Reading("a banana", -0.1, -9)).caption == "a monkey"
    assert said("a bird between two trees", Reading("two trees", -0.01, -9)).caption == "a bird"
    assert said("a clown fish", Reading("a clown", -0.3, -9)).caption == "a fish"
    assert said("a school of fish", Reading("a fish", -0.1, -9)).caption == "a fish"
    assert said("a rhino near a jeep", Reading("a lightning bolt", -0.7, -9)).caption == "a rhinoceros"
    assert said("a cardboard house", Reading("a package", -0.1, -9)).caption == "a house"
    assert said("an eye doctor", Reading("glasses", -0.1, -9)).caption == "glasses"  # taught for all of it
    assert said("4 blue hearts", Reading("four blue hearts", -0.01, -9)).caption == "four blue hearts"
    assert said("apple, banana", Reading("a red apple", -0.01, -9)).caption == "a red apple"
    assert said("a heart that is not red", Reading("a red heart", -0.01, -9)).fit is Fit.UNKNOWN
    assert said("a bird of prey", Reading("an eagle", -0.01, -9)).caption == "an eagle"  # taught for all of it
    assert said("a robot", Reading("a robot", -0.01, -9)) == Verdict(Fit.KNOWN, "a robot", "a robot")
    assert said("not a dog", Reading("a dog", -0.01, -9)) == Verdict(Fit.UNKNOWN, FACE, "")
    assert said("a pizza without cheese", Reading("pizza", -0.01, -9)).fit is Fit.NEAR
    assert said("SELECT name FROM cats", Reading("two cats", -0.01, -9)).fit is Fit.UNKNOWN
    assert said("an unthinking face").caption == FACE


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("portrait of Albert Einstein", "a man"),
        ("Angela Merkel", "a woman"),
        ("King Charles", "a man"),
        ("a portrait of Queen Victoria", "a woman"),
        ("portrait", "a man"),
        ("james", "a man"),
        ("Donald Trump", "a man"),  # no trumpet
        ("a girafe", "a giraffe"),
        ("an elefant", "an elephant"),
        ("limone", ""),  # no lion
        ("chien", ""),  # no chicken
        ("leon", ""),  # no lemon
        ("a fire hydrant", "a fire"),
        ("colorless green ideas sleep furiously", ""),  # a word of five is not what it is about
        ("we need to talk about the budget", ""),
        ("a black hole", ""),  # no cheese
        ("streaks of light on a highway at night", ""),  # no steak
        ("not a dog", ""),
        ("https://example.com/cat.png", ""),
    ],
)
def test_what_is_closest_is_no_odd_guess(things: Things, prompt: str, name: str) -> None:
    assert closest(prompt, things, FACE) == name


def test_people_are_told_only_where_the_model_paints_some() -> None:
    assert closest("Albert Einstein", Things(), FACE) == ""


@pytest.mark.parametrize(
    ("prompt", "caption", "painted"),
    [
        ("two children flying a kite", "two kite", "a kite"),
        ("a lot of blue cats", "a blue cats", "a blue cat"),
        ("how much is the fish", "a pink fish", "a fish"),
        ("how much is the apple", "a red apple", "a red apple"),
        ("a chocolate rabbit", "a brown rabbit", "a brown rabbit"),
        ("a bird's nest", "an bird", "a bird"),
        ("a pink elephant with ears", "a pink elephant and a ears", "an elephant and an ear"),
        ("noodles and butter", "a bowl of noodles and a butter", "a bowl of noodles"),
        ("paw prints on red", "a paw prints on a red background", "paw prints on a red background"),
        ("two moose", "two moose", "two moose"),
        ("two fish", "two fish", "two fish"),
        ("a washing machine and a banana", "a notes and a banana", "a banana"),
        ("a lion and a flurb", "a lion and a flushed", "a lion"),
        ("a cake and candles", "a cake and a cake", "a cake"),
        ("a cat avec un chapeau", "a cat above a crying cat", "a cat"),
        ("a red apple and a green apple", "a red apple and a green apple", "a red apple and a green apple"),
        ("a cat and another cat", "a cat and a cat", "a cat and a cat"),
        ("a zorb and a cat", "a zorb and a cat", "a zorb and a cat"),  # a fine-tuned checkpoint's own
    ],
)
def test_captions_are_mended(things: Things, prompt: str, caption: str, painted: str) -> None:
    assert mended(prompt, caption, things) == painted
    assert mended(prompt, caption, Things()) == caption


def test_a_caption_of_no_thing_is_told_from_one(things: Things) -> None:
    for caption in (
        "a cat", "two red hearts", "a light blue circle", "a green dog on a red background", "a 3d cat", "a pink oval",
        "a guitar and a drum", "a zorb", "the flag of france",
    ):  # fmt: skip
        assert formed(caption, things), caption
    for caption in ("a face with a mouth", "a cat and a notes of", "age of"):
        assert not formed(caption, things), caption
        assert formed(caption, Things())


def test_two_of_every_thing_are_its_caption_s_form(things: Things) -> None:
    others = {"thumbs up", "finger pointing up"}  # nobody says two of them
    told = [f"two {plural(thing.bare)}" for thing in things.things if thing.bare not in others]
    assert [text for text in told if not formed(text, things)] == []


def test_more_than_five_are_five(things: Things) -> None:
    for text, read in (
        ("7 cats", "five cats"),
        ("a thousand stars", "five stars"),
        ("two hundred sheep", "five sheep"),
        ("a dozen red roses", "five red roses"),
        ("hundreds of bees", "five bees"),
        ("three cats", "three cats"),
        ("5 cats", "5 cats"),
        ("10 downing street", "10 downing street"),
        ("7:2 cats", "7:2 cats"),
        ("twenty", "twenty"),
        ("twenty five cats", "five cats"),
        ("twenty-one cats", "five cats"),
        ("a hundred and one cats", "five cats"),
        ("ten thousand stars", "five stars"),
    ):
        assert at_most_five(text, things) == read


def test_a_number_stands_apart_from_a_thing(things: Things) -> None:
    for text, read in (
        ("1girl, solo", "1 girl, solo"),
        ("2cats and 10dogs", "2 cats and 10 dogs"),
        ("a 3d cat", "a 3d cat"),
        ("80mph", "80mph"),
        ("the 42nd cat", "the 42nd cat"),
    ):
        assert unglued(text, things) == read
