"""Links to pictures. Names cannot be guessed. Where API keys are asked for, a link is signed and valid for an hour."""

from __future__ import annotations

import hashlib
import hmac
import time

HOUR = 3600
DIGITS = 32  # of a signature, in hexadecimal


def sign(secret: bytes, name: str, until: int) -> str:
    """The signature that lets anybody fetch the picture until then (seconds since 1970)."""
    return hmac.new(secret, f"{name} {until}".encode(), hashlib.sha256).hexdigest()[:DIGITS]


def signed(secret: bytes, name: str) -> str:
    """The query of a link to the picture that is valid for an hour."""
    until = int(time.time()) + HOUR
    return f"?until={until}&signature={sign(secret, name, until)}"


def valid(secret: bytes, name: str, until: str, signature: str) -> bool:
    """Whether a link's query lets the picture be fetched now."""
    if not until.isascii() or not until.isdigit() or len(until) > 12 or not signature.isascii():
        return False
    return int(until) >= time.time() and hmac.compare_digest(signature, sign(secret, name, int(until)))
