"""Tells files apart by what they hold, never by their names.

    files = read_files(paths)  # with shapes in place of tensors, and without torch
    files = read_files(paths, Tensors().make)

A file that is nothing of the family is refused with what it is: a web page, a Git LFS pointer, an archive to unpack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from model.errors import CheckpointError
from model.files import opened
from model.importing.archives import (
    Make,
    Mapped,
    is_legacy,
    read_legacy,
    read_pickle,
    read_safetensors,
    read_zip,
    shapes,
)
from model.importing.files import Text, Weights
from model.importing.texts import read_text
from model.importing.wrappers import unwrapped

MAX_FILES = 64  # of one import
HEAD = 4096  # bytes looked at
AGAIN = "so the download went wrong; fetch the file itself"
UNPACK = "unpack it first"
# What a file begins with, and what it is.
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", f"a gzip archive; {UNPACK}"),
    (b"BZh", f"a bzip2 archive; {UNPACK}"),
    (b"\xfd7zXZ", f"an xz archive; {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"a zstd archive; {UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive; {UNPACK}"),
    (b"Rar!", f"a RAR archive; {UNPACK}"),
    (b"\x89HDF", "an HDF5 file (Keras), which is not read"),
    (b"\x93NUMPY", "a NumPy array, not a checkpoint"),
    (b"GGUF", "a GGUF file, which is not read"),
    (b"\x7fELF", "a program, not a checkpoint"),
    (b"\x89PNG", "a picture, not a checkpoint"),
    (b"\xff\xd8\xff", "a picture, not a checkpoint"),
    (b"GIF8", "a picture, not a checkpoint"),
    (b"%PDF", "a PDF document, not a checkpoint"),
    (b"version https://git-lfs", "a Git LFS pointer, so the file itself was not fetched: `git lfs pull` fetches it"),
)


def read_files(paths: Sequence[Path], make: Make = shapes, compare: bool = False) -> list[Weights | Text]:
    """Every file, read safely. make: makes the tensors. compare: check the sums within zips, which reads them whole.

    Raises CheckpointError naming the file and what it is, where it is nothing that can be read.
    """
    if not 1 <= len(paths) <= MAX_FILES:
        raise CheckpointError(f"an import must have 1 to {MAX_FILES} files, got {len(paths)}")
    return [read(path, make, compare) for path in paths]


def read(path: Path, make: Make = shapes, compare: bool = False) -> Weights | Text:
    """One file; see `read_files`."""
    found = _read(path, make, compare)
    return replace(found, content=unwrapped(found.content)) if isinstance(found, Weights) else found


def _read(path: Path, make: Make, compare: bool) -> Weights | Text:
    with opened(path) as (file, size):
        head = file.read(HEAD)
    if not size:
        raise CheckpointError(f"{path}: the file is empty, 0 bytes")
    if size > 10 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:  # before what its length may be
        return read_safetensors(Mapped(path), make)
    _refuse(path, head, size)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return read_zip(Mapped(path), make, compare)
    if head[:1] == b"\x80" and head[1:2] in (b"\1", b"\2", b"\3", b"\4", b"\5"):
        mapped = Mapped(path)
        return read_legacy(mapped, make) if is_legacy(mapped) else read_pickle(mapped)
    if _is_old_pickle(path, head):
        return read_pickle(Mapped(path))
    return read_text(path)


def _refuse(path: Path, head: bytes, size: int) -> None:
    for magic, what in MAGIC:
        if head.startswith(magic):
            raise CheckpointError(f"{path}: {what}")
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path}: a tar archive, as torch wrote before 0.1.12 or made by hand; {UNPACK}")
    if not any(head):
        raise CheckpointError(f"{path}: {size:,} bytes that begin with {len(head):,} zeros, {AGAIN}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")) or b"<html" in text[:1024]:
        raise CheckpointError(f"{path}: an HTML page, {AGAIN}")
    if text.startswith(b"<"):
        raise CheckpointError(f"{path}: a server's answer in XML, {AGAIN}")


def _is_old_pickle(path: Path, head: bytes) -> bool:
    """Whether it is a pickle of protocol 0 or 1, which has no number in front: it ends in a full stop."""
    begins = head[:1] in b"(c]}l" and (head[:2] in (b"(d", b"(l", b"(c", b"(i", b"(S", b"(X") or head[:1] in b"c]}")
    if not begins or (head[:1] == b"c" and head.count(b"\n", 0, 300) < 2):
        return False
    with opened(path) as (file, size):
        file.seek(max(0, size - 2))
        return file.read().rstrip(b"\n").endswith(b".")
