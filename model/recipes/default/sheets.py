"""Paints the model card's sheets. Each has fixed prompts, and no picture is chosen by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from model.styles import AUTO

if TYPE_CHECKING:
    from PIL import Image

    from model.painter import Painter

Sheet = tuple[list["Image.Image"], list[str]]  # pictures with a label for each

COMMON = (
    "a red apple", "a cat", "a rocket", "a slice of pizza", "the flag of japan", "a blue circle", "a dog",
    "a house", "a tree", "the sun", "a car", "a yellow star", "a fish", "a rose", "a robot", "a cup of coffee",
    "a snowman", "a bus", "a grinning face", "a red heart", "a banana", "an octopus", "a guitar", "a penguin",
    "the flag of france", "a crown", "a butterfly", "a strawberry", "a castle", "an umbrella", "a ghost",
    "a mushroom", "a soccer ball", "a bicycle", "a burger", "a cactus", "a frog", "a green square",
    "an airplane", "a key", "a skull", "a sunflower", "a turtle", "a pink heart", "a pumpkin", "a train",
    "an owl", "a watermelon",
)  # fmt: skip
HARD = (
    "a red cat and a blue dog", "three green apples", "three rainbows", "a cat, a dog and a tree", "seven apples",
    "the word hello", "a photograph of a street at night", "a man and his dog", "an astronaut riding a horse",
    "a map of the world", "two dogs on a blue background", "the inside of a kitchen",
)  # fmt: skip
SENTENCES = (
    "could somebody draw an owl for my little sister", "a majestic lion, award winning illustration",
    "the cutest penguin ever", "a rocket leaving for mars tonight", "grandma's old house behind the hill",
    "a lonely robot who lost its way", "my very first car", "an elephant that is on a diet", "a castle by moonlight",
    "a bus full of tourists", "a slice of pizza straight from naples", "a jazz guitar on stage",
    "a turtle racing downhill", "a giant mushroom lost in fog", "a snowman who loves july", "what a pretty butterfly!",
)  # fmt: skip
IDEAS = (  # none of them is in drawings/evocations.txt
    "gratitude", "jealousy", "boredom", "swimming", "a woman laughing", "cooking for friends", "rush hour",
    "monday morning", "running out of time", "our first kiss", "a violent thunderstorm", "being homesick",
    "the weight of silence", "forgetting a name", "a heated debate about money", "blorp",
)  # fmt: skip
PAIRS = (
    "a cat and a dog", "a cat to the left of a tree", "a red apple and a banana", "a rocket above a house",
    "a car and a bus", "an owl to the right of a mushroom", "a fish below a star", "a bicycle and a guitar",
    "a turtle and a panda", "a butterfly above a rose",
)  # fmt: skip
STYLED = (
    "a cat", "a penguin", "a red apple", "a house", "a panda", "a burger", "an owl", "a castle",
    "a dog", "a car", "a fox", "a rose", "a snowman", "a guitar", "a butterfly", "a crown",
)  # fmt: skip
NUMBERS = ("two", "three", "four", "five")
PROMPTS = {
    "common": COMMON,
    "hard": HARD,
    "sentences": SENTENCES,
    "ideas": IDEAS,
    "backgrounds": tuple(
        f"{thing} on a {colour} background"
        for thing in ("a cat", "a rocket", "a red apple", "a house", "an owl", "a snowman")
        for colour in ("blue", "green", "pink", "black")
    ),
    "styles": tuple(
        f"{style}{thing}" for row in (STYLED[:8], STYLED[8:]) for style in ("", "a 3d render of ") for thing in row
    ),
    "colours": tuple(
        f"{colour} {thing}"
        for thing in ("circle", "heart", "cat", "car", "umbrella", "dragon", "hat", "flower", "chair", "fish")
        for colour in ("a red", "an orange", "a yellow", "a green", "a blue", "a purple", "a pink", "a black")
    ),
    "counts": tuple(
        f"{number} {things}" for things in ("apples", "dogs", "stars", "cars", "guitars") for number in NUMBERS
    ),
    "pairs": PAIRS,
}
COLUMNS = {"counts": len(NUMBERS), "pairs": 5, "hard": 6}  # others: 8
SUBJECTS = ("a cat", "a red apple", "a rocket", "a house", "a butterfly", "a snowman", "an owl", "a bus")
NAMES = (*PROMPTS, "seeds", "continuation", "best_of")

Progress = Callable[[int, int], object]


def each(painter: Painter, texts: Sequence[str], how: dict[str, Any], progress: Progress) -> Sheet:
    """One picture of each text."""
    return painter.generate_each(texts, **how, on_progress=progress), list(texts)


def continuation(painter: Painter, how: dict[str, Any], progress: Progress) -> Sheet:
    """Eight pictures. Below each its upper half is continued with the next seed, by the same text and by another."""
    from model.inference.requests import GenerationRequest

    pictures = painter.generate_each(SUBJECTS, **how)
    grid = painter.vae.config.grid
    kept = bytes([1]) * (grid // 2 * grid) + bytes((grid - grid // 2) * grid)
    params = painter.sampling(**{**how, "seed": how["seed"] + 1})
    others = (*SUBJECTS[1:], SUBJECTS[0])
    requests = [
        GenerationRequest(
            f"{text} {row}",
            tuple(painter.tokenizer.encode(text)),
            1,
            params,
            image=picture.tobytes(),
            keep=kept,
            revise=painter.revises,
        )
        for row, texts in enumerate((SUBJECTS, others))
        for text, picture in zip(texts, pictures, strict=True)
    ]
    labels = [*SUBJECTS, *(f"{text}, on" for text in SUBJECTS), *(f"{text}, on" for text in others)]
    return [*pictures, *painter.paint(requests, progress)], labels


def seeds(painter: Painter, how: dict[str, Any], progress: Progress) -> Sheet:
    """Four pictures of each of sixteen things, as one request gives them: they go round the styles."""
    pictures = []
    for done, text in enumerate(STYLED):
        pictures += painter.generate(text, 4, **how)
        progress(done + 1, len(STYLED))
    return pictures, [text for text in STYLED for _ in range(4)]


def best_of(painter: Painter, how: dict[str, Any], progress: Progress) -> Sheet:
    """Four pictures of each of eight prompts, by falling score, labelled with the score."""
    pictures = []
    labels = []
    for done, text in enumerate(SUBJECTS):
        for picture in painter.generate(text, 4, **how, best_of=4):
            pictures.append(picture)
            labels.append(f"{text} {picture.info['score']:.3f}")
        progress(done + 1, len(SUBJECTS))
    return pictures, labels


def paint(name: str, painter: Painter, how: dict[str, Any], progress: Progress) -> Sheet:
    """The sheet of that name, one of NAMES. how: seed and sampling arguments of `Painter.generate`."""
    if name == "continuation":
        return continuation(painter, how, progress)
    if name == "best_of":
        return best_of(painter, how, progress)
    if name == "seeds":
        return seeds(painter, how, progress)
    first = next(iter(painter.checkpoint.styles.names), AUTO)  # a caption that names a style stays in it
    return each(painter, PROMPTS[name], {**how, "style": first}, progress)
