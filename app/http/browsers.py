"""Keeps web pages of other origins from using this server, unless DALLE_CORS_ORIGINS names their origin.

A browser can reach every server that its machine can reach, also this one on 127.0.0.1. It sends there whatever a web
page asks it to. Three rules keep such pages out:

- A page may read answers only if its origin is named. `cross_origin` sees to that. The server uses no cookies, so
  credentials are never allowed.
- A page may send a form without any permission. It could not read the answer, but the server would paint. The browser
  tells where a request comes from in the headers Sec-Fetch-Site and Origin. `Browsers` refuses by these headers.
- A page can let its own name resolve to 127.0.0.1 (DNS rebinding). The browser then takes this server for the page's
  own server, and lets the page read answers. The header Host holds that name. `Browsers` refuses by this header.

Programs send neither Origin nor Sec-Fetch-Site, so they pass. A server with API keys does not need `Browsers`: a page
of another origin knows no key, and no browser adds one by itself.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.errors import ForeignHost, ForeignPage
from app.settings import DEFAULT_PORTS
from app.wording import shorten

ANY = "*"
EXPOSED = (
    "X-Request-Id", "X-Model", "X-Seeds", "X-Scores", "X-Revised-Prompt", "X-Revised-Prompts", "X-Styles",
    "X-Text-Truncated", "X-Prompt-Fit", "X-Prompt-Closest", "X-Missing-Style", "X-Should-Retry", "Idempotent-Replayed",
    "Server-Timing", "Retry-After", "Location", "ETag", "Content-Range",
)  # fmt: skip
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that change nothing here
OWN_SITES = frozenset({"same-origin", "none"})  # Sec-Fetch-Site of this server's pages and of typed addresses
HOST = re.compile(r"(?P<name>\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")


def cross_origin(origins: Collection[str]) -> Callable[[ASGIApp], ASGIApp]:
    """A function that wraps an application so that pages of `origins` may use it. "*" stands for every origin."""
    if not origins:
        return lambda app: app
    return functools.partial(
        CORSMiddleware,
        allow_origins=frozenset(origins),
        allow_methods=("DELETE", "GET", "HEAD", "POST"),
        allow_headers=(ANY,),
        allow_private_network=True,
        expose_headers=EXPOSED,
    )


class Browsers:
    """ASGI middleware that refuses requests of pages of other origins, and requests to another name than this server's.

    origins: pages of these origins may send requests. "*" stands for every origin.
    hosts: requests may be sent to these names, besides localhost and all IP addresses. "*.example.org" stands for all
    names below example.org, and "*" for every name. Without hosts the name is checked only on connections to a loopback
    address that are not a trusted proxy's.
    own_names: names of this machine, which are always allowed.

    Raises ForeignPage and ForeignHost.
    """

    def __init__(
        self, app: ASGIApp, origins: Collection[str], hosts: Collection[str], own_names: Collection[str]
    ) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._everywhere = bool(hosts)
        self._hosts = frozenset(name.lower().rstrip(".") for name in ("localhost", "*.localhost", *own_names, *hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the name in Host. If the method may change something, check the page that sends the request, too."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if self._everywhere or (_is_loopback(scope) and not scope["state"].get("proxied")):
                for host in headers.getlist("host"):
                    self._check_host(host)
            if scope["method"] not in SAFE:
                self._check_page(headers)
        await self._app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        parts = HOST.fullmatch(host)
        name = parts["name"].lower().removesuffix(".") if parts else ""
        if not host or ANY in self._hosts or name in self._hosts or _is_address(name.strip("[]")):
            return
        labels = name.split(".")
        if parts and any(".".join((ANY, *labels[place:])) in self._hosts for place in range(1, len(labels))):
            return
        raise ForeignHost(
            f"Host must be localhost, an IP address or a name that DALLE_ALLOWED_HOSTS allows, got {shorten(host)}"
        )

    def _check_page(self, headers: Headers) -> None:
        origins = headers.getlist("origin")
        if ANY in self._origins or (origins and self._origins.issuperset(origins)):
            return
        must_be = "this server's own or one that DALLE_CORS_ORIGINS names"
        if sites := headers.getlist("sec-fetch-site"):
            if not OWN_SITES.issuperset(sites):
                got = f"{shorten(', '.join(sites))} and Origin {', '.join(map(shorten, origins)) or 'left out'}"
                raise ForeignPage(f"Sec-Fetch-Site must be same-origin, or Origin {must_be}, got {got}")
            return
        for origin in origins:
            if not _same(origin, headers.get("host", "")):
                raise ForeignPage(f"Origin must be {must_be}, got {shorten(origin)}")


def _same(origin: str, host: str) -> bool:
    """Whether `origin` is the origin of the server that Host calls `host`, with http or https."""
    scheme, _, place = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme)
    return port is not None and place.removesuffix(port) == host.lower().removesuffix(port) != ""


def _is_loopback(scope: Scope) -> bool:
    """Whether the connection was made to an address that only this machine can reach."""
    server = scope.get("server")
    if not server or not _is_address(server[0]):  # a Unix socket
        return False
    address = ipaddress.ip_address(server[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _is_address(name: str) -> bool:
    """Whether `name` is an IP address. Nobody can let an address resolve to another machine."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
