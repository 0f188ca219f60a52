"""A source of drawings: the packages that it needs, and a function that lists its drawings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from model.drawings.compose import Drawing

from .packages import Fetched, Package

Packages = Mapping[str, Fetched]  # by package name


@dataclass(frozen=True)
class Source:
    """A source of drawings.

    read: lists the drawings in an order that depends on the packages alone, and checks their licences. common: whether
    it is in the selection "common" too. needed: whether a corpus without it is an error. evaluation: whether it is for
    evaluation only.
    """

    name: str
    packages: tuple[Package, ...]
    read: Callable[[Packages], Iterator[Drawing]]
    common: bool = False
    needed: bool = False
    evaluation: bool = False
