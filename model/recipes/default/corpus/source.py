"""A source of drawings: the packages that it needs, and a function that lists its drawings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from model.drawings.compose import Drawing

from .packages import Fetched, Package

Packages = Mapping[str, Fetched]  # by package name


@dataclass(frozen=True)
class Source:
    """read: lists the drawings, in an order that depends on the packages alone, and checks their licences.

    common: whether it is in the selection "common" too. needed: whether the corpus must not be built without it.
    evaluation: whether it is for evaluation only.
    """

    name: str
    packages: tuple[Package, ...]
    read: Callable[[Packages], Iterator[Drawing]]
    common: bool = False
    needed: bool = False
    evaluation: bool = False
