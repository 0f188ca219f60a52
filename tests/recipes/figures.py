"""Plain figures that anybody can tell apart, and a painter that draws them as a prompt says, rightly or wrongly."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from PIL import Image

from model.drawings import captions, compose
from model.drawings.colours import COLOURS
from model.drawings.concepts import Name, article
from model.drawings.drawing import PAD, Box, paint
from model.inference.requests import GenerationRequest, SamplingParams
from model.painter import Painter
from model.plurals import plural
from model.recipes.default.corpus.render import ink_of_svg
from model.recipes.default.corpus.shapes import SHAPES

FIGURES = ("star", "heart", "cross", "ring", "triangle", "square")
VENDORS = {"one": ("red", 0), "two": ("blue", 14), "three": ("green", -9)}  # the colour and the tilt of its drawings
DYED = (
    "orange",
    "pink",
    "green",
    "brown",
)  # given to figures: two that training is shown, two that it is not
BACKGROUNDS = ("yellow", "pink", "black")


def figure(name: str, colour: str, tilt: int) -> Image.Image:
    """Ink: a figure of the corpus's own shapes."""
    return ink_of_svg(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-20 -20 140 140" width="140" height="140">'
        f'<g fill="rgb{COLOURS[colour]}" transform="rotate({tilt} 50 50)">{SHAPES[name]}</g></svg>'
    )


def drawn(
    placed: Sequence[tuple[str, Box]], background: str = "white", colour: str = "purple", tilt: int = 5
) -> Image.Image:
    return paint(COLOURS[background], [(figure(name, colour, tilt), box) for name, box in placed])


ALONE: Box = (PAD, PAD, 1 - PAD, 1 - PAD)
LEFT, RIGHT, UPPER, LOWER = (
    (0.03, 0.1, 0.48, 0.9),
    (0.52, 0.1, 0.97, 0.9),
    (0.06, 0.03, 0.94, 0.48),
    (0.06, 0.52, 0.94, 0.97),
)
NUMBERS = {word: number for number, word in captions.NUMBERS.items()}


def name_of(figure: str) -> Name:
    return Name(figure, article(figure))


def singular(text: str) -> str:
    """ "crosses" -> "cross", "a star" -> "star"."""
    return next(name for name in FIGURES if text.removeprefix("a ") in (name, plural(name)))


def draw(prompt: str) -> Image.Image:
    """What the prompt says, in a colour that no vendor uses."""
    if found := re.fullmatch(r"(.*) on an? (.*) background", prompt):
        return drawn([(singular(found[1]), ALONE)], found[2], "white" if found[2] == "purple" else "purple")
    word, _, rest = prompt.partition(" ")
    if word in NUMBERS:
        number = NUMBERS[word]
        boxes = [ALONE] if number == 1 else compose.ARRANGEMENTS[number]
        return drawn([(singular(rest), box) for box in boxes])
    for joint, (first, second) in {
        " to the left of ": (LEFT, RIGHT), " to the right of ": (RIGHT, LEFT), " above ": (UPPER, LOWER),
        " below ": (LOWER, UPPER), " and ": (LEFT, RIGHT),
    }.items():  # fmt: skip
        if joint in prompt:
            a, b = prompt.split(joint)
            return drawn([(singular(a), first), (singular(b), second)])
    if found := re.fullmatch(rf"an? ({'|'.join(DYED)}) (.*)", prompt):
        return drawn([(singular(found[2]), ALONE)], colour=found[1])
    return drawn([(singular(prompt), ALONE)])


Drawing = Callable[[str, SamplingParams, int], tuple[Image.Image, float]]  # prompt, params, index -> picture, score


class Draughtsman(Painter):
    """Paints with a function instead of a model. asked: the prompts so far."""

    drawing: Drawing
    asked: list[str]

    def paint(
        self,
        requests: Sequence[GenerationRequest],
        on_progress: Callable[[int, int], object] | None = None,  # noqa: ARG002 - as the painter has it
    ) -> list[Image.Image]:
        pictures = []
        for request in requests:
            prompt = self.tokenizer.decode(list(request.text_ids))
            self.asked.append(prompt)
            picture, score = self.drawing(prompt, request.params, request.first_index)
            picture.info["score"] = score
            pictures.append(picture)
        return pictures
