"""The paths of requests as clients send them: with the prefix of a proxy, with a slash too many.

    /dalle/v1/images/generations    with --root-path /dalle
    //v1/images/generations         from a base URL that ends in a slash
    /v1/images/generations/

are all /v1/images/generations to everything inside, API keys and errors among it. A page is not shown at an address
with a slash too many or too few, because its own addresses are relative to it. The browser is sent to the right one.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

SLASHES = re.compile(r"/{2,}")


class Paths:
    """ASGI middleware. root: the prefix, such as "/dalle", or "". Paths without it stay as they are: some proxies strip
    it.

    `moved` in the state is "", or where a page is that was asked for at another address, relative to that address.
    """

    def __init__(self, app: ASGIApp, root: str) -> None:
        self._app = app
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the prefix and superfluous slashes off the path."""
        if scope["type"] == "http":
            given = scope["path"]
            path = self._short(given)
            state = {**scope.get("state", {}), "moved": _moved(given, path)}
            scope = {**scope, "path": path, "raw_path": path.encode("utf-8", "surrogateescape"), "state": state}
        await self._app(scope, receive, send)

    def _short(self, given: str) -> str:
        path = SLASHES.sub("/", given)
        if self._root and (path == self._root or path.startswith(self._root + "/")):
            path = path[len(self._root) :] or "/"
        return path.rstrip("/") or "/"


def _moved(given: str, path: str) -> str:
    """Where the page at `path` is, relative to the address `given`. "" if relative addresses lead from `given` as they
    should.

    It is relative, so that a prefix that only the proxy knows stays: "/dalle" -> "dalle/", "/docs/" -> "../docs".
    """
    if path == "/":
        return "" if given.endswith("/") else given.rpartition("/")[2] + "/"
    return "../" * (len(given) - len(given.rstrip("/"))) + path.rpartition("/")[2] if given.endswith("/") else ""
