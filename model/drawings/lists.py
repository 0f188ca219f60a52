"""Word lists in text files of a package. "[section]" begins a section, "#" a comment."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources


def lines(file: str, package: str = __package__) -> Iterator[tuple[str, str]]:
    """(section, line) for each line of a text file of a package. Comments and empty lines are left out."""
    section = ""
    for line in resources.files(package).joinpath(file).read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            yield section, line


@cache
def words(section: str, package: str = __package__) -> frozenset[str]:
    """The words of a section of the package's words.txt."""
    return frozenset(word for name, line in lines("words.txt", package) if name == section for word in line.split())
