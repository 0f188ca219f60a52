"""The packages that training needs and serving does not. They are imported where they are used.

`make serve` installs without them. What is missing is said in one line, with the command that installs it.
"""

from __future__ import annotations

from importlib.util import find_spec

from model.errors import DataError

TRAIN = ("matplotlib", "py3langid")
INSTALL = "`make train-deps` installs it"


def lacking(package: str) -> DataError:
    """The error for a package of the extra "train" that is not installed."""
    return DataError(f"training needs {package}, which is not installed; {INSTALL}")


def check_installed(*packages: str) -> None:
    """Raise DataError unless these packages, or all of the extra "train", are installed. Call it before long work."""
    for package in packages or TRAIN:
        if find_spec(package) is None:
            raise lacking(package)
