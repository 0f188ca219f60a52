"""Prompts that are classes, for a model that was taught numbered classes instead of texts. Imports no torch.

    ClassNames(1000, imagenet_names()).encode("golden retriever")  # [207]
    ClassNames(1000, imagenet_names()).encode("207")  # [207]

imagenet_classes.txt has the names of ImageNet-1k's classes (image-net.org, ILSVRC 2012), a class a line in the order of
their numbers, each with its synonyms.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import ClassVar

from model.errors import CheckpointError, InvalidRequest
from model.files import parse_json
from model.limits import shown
from model.texts import check_token_ids

MAX_NAMES = 512  # characters of a class's names
IMAGENET = 1000  # classes


@cache
def imagenet_names() -> tuple[str, ...]:
    """The names of each of the 1000 classes, with commas between synonyms; the first one is the usual one."""
    lines = files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return tuple(lines)


class ClassNames:
    """A prompt to its class's number, the only id; and back to its first name."""

    kind: ClassVar[str] = "classes"
    specials: ClassVar[int] = 0
    max_tokens: ClassVar[int] = 1

    def __init__(self, classes: int, names: Sequence[str] = ()) -> None:
        """names: of each class in turn, synonyms with commas between them; () where only numbers are known."""
        self.classes, self.names = classes, tuple(names)
        first: dict[str, set[int]] = {}  # first names, and lines as a whole
        other: dict[str, set[int]] = {}
        for number, line in enumerate(self.names):
            for i, name in enumerate(line.split(",")):
                (other if i else first).setdefault(_plain(name), set()).add(number)
            if "," in line:
                first.setdefault(_plain(line), set()).add(number)
        self._numbers = {**other, **first}  # "harp" is 594's first name, and one of 593's others

    @property
    def vocab_size(self) -> int:
        """Number of ids: the classes, and the one that stands for none."""
        return self.classes + 1

    @property
    def null(self) -> list[int]:
        """The prompt of the unconditional half of classifier-free guidance: no class."""
        return [self.classes]

    def encode(self, text: str, truncate: bool = False) -> list[int]:  # noqa: ARG002
        """The class that `text` names, by its number or one of its names in letters of any case. Nothing is truncated.

        Raises InvalidRequest for a text that names no class, or more than one.
        """
        plain = _plain(text)
        if plain.isascii() and plain.isdigit() and len(plain) <= 9 and int(plain) < self.classes:
            return [int(plain)]
        found = sorted(self._numbers.get(plain, ()))
        if len(found) > 1:
            told = f"{shown(text)} is a name of classes {' and '.join(map(str, found))}"
            raise InvalidRequest("text", f"text must name one class, and {told}: say the number")
        if not found:
            named = ', or a name of ImageNet\'s such as "golden retriever"' if self.names else ""
            asked = f"text must be a class, a number from 0 to {self.classes - 1}{named}"
            raise InvalidRequest("text", f"{asked}, as this model was taught classes and no texts, got {shown(text)}")
        return found

    def count(self, text: str) -> int:
        """1. Raises InvalidRequest as `encode` does."""
        return len(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The first name of each class, or its number; nothing for the id that stands for none.

        Raises InvalidRequest for an id outside the vocabulary.
        """
        check_token_ids(ids, self.vocab_size)
        return " ".join(self._name(i) for i in ids if i < self.classes)

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json."""
        values = {"classes": self.classes, "names": list(self.names)}
        return (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str = "tokenizer.json", max_tokens: int = 1) -> ClassNames:  # noqa: ARG003
        """The classes that `to_bytes` wrote. Raises CheckpointError naming the file and what is wrong with it."""
        values = parse_json(data, where)
        if not isinstance(values, dict) or values.keys() != {"classes", "names"}:
            raise CheckpointError(f'{where} must be an object with "classes" and "names"')
        classes, names = values["classes"], values["names"]
        if type(classes) is not int or not 1 <= classes < 2**20:
            raise CheckpointError(f"{where}: classes must be an integer from 1 to {2**20 - 1}, got {shown(classes)}")
        if not isinstance(names, list) or len(names) not in (0, classes):
            raise CheckpointError(f"{where}: names must be a list of {classes} names, or empty")
        for name in names:
            if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= MAX_NAMES:
                asked = f"a name must be a line of 1 to {MAX_NAMES} characters"
                raise CheckpointError(f"{where}: {asked}, got {shown(name)}")
        return cls(classes, names)

    def _name(self, number: int) -> str:
        return self.names[number].split(",")[0] if self.names else str(number)


def _plain(text: str) -> str:
    """In lower case, with single spaces."""
    return " ".join(text.lower().split())
