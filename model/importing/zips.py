"""The list of entries of a zip in which nothing is compressed, as torch.save writes it. Nothing is unpacked.

Every size and place is compared with the file. Format: PKWARE's APPNOTE 6.3, sections 4.3.7, 4.3.12 to 4.3.16, 4.5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from model.errors import CheckpointError
from model.limits import shown

DIRECTORY_BYTES = 2**26  # of the list of entries
MAX_ENTRIES = 200_000
COMMENT_BYTES = 65535  # that may follow the list


@dataclass(frozen=True)
class Entry:
    """A file in a zip. begin: where its bytes begin. size: in bytes. crc: CRC-32 of them, as the zip says."""

    name: str
    begin: int
    size: int
    crc: int


@dataclass(frozen=True)
class _Listed:
    name: str
    header: int  # where its own header begins
    size: int
    packed: int
    crc: int
    method: int  # 0: stored
    encrypted: bool


def entries(data: memoryview, where: str) -> dict[str, Entry]:
    """The entries by name. where: names the file.

    Raises CheckpointError for a zip that is damaged, compressed, encrypted, or something else than weights.
    """
    start, listed = _directory(data, where)
    for entry in listed:
        name = f"/{entry.name}"
        if "/code/" in name or name.endswith(("/constants.pkl", "/model.json")):
            raise CheckpointError(f"{where}: a TorchScript archive, which is a program and not weights; it is not read")
        if name.endswith(".npy"):
            raise CheckpointError(f"{where}: a NumPy archive (.npz), not a checkpoint")
    found: dict[str, Entry] = {}
    for entry in listed:
        if entry.name in found:
            raise CheckpointError(f"{where}: the zip has two entries {shown(entry.name)}")
        found[entry.name] = _place(data, entry, start, where)
    end = 0
    for entry in sorted(listed, key=lambda one: one.header):
        if entry.header < end:
            raise CheckpointError(f"{where}: a damaged zip: {shown(entry.name)} overlaps the entry before it")
        end = found[entry.name].begin + entry.size
    return found


def _directory(data: memoryview, where: str) -> tuple[int, list[_Listed]]:
    """Where the list begins, and what it lists."""
    size = len(data)
    tail = max(0, size - COMMENT_BYTES - 22)
    end = tail + bytes(data[tail:]).rfind(b"PK\5\6")
    if end < tail or end + 22 > size:
        raise CheckpointError(f"{where}: a zip that is cut short: its list of entries, at the end, is missing")
    count, length, start = struct.unpack("<HII", data[end + 10 : end + 20])
    if end >= 20 and bytes(data[end - 20 : end - 16]) == b"PK\6\7":  # zip64
        at = struct.unpack("<Q", data[end - 12 : end - 4])[0]
        if at + 56 > size or bytes(data[at : at + 4]) != b"PK\6\6":
            raise CheckpointError(f"{where}: a damaged zip: its list of entries is not where it says")
        count, length, start = struct.unpack("<QQQ", data[at + 32 : at + 56])
    if start + length > end:
        raise CheckpointError(f"{where}: a damaged zip, or one that is cut short: its list of entries is not whole")
    if length > DIRECTORY_BYTES or count > MAX_ENTRIES:
        raise CheckpointError(f"{where}: a zip must have at most {MAX_ENTRIES:,} entries, got {count:,}")
    listed: list[_Listed] = []
    at = start
    for _ in range(count):
        if at + 46 > start + length or bytes(data[at : at + 4]) != b"PK\1\2":
            raise CheckpointError(f"{where}: a damaged zip: its list of entries is cut short")
        flags, method, _, crc, packed, whole, n, m, k = struct.unpack("<HHIIIIHHH", data[at + 8 : at + 34])
        header = struct.unpack("<I", data[at + 42 : at + 46])[0]
        name = bytes(data[at + 46 : at + 46 + n]).decode("utf-8", "replace")
        whole, packed, header = _large(bytes(data[at + 46 + n : at + 46 + n + m]), whole, packed, header)
        listed.append(_Listed(name, header, whole, packed, crc, method, bool(flags & 1)))
        at += 46 + n + m + k
    return start, listed


def _large(extra: bytes, whole: int, packed: int, header: int) -> tuple[int, int, int]:
    """Sizes that stand in the zip64 field, where they are too large for their own."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        values = extra[at + 4 : at + 4 + length]
        if kind == 1:
            numbers: Iterator[int] = iter(struct.unpack(f"<{len(values) // 8}Q", values[: len(values) // 8 * 8]))
            whole = next(numbers, whole) if whole == 2**32 - 1 else whole
            packed = next(numbers, packed) if packed == 2**32 - 1 else packed
            header = next(numbers, header) if header == 2**32 - 1 else header
        at += 4 + length
    return whole, packed, header


def _place(data: memoryview, entry: _Listed, start: int, where: str) -> Entry:
    """Where the entry's bytes are. start: of the list, before which they end."""
    name, header = shown(entry.name), entry.header
    if entry.encrypted:
        raise CheckpointError(f"{where}: its entry {name} is encrypted")
    if entry.method != 0 or entry.packed != entry.size:
        told = (
            f"its entry {name} is compressed, {entry.packed:,} bytes of {entry.size:,}; torch.save compresses nothing"
        )
        raise CheckpointError(f"{where}: {told}")
    if header + 30 > start or bytes(data[header : header + 4]) != b"PK\3\4":
        raise CheckpointError(f"{where}: a damaged zip: {name} is not where it says")
    own, more = struct.unpack("<HH", data[header + 26 : header + 30])
    begin = header + 30 + own + more
    if begin + entry.size > start:
        told = f"{name} must have {entry.size:,} bytes, and the file has fewer"
        raise CheckpointError(f"{where}: a zip that is cut short or damaged: {told}")
    return Entry(entry.name, begin, entry.size, entry.crc)
