"""Which pages of other origins may ask: none, unless DALLE_CORS_ORIGINS names them.

Cookies play no part (keys travel in the Authorization header, which a page has to set itself), so credentials are never
allowed.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.responses import Response
from starlette.types import Scope

EXPOSED = (
    "X-Request-Id", "X-Seeds", "X-Scores", "X-Revised-Prompt", "X-Text-Truncated",
    "X-Should-Retry", "Idempotent-Replayed", "Server-Timing",
    "Retry-After",
)  # fmt: skip
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "*, Authorization",  # the one that * does not stand for
    "Access-Control-Max-Age": "600",
}


class Cors:
    """The headers that let pages of `origins`, such as "https://example.org", read answers."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def _origin(self, scope: Scope) -> bytes | None:
        """Of the page that asks, if it is one of the origins."""
        given = [value for name, value in scope["headers"] if name == b"origin"]
        return given[0] if len(given) == 1 and given[0] in self._origins else None

    def headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """To be added to whatever the request is answered with."""
        if not self._origins:
            return []
        added = [(b"vary", b"Origin")]
        if origin := self._origin(scope):
            added.append((b"access-control-allow-origin", origin))
            added.append((b"access-control-expose-headers", ", ".join(EXPOSED).encode()))
        return added

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a browser that asks whether a page of one of the origins may ask; None if this is no such."""
        asks = scope["method"] == "OPTIONS" and any(
            name == b"access-control-request-method" for name, _ in scope["headers"]
        )
        return Response(status_code=204, headers=PREFLIGHT) if asks and self._origin(scope) else None
