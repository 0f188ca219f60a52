"""Files that are written whole or not at all. What cannot be written is one line that names the file.

with whole(Path("state.pt")) as partial:
    torch.save(state, partial)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from model.errors import DataError


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Raises DataError naming `path` for a file of it that the system cannot write: a full disk, a file in the way."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to. The file gets the name `path` if the block ends without an error, and is removed otherwise.

    Raises DataError naming `path` where it cannot be written.
    """
    partial = path.with_name(f"partial-{path.name}")  # with its ending, by which some writers choose the format
    try:
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if partial.exists():
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
                partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file at once. Raises DataError naming it."""
    with whole(path) as partial:
        partial.write_bytes(data)
