"""Reads a model of sentencepiece (spiece.model) without its library. Imports no torch.

    model = read_model(data, "spiece.model")

The file is a message of Protocol Buffers, sentencepiece_model.proto of github.com/google/sentencepiece: fields one
after another, each with its number, its wire type and its value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from model.errors import CheckpointError
from model.limits import shown

_MADE = 256  # bytes that a character may become
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # kinds of pieces
_UNIGRAM = 1  # a kind of model
# Of the trainer and of the normaliser: field -> its name, what it is where it is left out, what it must be.
_TRAINER = {3: ("model_type", 1, _UNIGRAM), 24: ("treat_whitespace_as_suffix", 0, 0), 35: ("byte_fallback", 0, 0)}
_NORMALISER = {
    3: ("add_dummy_prefix", 1, 1),
    4: ("remove_extra_whitespaces", 1, 1),
    5: ("escape_whitespaces", 1, 1),
}


@dataclass(frozen=True)
class Pieces:
    """A unigram model. scores: of each piece, log-probabilities, in the order of their ids.

    charsmap: how texts are normalised, as sentencepiece compiles it; empty for not at all. special: ids of pieces that
    no text has.
    """

    scores: list[tuple[str, float]] = field(repr=False)
    charsmap: bytes = field(repr=False)
    special: frozenset[int]


def begins_model(head: bytes) -> bool:
    """Whether a file that begins so is a model: a piece stands first, with its text first."""
    return head[:1] == b"\n" and head[2:3] == b"\n" and len(head) > 4 and 0 < head[3] <= head[1] - 2 <= 125


def read_model(data: bytes, where: str) -> Pieces:
    """The model in these bytes. where: names the file.

    Raises CheckpointError for a file that is damaged, or of a kind that is not read here: BPE, pieces of bytes.
    """
    scores: list[tuple[str, float]] = []
    special: set[int] = set()
    charsmap = b""
    for number, value in _fields(data, where):
        if number == 1 and isinstance(value, bytes):
            piece, score, kind = _piece(value, where)
            if kind not in (_NORMAL, _UNKNOWN, _CONTROL):
                told = f"must be normal, unknown or control, got kind {kind}"
                raise CheckpointError(f"{where}: the piece {shown(piece)} {told}, which is not read here")
            if kind != _NORMAL:
                special.add(len(scores))
            scores.append((piece, score))
        elif number in (2, 3) and isinstance(value, bytes):
            values = dict(_fields(value, where))
            for key, (name, usual, wanted) in (_TRAINER if number == 2 else _NORMALISER).items():
                if values.get(key, usual) != wanted:
                    raise CheckpointError(f"{where}: {name} must be {wanted}, got {shown(values[key])}")
            found = values.get(2, b"") if number == 3 else b""
            charsmap = found if isinstance(found, bytes) and found else charsmap
    return Pieces(scores, charsmap, frozenset(special))


def check_charsmap(charsmap: bytes, where: str) -> None:
    """Raises CheckpointError for a table with which the `tokenizers` library would fail, or write without a bound.

    It is a trie, its size in front, and texts that end in a zero. A unit of the trie says where its children stand and
    whether the first one says where a text begins (github.com/s-yata/darts-clone).
    """
    if not charsmap:
        return
    size = int.from_bytes(charsmap[:4], "little")
    units = memoryview(charsmap)[4 : 4 + min(size, len(charsmap) - 4) // 4 * 4].cast("I")
    texts = charsmap[4 + size :].split(b"\0")
    begins = {0, *accumulate(len(text) + 1 for text in texts)}
    right = size == 4 * len(units) > 0 and all(len(text) <= _MADE and _is_utf8(text) for text in texts)

    def fits(place: int, unit: int) -> bool:
        if unit >> 31:
            return unit & 0x7FFFFFFF in begins
        children = place ^ (unit >> 10 << ((unit & 512) >> 6))
        return children | 255 < len(units) and (not unit & 256 or units[children] >> 31 == 1)

    if not (right and all(fits(place, unit) for place, unit in enumerate(units))):
        raise CheckpointError(f"{where}: its table of characters is damaged, or makes more than {_MADE} bytes of one")


def _piece(data: bytes, where: str) -> tuple[str, float, int]:
    values = dict(_fields(data, where))
    text, score, kind = values.get(1, b""), values.get(2, b"\0\0\0\0"), values.get(3, _NORMAL)
    if not (isinstance(text, bytes) and isinstance(score, bytes) and len(score) == 4 and isinstance(kind, int)):
        raise CheckpointError(f"{where}: damaged: a piece must have a text, a score and a kind")
    if not _is_utf8(text):
        raise CheckpointError(f"{where}: damaged: a piece must be a text in UTF-8, got {shown(str(text))}")
    return text.decode(), struct.unpack("<f", score)[0], kind


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message: an integer, or bytes, also those of a number of fixed size."""
    at = 0
    while at < len(data):
        tag, at = _integer(data, at, where)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _integer(data, at, where)
            yield number, value
            continue
        if kind == 2:
            size, at = _integer(data, at, where)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise CheckpointError(f"{where}: damaged, or no model of sentencepiece: a field of wire type {kind}")
        if size > len(data) - at:
            raise CheckpointError(
                f"{where}: cut short or damaged: a field of {size:,} bytes, {len(data) - at:,} are left"
            )
        yield number, data[at : at + size]
        at += size


def _integer(data: bytes, at: int, where: str) -> tuple[int, int]:
    """An integer of variable length, seven bits a byte, and where the next value begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise CheckpointError(f"{where}: cut short or damaged: an integer has no end")
