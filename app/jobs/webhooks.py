"""Tells webhooks that a job has ended, as the Standard Webhooks specification says (standardwebhooks.com).

A message is signed, carries an id that is the same in every attempt, and is delivered at least once: it stays in the
store until a receiver has answered with a status of 2xx, over restarts too.

An address comes from a client, so it must not lead into the operator's own network. The name is resolved here, every
address that it has must be public, and the connection goes to one of these very addresses. A redirect is not followed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ipaddress
import json
import logging
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpcore
from standardwebhooks import Webhook

from app.addresses import read_address
from app.jobs.threads import Threads
from model.errors import InvalidRequest
from model.limits import shown

SECONDS = 5.0  # of one attempt, from the lookup of the name to the status
# Seconds before the next attempt: some 3 days in all. After the last one the message is given up.
PAUSES = (5.0, 60.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA has given to the public IPv6 internet,
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # but for addresses of IPv4 (RFC 6052)
log = logging.getLogger("dalle.webhooks")


class NotPublic(OSError):
    """The name of a webhook leads to an address that is not public."""


class _Network(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only. private: to others too."""

    def __init__(self, private: bool) -> None:
        self._private = private
        self._real = httpcore.AnyIOBackend()
        # Their own, since a lookup that hangs holds its thread for longer than an attempt takes.
        self._lookups = Threads(16, "lookup")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._lookups, lookup)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} has no address: {error}") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            if not self._private and not is_public(address):
                raise NotPublic(f"{host} leads to {address}, which is not a public address")
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore.ConnectError):
                return await self._real.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self._real.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    def close(self) -> None:
        """Look up no more names."""
        self._lookups.shutdown(wait=False)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Tried:
    """How an attempt ended. done: whether the message is settled. why: what the receiver answered, or the fault."""

    done: bool
    why: str


class Sender:
    """Sends messages. private: also to addresses that are not public, and by http. For tests and closed networks."""

    def __init__(self, private: bool = False) -> None:
        self._network = _Network(private)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=16,
            max_keepalive_connections=0,
            network_backend=self._network,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()
        self._network.close()

    async def send(self, url: str, secret: str, message_id: str, message: Mapping[str, Any]) -> Tried:
        """One attempt. A receiver that answers 410 wants no more of it, as the specification says."""
        body = json.dumps(message, ensure_ascii=False)
        now = datetime.now(UTC)
        headers: dict[bytes | str, bytes | str] = {
            "Content-Type": "application/json",
            "User-Agent": "dalle-server",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(message_id, now, body),
        }
        try:
            async with (
                asyncio.timeout(SECONDS),
                self._pool.stream("POST", url, headers=headers, content=body.encode()) as answer,
            ):  # the body of the answer is not read, and a redirect is not followed
                return Tried(200 <= answer.status < 300 or answer.status == 410, f"status {answer.status}")
        except TimeoutError:
            return Tried(False, f"no answer within {SECONDS:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            return Tried(False, str(error) or type(error).__name__)
        except UnicodeError:  # a part of the name has more than 63 characters, which no name can have
            return Tried(True, "its name cannot be looked up")


def pause(tries: int) -> float | None:
    """Seconds before the next attempt, after so many; None when the message is given up."""
    return PAUSES[tries - 1] if tries <= len(PAUSES) else None


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, whatever way it is written."""
    found: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if inner is None and found in NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None and not is_public(str(inner)):
            return False
        if found.ipv4_mapped:
            return True
        if found not in UNICAST and found not in NAT64:
            return False
    return found.is_global and not found.is_multicast


def check_url(url: str, private: bool) -> None:
    """Raises InvalidRequest unless a webhook may have this address. Names are resolved when a message is sent."""
    schemes = ("https", "http") if private else ("https",)
    parts = read_address(url, schemes)
    if parts is None or parts.username:
        allowed = " or ".join(schemes)
        raise InvalidRequest("webhook.url", f"webhook.url must be an address with {allowed}, got {shown(url)}")
    try:
        literal = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return
    if not private and not is_public(str(literal)):
        raise InvalidRequest("webhook.url", f"webhook.url must lead to a public address, got {shown(url)}")


def check_secret(secret: str) -> None:
    """Raises InvalidRequest unless the secret can sign: base64 of 24 to 64 bytes, after whsec_ or without it."""
    try:
        size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not 24 <= size <= 64:
        what = f"{size} bytes" if size else f"{len(secret)} characters that are no base64"
        raise InvalidRequest(
            "webhook.secret", f"webhook.secret must be whsec_ and 24 to 64 bytes in base64, got {what}"
        )
