"""What pages in a browser may do here. Those of other origins may do nothing, unless DALLE_CORS_ORIGINS names them.

A browser reaches whatever its machine reaches, this server on 127.0.0.1 too, and sends there what any page wants sent.
Three things keep such pages out:

- `cross_origin`: a page may read answers only if its origin is named. Cookies play no part, so credentials are never
  allowed.
- A page needs no permission to send a form, which would be painted although the page never sees the picture. `Browsers`
  refuses it by the headers in which the browser tells where a request comes from: Sec-Fetch-Site and Origin.
- A page can have its own name resolve to 127.0.0.1 (DNS rebinding). Then the browser takes this server for the page's
  own, and reads are open to it too. `Browsers` refuses by the name, which the header Host tells.

Programs send neither Origin nor Sec-Fetch-Site, and pass. `Browsers` is not needed where API keys are: a foreign page
knows no key, and no browser adds one by itself.
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
    "X-Request-Id", "X-Seeds", "X-Scores", "X-Revised-Prompt", "X-Text-Truncated",
    "X-Should-Retry", "Idempotent-Replayed", "Server-Timing",
    "Retry-After",
)  # fmt: skip
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that change nothing here
OWN_SITES = frozenset({"same-origin", "none"})  # Sec-Fetch-Site of our pages, and of what a person typed
HOST = re.compile(r"(?P<name>\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")


def cross_origin(origins: Collection[str]) -> Callable[[ASGIApp], ASGIApp]:
    """What wraps an application so that pages of `origins` may ask it; "*" stands for every origin."""
    if not origins:
        return lambda app: app
    return functools.partial(
        CORSMiddleware,
        allow_origins=frozenset(origins),
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=(ANY,),
        allow_private_network=True,
        expose_headers=EXPOSED,
    )


class Browsers:
    """ASGI: refuses what a page of a foreign origin sends, and requests to a foreign name.

    origins: whose pages may ask all the same; "*" for all. hosts: names beside localhost and all IP addresses that a
    request may be sent to, "*.example.org" for all below that name, "*" for any. Without hosts only connections to a
    loopback address are looked at, and those of trusted proxies are not. own_names: names of this machine.

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
        """Check the name that is asked, and of a request that may change something the page that sends it."""
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
    """Whether a page of `origin` is of the server that Host calls `host`. A proxy may have taken the TLS off."""
    scheme, _, place = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme)
    return port is not None and place.removesuffix(port) == host.lower().removesuffix(port) != ""


def _is_loopback(scope: Scope) -> bool:
    """Whether the connection was made to an address that only this machine reaches."""
    server = scope.get("server")
    if not server or not _is_address(server[0]):  # a Unix socket
        return False
    address = ipaddress.ip_address(server[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _is_address(name: str) -> bool:
    """An address is what it is: nobody can have it resolve to another."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
