"""The two headers that steer a request: the time that it may take, and the key that names it."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request

from app.http.errors import BadHeader
from app.wording import shorten

TIMEOUT = "X-Request-Timeout"
IDEMPOTENCY = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,20})?")

# For the API's document.
PARAMETERS: list[dict[str, Any]] = [
    {
        "name": TIMEOUT,
        "in": "header",
        "description": "Seconds that the request may take, counted from its arrival. A request that takes longer gets "
        "504. The number is a decimal above 0, up to the server's own limit. Left out: the server's limit. A request "
        "that cannot be done in time, because too many are before it, gets 503 at once.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": IDEMPOTENCY,
        "in": "header",
        "description": "A name of your choice for this request, such as a UUID. The same request with the same name "
        "gets the pictures of the first one, while that runs and for 10 minutes after. The answer then has the header "
        "`Idempotent-Replayed: true`. Another request with the same name gets 409. A request that failed can be sent "
        "again.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]*$"},
    },
]


def one(request: Request, name: str) -> str | None:
    """The value of a header, or None if it is left out. Raises BadHeader if it is given more than once."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise BadHeader(name, f"{name} must be given once, got {len(values)} of them")
    return values[0] if values else None


def idempotency_key(request: Request) -> str | None:
    """The name that the client gives its request, or None. Raises BadHeader if it cannot be used."""
    allowed = "1 to 255 visible ASCII characters without spaces"
    value = one(request, IDEMPOTENCY)
    if value is not None and not KEY.fullmatch(value):
        found = f"{len(value)} characters" if len(value) > 255 else shorten(value) if value else "empty"
        raise BadHeader(IDEMPOTENCY, f"{IDEMPOTENCY} must be {allowed}, got {found}")
    return value


def timeout(request: Request, limit: float) -> float | None:
    """Seconds that the client gives its request, or None. Raises BadHeader unless above 0 and up to `limit`."""
    allowed = f"a number of seconds above 0, up to {limit:g}"
    value = one(request, TIMEOUT)
    if value is None:
        return None
    if not SECONDS.fullmatch(value) or not 0 < float(value) <= limit:
        raise BadHeader(TIMEOUT, f"{TIMEOUT} must be {allowed}, got {shorten(value) if value else 'empty'}")
    return float(value)
