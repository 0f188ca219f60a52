"""SHA256SUMS: what a checkpoint's files must be, in the format that `sha256sum --check` reads too.

A file is read once, compared, and used from the very bytes that were compared.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from model.errors import CheckpointError

NAME = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")  # sums name files beside themselves, never a path


def digest(data: bytes) -> str:
    """SHA-256 of `data`, in hex."""
    return hashlib.sha256(data).hexdigest()


class Sums:
    """The sums of one folder. names: the files listed, in their order."""

    def __init__(self, folder: Path, sums: dict[str, str]) -> None:
        self.folder = folder
        self._sums = sums

    @property
    def names(self) -> list[str]:
        return list(self._sums)

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises CheckpointError if it is not listed, missing, or not what the sum says."""
        path = self.folder / name
        if name not in self._sums:
            raise CheckpointError(f"{path}: not listed in {NAME}")
        data = read_file(path)
        if digest(data) != self._sums[name]:
            found = f"{len(data)} bytes, SHA-256 {digest(data)[:12]}.., where {NAME} says {self._sums[name][:12]}.."
            raise CheckpointError(f"{path}: altered or cut short ({found})")
        return data


def read_file(path: Path) -> bytes:
    """The file's bytes. Raises CheckpointError naming it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def load(folder: Path) -> Sums:
    """The sums that stand in `folder`. Raises CheckpointError for a missing folder and a missing or malformed file."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
    path = folder / NAME
    try:
        lines = read_file(path).decode().splitlines()
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: not a list of SHA-256 sums") from None
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = LINE.fullmatch(line)
        if not match or match[2] in (".", "..") or match[2] in sums:
            raise CheckpointError(f"{path}: line {number} is no SHA-256 sum and file name, or names a file again")
        sums[match[2]] = match[1]
    return Sums(folder, sums)


def write(folder: Path) -> None:
    """Write the sums of every file that stands in `folder` now."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != NAME)
    lines = [f"{digest((folder / name).read_bytes())}  {name}\n" for name in names]
    write_file(folder / NAME, "".join(lines).encode())


def write_file(path: Path, data: bytes) -> None:
    """Write `data` and wait until it is on the disk, so that a rename that follows never shows a file cut short."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
