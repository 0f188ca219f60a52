"""Known, near or unknown: by words and probabilities, and by the reviser of weights/default."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoints import Checkpoint, load
from model.config import FitConfig
from model.inference.captions import truthful
from model.inference.events import Fit
from model.inference.fit import Reading, Verdict, judge, refusal, settle
from model.inference.nearest import closest
from model.inference.prompt_rewriter import PromptRewriter, say
from model.styles import AUTO
from model.things import THINGS, Thing, Things, parse

WEIGHTS = Path(__file__).parents[2] / "weights" / "default"
LABELS = {"k": Fit.KNOWN, "n": Fit.NEAR, "u": Fit.UNKNOWN}
CONFIG = FitConfig()
SURE, UNSURE = (-0.01, -14.0), (-1.4, -1.9)  # probabilities of a caption, and of the caption of unknown words


@pytest.fixture(scope="module")
def things() -> Things:
    return parse((WEIGHTS / THINGS).read_bytes())


def rows(section: str) -> list[tuple[set[Fit], str, Reading]]:
    """(honest answers, prompt, reading) of a section of fit_prompts.txt."""
    text = (Path(__file__).parent / "fit_prompts.txt").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in text.split(f"[{section}]")[1].split("[")[0].splitlines() if line]
    return [
        ({LABELS[letter] for letter in label}, prompt, Reading(caption, float(likely), float(doubt)))
        for label, prompt, caption, likely, doubt in lines
    ]


@pytest.mark.parametrize(("section", "least"), [("tuned", 0.98), ("held out", 0.96)])
def test_most_answers_are_honest(things: Things, section: str, least: float) -> None:
    said = [(honest, judge(prompt, reading, things, CONFIG)) for honest, prompt, reading in rows(section)]
    assert len(said) > 150
    assert sum(fit in honest for honest, fit in said) / len(said) > least
    right = Counter(fit for honest, fit in said if fit in honest)
    found = Counter(fit for _, fit in said)
    for fit in Fit:
        assert right[fit] / found[fit] > 0.94, fit  # precision
        sure = [given for honest, given in said if honest == {fit}]
        assert sure.count(fit) / len(sure) > 0.92, fit  # recall


@pytest.mark.parametrize("section", ["tuned", "held out"])
def test_without_a_list_of_things_no_unknown_word_passes_as_known(section: str) -> None:
    said = [(honest, judge(prompt, reading, Things(), CONFIG)) for honest, prompt, reading in rows(section)]
    unknown = [fit for honest, fit in said if honest == {Fit.UNKNOWN}]
    assert Fit.KNOWN not in unknown
    assert unknown.count(Fit.UNKNOWN) / len(unknown) > 0.9
    assert sum(fit in honest for honest, fit in said) / len(said) > 0.85


@pytest.mark.parametrize(
    ("prompt", "caption", "fit"),
    [
        ("draw me TWO cats, please", "two cats", Fit.KNOWN),
        ("2 cats", "two cats", Fit.KNOWN),
        ("apple", "a red apple", Fit.KNOWN),  # the colour is in the thing's name
        ("a cat on a plain white background", "a cat", Fit.KNOWN),
        ("a red baloon", "a red balloon", Fit.KNOWN),
        ("a car", "a yellow car", Fit.NEAR),  # nobody asked for yellow
        ("a cat", "two cats", Fit.NEAR),
        ("a cat wearing a hat", "a cat", Fit.NEAR),
        ("a blue cat", "a red cat", Fit.NEAR),
        ("a kitten", "a cat", Fit.NEAR),
        ("a kitten", "a dog", Fit.UNKNOWN),
        ("a blue dog", "a blue car", Fit.UNKNOWN),  # a colour alone is nothing of the thing
        ("lorem ipsum", "a thinking face", Fit.UNKNOWN),
        ("a thinking face", "a thinking face", Fit.KNOWN),
        ("an orange", "an orange", Fit.KNOWN),  # a thing and a colour
        ("il cane", "wood", Fit.UNKNOWN),
        ("ein Boot", "a boot", Fit.UNKNOWN),  # a boat
        ("Rat und Tat", "a rat", Fit.UNKNOWN),
        ("a bear in its den", "a bear", Fit.NEAR),  # English
        ("a palm tree in los angeles", "a palm tree", Fit.NEAR),
        ("las vegas", "a slot machine", Fit.NEAR),
        ("a hand", "a waving hand", Fit.NEAR),  # nobody asked for waving
        ("a planet", "a planet with a ring", Fit.NEAR),
        ("an arrow", "a bow and arrow", Fit.NEAR),
        ("a number", "a number eight", Fit.NEAR),
        ("bread", "a loaf of bread", Fit.KNOWN),
        ("liberty", "the statue of liberty", Fit.NEAR),
        ("die Sonne", "a die", Fit.UNKNOWN),
        ("a die", "a die", Fit.KNOWN),
        ("the flag of wales", "the flag ofles", Fit.UNKNOWN),  # no word
        ("the flag of andorra", "the flag of hungary", Fit.UNKNOWN),  # the word flag alone is nothing of a country
        ("the flag of england", "the flag of the united kingdom", Fit.NEAR),
        ("a zorb", "a zorb", Fit.KNOWN),  # a fine-tuned checkpoint's own, which its list does not have
        ("shrek", "a mouse", Fit.UNKNOWN),  # a shrew is a mouse
    ],
)
def test_each_rule(things: Things, prompt: str, caption: str, fit: Fit) -> None:
    assert judge(prompt, Reading(caption, *SURE), things, CONFIG) is fit


def test_an_unlikely_caption_is_not_near(things: Things) -> None:
    assert judge("a kitten", Reading("a cat", *UNSURE), things, CONFIG) is Fit.UNKNOWN
    assert judge("a kitten", Reading("a cat", *UNSURE), things, FitConfig(likely=-2.0)) is Fit.NEAR
    assert judge("a sign that says OPEN", Reading("a plus sign", *UNSURE), things, CONFIG) is Fit.UNKNOWN
    assert judge("the first train", Reading("a red train", *UNSURE), things, CONFIG) is Fit.UNKNOWN
    assert judge("the first train", Reading("a train", *UNSURE), things, CONFIG) is Fit.NEAR


@pytest.mark.parametrize(
    ("caption", "true"),
    [
        ("a yellow car and a tree", "a car and a tree"),
        ("a red apple and a green car", "a red apple and a car"),
        ("a cat above a light blue ball", "a cat above a light blue ball"),  # no thing of this name: left as it is
        ("two yellow cars", "two cars"),
        ("three red apples", "three red apples"),
        ("two purple cats on a red background", "two cats"),  # else there are none on it
        ("three red apples on a green background", "three red apples"),
        ("a cat and a dog on a red background", "a cat and a dog"),
        ("two snowmen on a red background", "two snowmen"),
        ("two taxis on a red background", "two taxis"),
        ("two cups of coffee and a croissant", "a cup of coffee and a croissant"),
        ("a star above two red apples", "a star above a red apple"),
        ("dna and a backpack", "dna"),
        ("a cat above broccoli", "a cat"),
        ("three scissors", "scissors"),
        ("two zorbs and a cat", "two zorbs and a cat"),
        ("a yellow car", "a yellow car"),
        ("a white cat on a red background", "a white cat on a red background"),
    ],
)
def test_a_caption_claims_no_colour_that_is_not_painted(things: Things, caption: str, true: str) -> None:
    assert truthful(caption, things) == true
    assert truthful(caption, Things()) == caption


@pytest.mark.parametrize(
    ("prompt", "caption", "painted"),
    [
        ("a cat under a table", "a ping pong paddle and ball above a cat", "a cat"),
        ("a puppy beside a house", "a dog and a house", "a dog and a house"),
        ("two men", "a boy and a cat", "a man"),  # a boy is none, and he was not asked for with a cat
        ("france", "a france", "the flag of france"),
        ("salt", "a couch and lamp", "a thinking face"),
    ],
)
def test_what_nobody_asked_for_is_not_painted(things: Things, prompt: str, caption: str, painted: str) -> None:
    assert settle(prompt, Reading(caption, *SURE), things, CONFIG).caption == painted


def test_a_guess_for_an_unknown_prompt_is_not_painted(things: Things) -> None:
    ring = Reading("a ring", *UNSURE)
    assert settle("my front end project", ring, things, CONFIG) == Verdict(Fit.UNKNOWN, "a thinking face", "")
    assert settle("my front end project", ring, Things(), CONFIG) == Verdict(Fit.UNKNOWN, "a ring", "")
    few = Things((Thing("a ring"),))
    assert settle("my front end project", ring, few, CONFIG).caption == "a ring"


def test_what_is_closest_shares_words_or_letters(things: Things) -> None:
    for prompt, found in (
        ("an elefant", "an elephant"),
        ("an essay about dogs", "a dog"),
        ("flurb gronk", ""),
        ("un gato negro", ""),
        ("?", ""),
    ):
        assert closest(prompt, things, CONFIG.unknown) == found, prompt
    assert refusal("text", "flurb\ngronk", "") == "text must be something that the model knows, got 'flurb gronk'"
    assert refusal("text", "x" * 99, "a cat").endswith(f"got '{'x' * 77}...'. Closest: a cat")


@pytest.fixture(scope="module")
def default() -> Checkpoint:
    return load(WEIGHTS)


@pytest.mark.parametrize(
    ("prompt", "fit", "caption"),
    [
        ("a red apple", Fit.KNOWN, "a red apple"),
        ("two dogs", Fit.KNOWN, "two dogs"),
        ("a cat on a blue background", Fit.KNOWN, "a cat on a blue background"),
        ("a kitten", Fit.NEAR, "a cat"),
        ("a dog playing the guitar", Fit.NEAR, "a dog"),
        ("a yellow car next to a green tree", Fit.NEAR, "a car and a tree"),
        ("seven cats", Fit.NEAR, "five cats"),
        ("love", Fit.NEAR, "a red heart"),
        ("portrait of Albert Einstein", Fit.UNKNOWN, "a thinking face"),
        ("my front end project", Fit.UNKNOWN, "a thinking face"),
        ("un chat noir", Fit.UNKNOWN, "a thinking face"),
        ("eine schwarze Katze", Fit.UNKNOWN, "a thinking face"),
        ("红色的苹果", Fit.UNKNOWN, "a thinking face"),
        ("vrum skadoo plix", Fit.UNKNOWN, "a thinking face"),
    ],
)
def test_the_default_reviser_is_honest(default: Checkpoint, prompt: str, fit: Fit, caption: str) -> None:
    rewriter = PromptRewriter(default, torch.device("cpu"))
    verdict = rewriter.read(default.tokenizer.encode(prompt))
    assert verdict
    assert (verdict.fit, verdict.caption) == (fit, caption)


def test_a_prompt_that_was_just_read_is_not_read_again(default: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    rewriter = PromptRewriter(default, torch.device("cpu"))
    read: list[str] = []

    def noted(*asked: Any) -> str | None:
        read.append(asked[-1])
        return say(*asked)

    monkeypatch.setattr("model.inference.prompt_rewriter.say", noted)
    asked = [rewriter.read(default.tokenizer.encode("a red apple"), style) for style in (AUTO, "flat", AUTO, "flat")]
    assert read == ["a red apple"] * 2
    assert asked[:2] == asked[2:]
