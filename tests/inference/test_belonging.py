"""Colours, numbers and backgrounds are painted only if the prompt gives them to the thing that is painted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoints import Checkpoint, load
from model.config import FitConfig
from model.inference.belonging import counted, grounded, unowned
from model.inference.captions import mended, uncoloured
from model.inference.events import Fit
from model.inference.fit import Reading, settle
from model.inference.prompt_rewriter import PromptRewriter
from model.things import Things

WEIGHTS = Path(__file__).parents[2] / "weights" / "default"


@pytest.fixture(scope="module")
def default() -> Checkpoint:
    return load(WEIGHTS)


@pytest.fixture(scope="module")
def things(default: Checkpoint) -> Things:
    return default.things


@pytest.mark.parametrize(
    ("prompt", "colour", "name", "elsewhere"),
    [
        ("a car with yellow lights", "yellow", "car", True),
        ("a purple dog chasing a yellow ball", "yellow", "dog", True),
        ("a purple dog chasing a yellow ball", "purple", "dog", False),
        ("a red-eyed frog", "red", "frog", True),
        ("a car that is yellow", "yellow", "car", False),
        ("a car, yellow", "yellow", "car", False),
        ("a yellow sports car", "yellow", "car", False),
        ("a yellow vehicle", "yellow", "car", False),  # which may be the car
        ("a black cat and a black hat", "black", "cat", False),
    ],
)
def test_a_colour_belongs_to_the_noun_behind_it(prompt: str, colour: str, name: str, elsewhere: bool) -> None:
    assert unowned(prompt, colour, frozenset(name.split())) is elsewhere


def test_a_number_may_belong_to_a_part() -> None:
    for prompt in ("a 3 legged cat", "a three-headed dragon", "a three door car", "three-wheeled cars"):
        assert not counted(prompt, "three", {"cat"}), prompt
    assert not counted("three huskies pulling a sled", "three", {"sled"})
    for prompt in ("three cats", "3 cats", "the three tired cats", "a trio of cats", "a 3 legged cat and three dogs"):
        assert counted(prompt, "three", {"cat"}), prompt


def test_a_background_is_asked_for_as_one() -> None:
    for prompt in ("a cat on blue", "a cat, blue background", "a cat against a sky blue wall", "a cat on a light blue"):
        assert grounded(prompt, "blue"), prompt
    for prompt in ("a pig on a blue bicycle", "a bird with a blue beak", "a bird on a red background"):
        assert not grounded(prompt, "blue"), prompt


@pytest.mark.parametrize(
    ("prompt", "caption", "painted"),
    [
        ("a car with yellow lights", "a yellow car", "a car"),
        ("a snail faster than a rocket", "a brown rocket", "a rocket"),
        ("a dog, transparent background", "a dog on a brown background", "a dog"),
        ("a dog on a wooden background", "a dog on a brown background", "a dog on a brown background"),
        ("a pig on a blue bicycle", "a pig on a blue background", "a pig"),
        ("a turquoise turtle", "a blue turtle", "a blue turtle"),
        ("a 3 legged cat", "three cats", "a cat"),
        ("a broken umbrella", "a closed umbrella", "an umbrella"),
        ("a cake ", "a birthday cake", "a cake"),
        ("an old truck", "a pickup truck", "a truck"),
        ("a halloween cat", "a black cat", "a black cat"),  # which it was taught for
    ],
)
def test_captions_claim_what_the_prompt_gives_to_their_thing(
    things: Things, prompt: str, caption: str, painted: str
) -> None:
    assert mended(prompt, caption, things) == painted


@pytest.mark.parametrize(
    "name",
    [
        "a cat with heart eyes",
        "a bowl of noodles",
        "a bow and arrow",
        "a couple holding hands",
        "a hundred points",
        "a cat",
    ],
)
def test_a_thing_with_several_in_its_name_is_known(things: Things, name: str) -> None:
    for caption in (name, f"{name} on a green background"):
        assert settle(caption, Reading(caption, -0.01, -14.0), things, FitConfig()).fit is Fit.KNOWN


def test_a_colour_is_taken_from_a_caption(things: Things) -> None:
    assert uncoloured("a purple giraffe on a red background", things) == "a giraffe on a red background"
    for caption in ("a red apple", "two purple giraffes", "a purple zorb", "a giraffe and a cat"):
        assert uncoloured(caption, things) == caption


@pytest.mark.parametrize(
    ("prompt", "fit", "caption"),
    [
        ("a purple cat", Fit.KNOWN, "a purple cat"),
        ("a green star", Fit.KNOWN, "a green star"),
        ("a purple hippopotamus", Fit.NEAR, "a hippopotamus"),  # a colour in which no picture showed it
        ("an orange camera", Fit.NEAR, "a camera"),
        ("a blue bee", Fit.NEAR, "a bee"),
        ("a dog with no background", Fit.KNOWN, "a dog"),
        ("a three-legged dog", Fit.NEAR, "a dog"),  # "a 3d dog"
        ("7", Fit.KNOWN, "a number seven"),
        ("the number 8", Fit.KNOWN, "a number eight"),
        ("the number 42", Fit.UNKNOWN, "a thinking face"),
        ("the letter Z", Fit.UNKNOWN, "a thinking face"),  # no envelope
        ("cows", Fit.NEAR, "a cow"),
        ("teeth", Fit.NEAR, "a tooth"),  # no shark
        ("a hat on a cat", Fit.NEAR, "a hat above a cat"),
        ("a hat above a cat", Fit.KNOWN, "a hat above a cat"),
        ("my uncle bought a kitten yesterday", Fit.NEAR, "a cat"),
        ("two puppies", Fit.NEAR, "a dog"),
        ("two sofas", Fit.NEAR, "a couch and lamp"),
        ("five vehicles", Fit.NEAR, "a car"),
        ("some thoughts on tax policy", Fit.UNKNOWN, "a thinking face"),
        ("0 cats", Fit.UNKNOWN, "a thinking face"),
        ("dont draw a dog", Fit.UNKNOWN, "a thinking face"),
        ("dog minus cat", Fit.NEAR, "a dog"),
        ("a rainbow colored horse", Fit.NEAR, "a horse"),
        ("two huskies pulling a sled", Fit.NEAR, "a sled"),
        ("a rabbit with a top hat", Fit.NEAR, "a rabbit and a top hat"),
        ("the letters A and B", Fit.UNKNOWN, "a thinking face"),
        ("Canada", Fit.NEAR, "the flag of canada"),
        ('git commit -m "dog"', Fit.UNKNOWN, "a thinking face"),
    ],
)
def test_the_default_weights_claim_what_they_paint(default: Checkpoint, prompt: str, fit: Fit, caption: str) -> None:
    rewriter = PromptRewriter(default, torch.device("cpu"))
    verdict = rewriter.read(default.tokenizer.encode(prompt))
    assert verdict
    assert (verdict.fit, verdict.caption) == (fit, caption)
