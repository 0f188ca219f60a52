"""Requests that come through a proxy. If DALLE_TRUSTED_PROXIES names it, the server believes what it says of the
client: its address, and how it calls this server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(:[0-9]{1,5})?")
PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class Proxies:
    """ASGI middleware. uvicorn reads X-Forwarded-For and X-Forwarded-Proto, and only IP addresses are taken.

    In a chain of proxies the client is the last address that is not a trusted proxy's. `proxied` in the state says
    whether the connection is a trusted proxy's. `outside` is the host and the path before all addresses, as the client
    calls them; "" where the proxy does not say it. trusted: the networks of trusted proxies.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        inner: Any = self._checked  # uvicorn has types of its own for ASGI
        self._forwarded: Any = ProxyHeadersMiddleware(inner, [*trusted])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the address of the connection. Then let uvicorn read the address that a proxy names."""
        if scope["type"] == "http":
            peer = scope.get("client")
            proxied = peer is not None and peer[0] in self._forwarded.trusted_hosts
            outside = _outside(Headers(scope=scope)) if proxied else ("", "")
            scope["state"] = {**scope.get("state", {}), "proxied": proxied, "peer": peer, "outside": outside}
        await self._forwarded(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the connection's address if the proxy names no IP address, but "unknown" or a client's own words."""
        if scope["type"] == "http" and scope["state"]["proxied"]:
            scope["client"] = _address(scope["client"]) or scope["state"]["peer"]
        await self._app(scope, receive, send)


def _outside(headers: Headers) -> tuple[str, str]:
    """What X-Forwarded-Host and X-Forwarded-Prefix say. Of a chain's values the first is the client's."""
    host = headers.get("x-forwarded-host", "").partition(",")[0].strip()
    prefix = headers.get("x-forwarded-prefix", "").partition(",")[0].strip().rstrip("/")
    return host if HOST.fullmatch(host) else "", prefix if PREFIX.fullmatch(prefix) else ""


def _address(client: tuple[str, int]) -> tuple[str, int] | None:
    host, port = client
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    # An address with a zone ("fe80::1%eth0") is not taken, because the zone can be any text.
    return None if getattr(found, "scope_id", None) is not None else (str(found), port)
