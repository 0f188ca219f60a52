"""Files that somebody else made: only regular ones, of a bounded size, and JSON that means one thing only.

A checkpoint's folder may hold anything under the names that are read: a pipe, a device, a link to one, a file without
end. Nothing here waits for one or reads more than it was told to. Knows no tensors.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from model.errors import CheckpointError
from model.limits import one_line, shown

CODE = Path(__file__).parents[1]  # the clone, or the folder that a wheel was installed into
SHIPPED = Path("weights/default")  # the checkpoint that comes with the code
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def find(path: Path) -> Path:
    """`path` itself, or the shipped file or folder of that name, if it is weights/default and not below this folder.

    So the default weights have one name in every working directory.
    """
    is_shipped = path.parts[: len(SHIPPED.parts)] == SHIPPED.parts
    return CODE / path if is_shipped and not os.path.lexists(path) and os.path.lexists(CODE / path) else path


def check_folder(path: Path) -> None:
    """Raises CheckpointError where `path` is no folder, or one that nobody may look into."""
    with _told(path, "no such folder"):
        if not stat.S_ISDIR(path.stat().st_mode):
            raise CheckpointError(f"{path}: not a folder")
        os.scandir(path).close()


@contextlib.contextmanager
def opened(path: Path, at_most: int | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """The open file and its size in bytes. at_most: bytes that it may have.

    Raises CheckpointError naming it, also for what is read from it inside.
    """
    with _told(path, "no such file"):
        # Not blocking: the opening of a pipe would wait for somebody to write.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
                raise CheckpointError(f"{path} must be a regular file, got {kind}")
            if at_most is not None and found.st_size > at_most:
                raise CheckpointError(f"{path} must be at most {at_most:,} bytes, got {found.st_size:,}")
            with os.fdopen(handle, "rb", closefd=False) as file:
                yield file, found.st_size
        finally:
            os.close(handle)


def read_file(path: Path, at_most: int) -> bytes:
    """The file's bytes, `at_most` of them. Raises CheckpointError naming it."""
    with opened(path, at_most) as (file, size):
        data = file.read(size + 1) or b""  # one more, to see that it ends there
        if len(data) != size:
            raise CheckpointError(f"{path}: changed while it was read")
        return data


def parse_json(data: bytes, where: str) -> Any:
    """What the JSON text says. Raises CheckpointError where it is none, or names a key of an object twice.

    where: names the file. UTF-8 without a byte order mark; no NaN, no infinity, not even as a number too large.
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise CheckpointError(f"{where}: not JSON that is read here: it nests too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such too
        raise CheckpointError(f"{where}: not JSON: {one_line(error)}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} stands in one object twice")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is no finite number")
    return number


@contextlib.contextmanager
def _told(path: Path, missing: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path}: {missing}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise CheckpointError(f"{path}: too large for this machine's memory") from None
    except ValueError as error:  # a path with a NUL in it
        raise CheckpointError(f"{shown(str(path))}: cannot be read: {one_line(error)}") from None
