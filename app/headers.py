"""The headers by which a client steers a request, beside its body: how long it may take, and which key names it."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request

from app.errors import BadHeader
from app.schemas import shorten

TIMEOUT = "X-Request-Timeout"
SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")

# For the API's document.
PARAMETERS: list[dict[str, Any]] = [
    {
        "name": TIMEOUT,
        "in": "header",
        "description": "Seconds from the request's arrival after which it is given up, with 504: above 0, up to the "
        "server's own limit, which holds where this is left out. A request that could not be done in time, by what "
        "is before it, is refused at once, with 503.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
]


def one(request: Request, name: str, allowed: str) -> str | None:
    """The value of a header, None where it is left out. allowed: in words. Raises BadHeader if it is given twice."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise BadHeader(name, f"{name}: given {len(values)} times, and it must be {allowed}, once")
    return values[0] if values else None


def timeout(request: Request, limit: float) -> float | None:
    """Seconds that the client gives its request, None if it does not say: above 0, up to `limit`. Raises BadHeader."""
    allowed = f"a number of seconds above 0, up to {limit:g}"
    value = one(request, TIMEOUT, allowed)
    if value is None:
        return None
    if not SECONDS.fullmatch(value) or not 0 < float(value) <= limit:
        raise BadHeader(TIMEOUT, f"{TIMEOUT}: {shorten(value) if value else 'empty'}, and it must be {allowed}")
    return float(value)
