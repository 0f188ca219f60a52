"""The styles of a checkpoint: which one each picture of a request is painted in, and how captions say it.

    styles = Styles((Style("flat"), Style("3d", "3d", "things-3d.txt")), (None, ("cat", "sun")))
    styles.choose("a cat", place=0, index=1)  # Choice(style="3d", text="a 3d cat")
    styles.choose("two cats", place=0, index=1)  # Choice(style="flat", text="two cats")

A style is told in the text: a picture of "a 3d cat" is in 3d because the transformer was taught such captions. So a
style knows only captions of one thing alone, and only the things in its list. The pictures of a request go round the
styles that know its thing, from a place that the seed gives. Knows texts only: no tensors, tokens or files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model.config import Style
from model.errors import CheckpointError, InvalidRequest
from model.limits import shown

AUTO = "auto"  # the choice is the seed's
THINGS_BYTES = 2**20  # of a file of things
THING = 128  # characters of a thing's name
_ARTICLE = re.compile(r"(?:an?|the) (?=.)")
_WORD = re.compile(r"\w+")
_MADE = "(render|rendering|model|version|picture|image|drawing|emoji|icon)"  # "a 3d ... of a cat"


def bare(caption: str) -> str:
    """A caption without its article: "a cat" -> "cat", "the sun" -> "sun"."""
    found = _ARTICLE.match(caption)
    return caption[found.end() :] if found else caption


def _one(noun: str) -> str:
    """A noun with its article: "a cat", "an owl"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def styled(name: str, word: str) -> str:
    """The caption of a thing in a style, as training says it too: "cat", "3d" -> "a 3d cat"."""
    return _one(f"{word} {name}")


def rendered(caption: str, word: str) -> str:
    """The same in other words, which revisers say: "a cat", "3d" -> "a 3d render of a cat"."""
    return styled(f"render of {caption}", word)


@dataclass(frozen=True)
class Choice:
    """style: its name, "" for a checkpoint without styles. text: what is painted."""

    style: str
    text: str


@dataclass(frozen=True)
class Styles:
    """styles: of config.json. things: what each of them knows, in the order of its file; None: everything."""

    styles: tuple[Style, ...] = ()
    things: tuple[tuple[str, ...] | None, ...] = ()

    @classmethod
    def read(cls, styles: Sequence[Style], folder: Path, read: Callable[[str, int], bytes]) -> Styles:
        """These styles with what stands in their files. read: the bytes of a file by its name, so many at most.

        Raises CheckpointError naming the file and the line, and what `read` raises.
        """
        things = [
            parse_things(read(style.things, THINGS_BYTES), str(folder / style.things)) if style.things else None
            for style in styles
        ]
        return cls(tuple(styles), tuple(things))

    @property
    def names(self) -> tuple[str, ...]:
        """What a request may ask for beside "auto"."""
        return tuple(style.name for style in self.styles)

    @property
    def several(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.styles) > 1

    def check(self, style: str) -> None:
        """Raises InvalidRequest for the name of a style that the checkpoint does not have."""
        if style != AUTO and style not in self.names:
            allowed = (
                f"one of {', '.join((AUTO, *self.names))}" if self.styles else f"{AUTO} for a model without styles"
            )
            raise InvalidRequest("style", f"style must be {allowed}, got {shown(style)}")

    def asked_in(self, prompt: str) -> str:
        """The style whose word a prompt says anywhere ("a shiny 3D train" asks for 3d), or "auto"."""
        words = frozenset(_WORD.findall(prompt.lower()))
        return next((style.name for style in self.styles if style.word and style.word.lower() in words), AUTO)

    def wanted(self, prompt: str, style: str) -> str:
        """The style that a request asks for, or "auto". style: of its field; a word of the prompt counts more."""
        named = self.asked_in(prompt)
        return style if named == AUTO else named

    def missing(self, caption: str, style: str) -> str:
        """The style, where it cannot paint a caption that a reviser said; else ""."""
        return "" if style in ("", AUTO, self.choose(caption, style).style) else style

    def unstyled(self, prompt: str) -> str:
        """The prompt without the words of styles, unless nothing is left: "a 3d render of a cat" -> "a cat"."""
        text = prompt
        for word in (re.escape(style.word) for style in self.styles if style.word):
            text = re.sub(rf"(?i)(\b(an?|the) )?\b{word} {_MADE} of ", "", text)
            text = re.sub(rf"(?i)(,? ?\bin (a )?)?\b{word}\b( style\b)?", "", text)
        return " ".join(text.split()).strip(" ,") or prompt

    def knowing(self, caption: str) -> tuple[Style, ...]:
        """The styles in which the caption's thing can be painted; the first style where no other knows it."""
        thing = bare(caption)
        known = (self._knows(i, thing) for i in range(len(self.styles)))
        return tuple(style for style, knows in zip(self.styles, known, strict=True) if knows) or self.styles[:1]

    def choose(self, caption: str, style: str = AUTO, place: int = 0, index: int = 0, reworded: bool = True) -> Choice:
        """The style and the text of the picture `index` of a request.

        style: a style's name, which is taken where the style knows the caption's thing, or "auto". place: of the seed.
        reworded: whether a reviser said the caption. Where it did not, the text is somebody's own, and "auto" leaves it
        alone. A caption that names a style stays in it, whatever is asked for.
        """
        if not self.styles:
            return Choice("", caption)
        if own := self.named_in(caption):
            return Choice(own.name, caption)
        if style == AUTO and not reworded:
            return Choice(self.styles[0].name, caption)
        known = self.knowing(caption)
        if style == AUTO:
            chosen = known[(place + index) % len(known)]
        else:
            chosen = next((one for one in known if one.name == style), known[0])
        return Choice(chosen.name, styled(bare(caption), chosen.word) if chosen.word else caption)

    def named_in(self, caption: str) -> Style | None:
        """The style that a caption of a thing alone names: "a 3d cat" and "a 3d render of a cat" are in 3d."""
        found = self._read(caption)
        return found[0] if found else None

    def canonical(self, caption: str) -> str:
        """The caption as training says it: "a 3d render of a cat" -> "a 3d cat", where 3d knows the cat, else "a cat".

        A caption that names no style stays as it is.
        """
        if found := self._read(caption):
            return styled(found[1], found[0].word)
        for word in (style.word for style in self.styles if style.word):
            if caption.startswith(start := rendered("", word)):
                return caption.removeprefix(start)
            if caption.startswith(start := styled("", word)):
                return _one(caption.removeprefix(start))
        return caption

    def without(self, caption: str) -> str:
        """The caption in no style: "a 3d cat" -> "a cat", for a prompt that asks for none."""
        found = self._read(caption)
        return _one(found[1]) if found else caption

    def _read(self, caption: str) -> tuple[Style, str] | None:
        """The style that a caption names and the thing, which the style knows."""
        for at, style in enumerate(self.styles):
            for start in (rendered("", style.word), styled("", style.word)) if style.word else ():
                thing = bare(caption.removeprefix(start))
                if caption.startswith(start) and self._knows(at, thing):
                    return style, thing
        return None

    def _knows(self, at: int, thing: str) -> bool:
        known = self._known[at]
        return known is None or thing in known

    @cached_property
    def _known(self) -> tuple[frozenset[str] | None, ...]:
        return tuple(None if things is None else frozenset(things) for things in self.things)


NO_STYLES = Styles()


def parse_things(data: bytes, where: str) -> tuple[str, ...]:
    """The names in a file of things, one a line: "cat", "red apple". where: names the file.

    Raises CheckpointError where it is no UTF-8, where a line is blank, has blanks around it or more than 128
    characters, cannot be printed or stands there twice, and where there is none.
    """
    try:
        lines = data.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise CheckpointError(f"{where}: not a list of things in UTF-8") from None
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line or line != line.strip() or len(line) > THING or not line.isprintable():
            what = f"the name of a thing of 1 to {THING} printable characters without blanks around it"
            raise CheckpointError(f"{where}: line {number} must be {what}, got {shown(line)}")
        if line in seen:
            raise CheckpointError(f"{where}: line {number} names {shown(line)} again")
        seen.add(line)
    return tuple(lines)


def things_file(things: Sequence[str]) -> bytes:
    """The opposite of `parse_things`."""
    return "".join(f"{thing}\n" for thing in things).encode()
