"""Bounds how much longer a tokenizer file of the `tokenizers` library makes a text, before any text is given to it.

A short text could grow without bound else: a rule that replaces "a" by a million letters, or by "aa" forty times over.
The rules: tokenizers/src/normalizers, pre_tokenizers and decoders. Knows no other part of a file.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator
from typing import Any

from model.errors import CheckpointError
from model.limits import shown

MAX_RULES = 100  # of a file
MAX_GROWTH = 10_000  # times as long, by all rules together
MAX_ADDED = 100  # characters that are put before a text, or before each word
LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}  # of a Sequence


def check_growth(values: dict[str, Any], where: str) -> None:
    """Raises CheckpointError where the file's rules could make a text too long. values: of the JSON."""
    for part in LISTS:
        growth = math.prod(_growth(rule, f"{where}: {part}") for rule in _rules(values.get(part), part, where))
        if growth > MAX_GROWTH:
            told = f"must make a text at most {MAX_GROWTH:,} times as long, got {growth:,.0f} times"
            raise CheckpointError(f"{where}: {part} {told}")


def _rules(found: Any, part: str, where: str) -> Iterator[dict[str, Any]]:
    """The rules of a part, those of a Sequence one by one. What has another form is left to the library to refuse."""
    left, count = [found], 0
    while left:
        rule = left.pop()
        count += 1
        if count > MAX_RULES:
            raise CheckpointError(f"{where}: {part} must have at most {MAX_RULES} rules, got more")
        if isinstance(rule, dict):
            inside = rule.get(LISTS[part])
            left += inside[: MAX_RULES + 1] if isinstance(inside, list) else []
            yield rule


def _growth(rule: dict[str, Any], where: str) -> float:
    """How many times as long a rule makes a text at most."""
    for key in ("prepend", "prefix", "suffix", "replacement"):
        if isinstance(added := rule.get(key), str) and len(added) > MAX_ADDED:
            raise CheckpointError(f"{where}: {key} must have at most {MAX_ADDED} characters, got {len(added):,}")
    match rule:
        case {"type": "Replace", "content": str(content), "pattern": {"String": str(pattern)}}:
            return max(1.0, len(content) / max(len(pattern), 1))
        case {"type": "Replace", "content": str(content)}:
            return 1.0 + len(content)  # a pattern may match what is empty, between all letters
        case {"type": "ByteLevel"}:
            return 2.0  # a letter beyond ASCII becomes one for each of its bytes, of two bytes each
        case {"type": "Precompiled", "precompiled_charsmap": str(table)}:
            return _longest(table, where)
    return 1.0


def _longest(table: str, where: str) -> float:
    """The longest text that stands for one letter in sentencepiece's table: a trie of so many bytes, then the texts."""
    try:
        data = base64.b64decode(table)
    except (binascii.Error, ValueError):
        raise CheckpointError(f"{where}: precompiled_charsmap must be base64, got {shown(table)}") from None
    size = int.from_bytes(data[:4], "little")
    if not 0 < size <= len(data) - 4:
        raise CheckpointError(
            f"{where}: precompiled_charsmap must have a trie of 1 to {len(data) - 4} bytes, got {size}"
        )
    return max(1.0, float(max(map(len, data[4 + size :].split(b"\0")))))
