"""The headers by which a client steers a request, beside its body: how long it may take, and which key names it."""

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
        "description": "Seconds from the request's arrival after which it is given up, with 504: in decimals, above 0, "
        "up to the server's own limit, which holds where this is left out. A request that could not be done in time, "
        "by what is before it, is refused at once, with 503.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": IDEMPOTENCY,
        "in": "header",
        "description": "A name of your choice for this request, such as a UUID. Sent again with the same fields and "
        "files, it joins the first one while that runs and gets its pictures for 10 minutes after; the answer then has "
        "the header `Idempotent-Replayed: true`. With others it is refused, with 409. What failed can be tried again.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]*$"},
    },
]


def one(request: Request, name: str, allowed: str) -> str | None:
    """The value of a header, None where it is left out. allowed: in words. Raises BadHeader if it is given twice."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise BadHeader(name, f"{name}: given {len(values)} times, and it must be {allowed}, once")
    return values[0] if values else None


def idempotency_key(request: Request) -> str | None:
    """The name that the client gives its request, None if it gives none. Raises BadHeader."""
    allowed = "1 to 255 visible ASCII characters, without spaces"
    value = one(request, IDEMPOTENCY, allowed)
    if value is not None and not KEY.fullmatch(value):
        found = f"{len(value)} characters" if len(value) > 255 else shorten(value) if value else "empty"
        raise BadHeader(IDEMPOTENCY, f"{IDEMPOTENCY}: {found}, and it must be {allowed}")
    return value


def timeout(request: Request, limit: float) -> float | None:
    """Seconds that the client gives its request, None if it does not say: above 0, up to `limit`. Raises BadHeader."""
    allowed = f"a number of seconds above 0, up to {limit:g}"
    value = one(request, TIMEOUT, allowed)
    if value is None:
        return None
    if not SECONDS.fullmatch(value) or not 0 < float(value) <= limit:
        raise BadHeader(TIMEOUT, f"{TIMEOUT}: {shorten(value) if value else 'empty'}, and it must be {allowed}")
    return float(value)
