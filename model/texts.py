"""What every text tokenizer asks of a text, of ids and of the merges in its file. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model.errors import CheckpointError, InvalidRequest, PromptTooLong
from model.limits import shown


def check_unicode(text: str) -> None:
    """Raises InvalidRequest for a lone surrogate, which is no Unicode text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        message = f"text: character {error.start} is a lone surrogate ({found}), which is no Unicode text"
        raise InvalidRequest("text", message) from None


def check_length(tokens: int, max_tokens: int, truncate: bool) -> None:
    """Raises PromptTooLong with both numbers, unless the text is cut."""
    if tokens > max_tokens and not truncate:
        raise PromptTooLong(tokens, max_tokens)


def check_token_ids(ids: Sequence[int], size: int) -> None:
    """Raises InvalidRequest for an id that a vocabulary of `size` ids does not have."""
    for i in ids:
        if not 0 <= i < size:
            raise InvalidRequest("ids", f"ids: {i} is no token id; they go from 0 to {size - 1}")


def check_merges(found: Any, vocabulary: Mapping[str, int], where: str) -> list[tuple[str, str]]:
    """Pairs of tokens that make a third one. where: names the file and the place. Raises CheckpointError."""
    if not isinstance(found, list):
        raise CheckpointError(f"{where} must be a list, got {shown(found)}")
    merges: list[tuple[str, str]] = []
    for number, pair in enumerate(found):
        match pair:
            case [str(left), str(right)] if left in vocabulary and right in vocabulary and left + right in vocabulary:
                merges.append((left, right))
            case _:
                told = " and ".join(map(shown, pair)) if isinstance(pair, list) and len(pair) == 2 else shown(pair)
                raise CheckpointError(f"{where}: pair {number} must be two tokens that make a third one, got {told}")
    return merges
