"""What drawings are called, and the lists of words that go with them."""

from __future__ import annotations

import pytest

from model.drawings.concepts import article, everyday, evocations, guess_name, kinds, mirrors, ordinary, parse_name
from model.plurals import plural


def test_everyday_things_answer_to_what_people_type() -> None:
    things = everyday()
    assert len(things) > 500
    names = {name.full for concept in things.values() for name in concept.names}
    for plain in ("a cat", "a dog", "a car", "a house", "a tree", "the sun", "a flower", "an apple", "a fish", "a bird",
                  "a boat", "a book", "a heart", "a star", "a hat", "a shoe", "pizza", "the flag of japan", "a clock",
                  "a train", "a plane", "a ball of yarn", "a blue circle", "a bus", "an elephant"):  # fmt: skip
        assert plain in names
    spoken = [name.full for concept in things.values() for name in (*concept.names, *concept.synonyms)]
    assert all(text == " ".join(text.split()).lower() and text for text in spoken)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("apple", "an"),
        ("unicorn", "a"),
        ("hourglass", "an"),
        ("umbrella", "an"),
        ("ufo", "a"),
        ("cat", "a"),
        ("eye", "an"),
    ],
)
def test_articles(noun: str, expected: str) -> None:
    assert article(noun) == expected


@pytest.mark.parametrize(
    ("one", "many"),
    [("cat", "cats"), ("cherry", "cherries"), ("box", "boxes"), ("mouse", "mice"), ("slice of pie", "slices of pie"),
     ("sheep", "sheep"), ("toy mouse", "toy mice"), ("key", "keys"), ("wolf", "wolves"), ("fox", "foxes"),
     ("face with a mask", "faces with a mask")],
)  # fmt: skip
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def test_names_are_guessed_and_parsed() -> None:
    assert [guess_name(label).full for label in ("grapes", "bus", "red apple", "glass of milk", "rice")] == [
        "grapes", "a bus", "a red apple", "a glass of milk", "rice"]  # fmt: skip
    assert [parse_name(text).full for text in ("-grapes", "the sun", "owl")] == ["grapes", "the sun", "an owl"]
    assert not mirrors("left-arrow")
    assert mirrors("cat-face")


def test_a_kind_is_of_one_everyday_thing_and_has_no_other_name() -> None:
    assert set(kinds()) <= set(everyday())
    found = [kind for of_one in kinds().values() for kind in of_one]
    assert len({kind.text for kind in found}) == len(found) > 8000
    assert all(kind.text == kind.text.lower().strip() and kind.article in ("", "a", "an", "the") for kind in found)
    names = {name.text for thing in everyday().values() for name in (*thing.names, *thing.synonyms)}
    ideas = {text for texts in evocations().values() for text in texts}
    assert not [kind for kind in found if kind.text in names or kind.full in ideas or kind.text in ideas]
    nothing = {text for name in ("nouns", "adjectives", "doings", "clauses") for text in ordinary(name)}
    assert not [kind for kind in found if kind.text in nothing]


def test_every_evocation_belongs_to_one_everyday_thing() -> None:
    assert set(evocations()) <= set(everyday())
    texts = [text for texts in evocations().values() for text in texts]
    assert len(set(texts)) == len(texts) > 300
    assert all(text and text == text.strip().lower() for text in texts)


def test_ordinary_words_bring_nothing_to_mind_and_name_nothing() -> None:
    sections = [ordinary(name) for name in ("nouns", "adjectives", "doings", "clauses")]
    texts = [text for section in sections for text in section]
    assert min(map(len, sections)) > 60
    assert len(set(texts)) == len(texts)
    assert not {text for texts in evocations().values() for text in texts}.intersection(texts)
    names = {name.text for thing in everyday().values() for name in (*thing.names, *thing.synonyms)}
    assert not names.intersection(texts)
    assert not {word for word in names if " " not in word}.intersection(word for text in texts for word in text.split())
