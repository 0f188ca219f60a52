"""Reads addresses that this program sends requests to: of webhooks, and of a server that paints a file of prompts."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit


def read_address(url: str, schemes: Collection[str]) -> SplitResult | None:
    """The parts of an address with a host and one of these schemes; None if it is none."""
    if not url.isascii() or not url.isprintable():
        return None
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # a part of a name has 1 to 63 characters
        right = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if right else None
