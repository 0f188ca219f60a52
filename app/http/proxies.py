"""Requests that come through a proxy: the client that it names counts, if DALLE_TRUSTED_PROXIES names the proxy."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


class Proxies:
    """ASGI: uvicorn's reading of X-Forwarded-For and X-Forwarded-Proto, of which it takes what is an IP address.

    Of a chain of proxies the last address counts that is no trusted proxy's. In the state this leaves `proxied`:
    whether the connection is a trusted proxy's. trusted: networks.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        inner: Any = self._checked  # uvicorn has types of its own for ASGI
        self._forwarded: Any = ProxyHeadersMiddleware(inner, [*trusted])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note who is connected, and let uvicorn read whom the proxy names."""
        if scope["type"] == "http":
            peer = scope.get("client")
            proxied = peer is not None and peer[0] in self._forwarded.trusted_hosts
            scope["state"] = {**scope.get("state", {}), "proxied": proxied, "peer": peer}
        await self._forwarded(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is no address ("unknown", a client's own words that a proxy passed on) is neither logged nor counted."""
        if scope["type"] == "http" and scope["state"]["proxied"]:
            scope["client"] = _address(scope["client"]) or scope["state"]["peer"]
        await self._app(scope, receive, send)


def _address(client: tuple[str, int]) -> tuple[str, int] | None:
    host, port = client
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    # A zone ("fe80::1%eth0") can be any text.
    return None if getattr(found, "scope_id", None) is not None else (str(found), port)
