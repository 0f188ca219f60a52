"""What was read of a data set, what could not be read, and what has no use: counted by kind, the first few named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain, islice

from model.limits import printable

NAMED = 5  # of each kind


@dataclass
class Report:
    """corrupt: unreadable items by kind. unused: items without a use by kind. named: the first few of each kind."""

    read: int = 0
    without_caption: int = 0
    corrupt: Counter[str] = field(default_factory=Counter)  # "picture", "text", "shard", "end of a shard", "list"
    unused: Counter[str] = field(default_factory=Counter)  # "text without a picture", "second picture of one name" ...
    named: dict[str, list[str]] = field(default_factory=dict)

    @property
    def undecodable(self) -> int:
        """The number of samples whose picture or text cannot be read."""
        return self.corrupt["picture"] + self.corrupt["text"]

    @property
    def names(self) -> list[str]:
        """The first few items that cannot be read."""
        return list(islice(chain.from_iterable(self.named[kind] for kind in self.corrupt if kind in self.named), NAMED))

    def note(self, kind: str, what: str) -> None:
        """Count an item that cannot be read."""
        self.corrupt[kind] += 1
        self._name(kind, what)

    def leave(self, kind: str, what: str) -> None:
        """Count an item without a use."""
        self.unused[kind] += 1
        self._name(kind, what)

    def _name(self, kind: str, what: str) -> None:
        names = self.named.setdefault(kind, [])
        if len(names) < NAMED:
            names.append(printable(what)[:300])

    def __str__(self) -> str:
        line = f"{self.read} pictures read, {self.without_caption} of them without a caption"
        if self.corrupt:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.corrupt.items())
            line += f"; {self.corrupt.total()} cannot be read and were left out ({kinds}): {', '.join(self.names)}"
        return line + (f"; unused: {self.told_unused()}" if self.unused else "")

    def told_unused(self) -> str:
        """The items without a use: "text without a picture 2 (a.txt, b.txt)"."""
        return ", ".join(f"{kind} {count} ({', '.join(self.named[kind])})" for kind, count in self.unused.items())
