"""What a source of drawings is: the packages it needs, and a function that lists its drawings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from model.drawings.compose import Drawing

from .packages import Fetched, Package

Packages = Mapping[str, Fetched]  # by package name


@dataclass(frozen=True)
class Source:
    """read: lists the drawings, in an order that depends on the packages alone; licences are checked there.

    common: it belongs to the everyday selection too. needed: the corpus is not built without it.
    """

    name: str
    packages: tuple[Package, ...]
    read: Callable[[Packages], Iterator[Drawing]]
    common: bool = False
    needed: bool = False
    evaluation: bool = False
