"""The front before the replicas. It passes requests on, and passes one on again if its replica dies. It knows no Ray.

A request gets its seed here. So the next replica paints the same pictures, bit for bit on machines that are alike. An
answer is passed on when it is complete. A stream of events is passed on event by event, and what was told before a
replica's death is not told again.

The bounds of the queue, the metrics and the readiness are those of all replicas together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Protocol

from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from app.http.errors import Answer, answer, render
from app.replicas.tally import Asked, Tally
from app.replicas.whole import Report, Whole
from app.settings import Settings
from model.errors import WorkerFailed
from model.inference.requests import SEED_BITS

TIMES = 5  # replicas that a request may lose
PASSED_ON = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
STREAM = b"text/event-stream"
IDEMPOTENCY = b"idempotency-key"
JOBS = "/v1/jobs"
PROBES = ("/readyz", "/livez")
Message = MutableMapping[str, Any]
log = logging.getLogger("dalle.front")


class Replicas(Protocol):
    """What the front knows of the replicas."""

    def call(self, scope: dict[str, Any], body: bytes, model: str, key: str) -> AsyncIterator[Message]:
        """Have a replica answer a request; see `app.replicas.replica.Replica.answer`.

        model: which the request names, "" for none. key: requests with the same one go to the same replica, unless it
        is "".
        """

    async def reports(self) -> Sequence[Report]:
        """What every replica tells of itself. Raises TimeoutError."""

    def lost(self, error: Exception) -> bool:
        """Whether an error of `call` means that the replica is gone."""


class Front:
    """An ASGI application before replicas. Bodies are read up to the bound of uploads; a replica refuses the rest."""

    def __init__(self, replicas: Replicas, settings: Settings) -> None:
        self._replicas = replicas
        self._body_bytes = max(settings.max_body, settings.max_upload)
        self._tally = Tally(settings)
        self._whole = Whole(replicas.reports)
        self._keys: set[str] = set()  # of requests in flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        body = await self._body(receive)
        if body is None:
            return
        if said := await self._probe(scope["path"].rstrip("/")):
            await said(scope, receive, send)
            return
        wanted, client = await self._tally.read(scope, body), await self._tally.client(scope)
        key = _key(scope, client)
        with (
            self._joining(key) as joins,
            self._tally.hold(replace(wanted, pictures=0) if joins else wanted, client) as (elsewhere),
        ):
            state = {"seed": secrets.randbits(SEED_BITS), "elsewhere": elsewhere}
            await self._pass_on(_passed_on(scope, state), body, wanted, key, _Answer(send, self._changed))

    @contextmanager
    def _joining(self, key: str) -> Iterator[bool]:
        """Whether a request with this key joins another one, and takes no places. It can be joined in this context."""
        joins = key in self._keys
        if joins or not key:
            yield joins
            return
        self._keys.add(key)
        try:
            yield False
        finally:
            self._keys.remove(key)

    async def _pass_on(self, asked: dict[str, Any], body: bytes, wanted: Asked, key: str, out: _Answer) -> None:
        for _ in range(TIMES):
            out.begin_again()
            try:
                answering = self._replicas.call(asked, body, wanted.model, key)
                async with aclosing(answering) as messages:  # type: ignore[type-var]
                    async for message in messages:
                        await out.take(message)
                await out.end(asked["path"].rstrip("/"))
                return
            except Exception as error:
                if not self._replicas.lost(error):
                    raise
                log.warning("a replica died; its request is given to another one")
        if out.streams:
            raise WorkerFailed("the replicas died one after another")  # the connection is cut: the stream has no end
        said = answer(WorkerFailed("the replicas that painted this request died; it can be sent again"))
        await render(said, asked["path"])(asked, _no_more, out.send)

    async def _probe(self, path: str) -> Response | None:
        """The answer to a probe while there is no replica that could answer it: others are being started."""
        if not path.endswith(PROBES) or await self._whole.reports():
            return None
        if path.endswith("/livez"):
            return PlainTextResponse("live")
        return render(Answer(503, "not_ready", "no replica runs; others are being started"))

    async def _changed(self, path: str, start: Message, body: bytes) -> tuple[Message, bytes]:
        """The answer of one replica, as one of the whole: its metrics, and whether it is ready."""
        if path.endswith("/metrics") and start["status"] == 200:
            body = await self._whole.metrics() or body
        elif path.endswith("/readyz") and start["status"] == 503:
            if any(report.not_ready is None for report in await self._whole.reports()):
                start, body = {**start, "status": 200}, b"ready"
        else:
            return start, body
        headers = [one for one in start["headers"] if one[0] != b"content-length"]
        return {**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]}, body

    async def _body(self, receive: Receive) -> bytes | None:
        """The body of the request. None if the client has left."""
        parts: list[bytes] = []
        more = True
        while more and sum(map(len, parts)) <= self._body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(parts)


def _passed_on(scope: Scope, state: dict[str, Any]) -> dict[str, Any]:
    """What a replica is told of a request."""
    asked: dict[str, Any] = {name: scope[name] for name in PASSED_ON if name in scope}
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    posts_job = scope["method"] == "POST" and scope["path"].rstrip("/").endswith(JOBS)
    if posts_job and not any(name == IDEMPOTENCY for name, _ in headers):
        headers.append((IDEMPOTENCY, secrets.token_hex(16).encode()))  # it makes one job, however often it is sent
    asked |= {"headers": headers, "state": state}
    return asked | {name: tuple(scope[name]) for name in ("client", "server") if scope.get(name)}


def _key(scope: Scope, client: str) -> str:
    """What requests that join one another have in common; "" without an Idempotency-Key."""
    key = dict(scope["headers"]).get(IDEMPOTENCY)
    return hashlib.sha256(client.encode() + b" " + bytes(key)).hexdigest() if key else ""


class _Answer:
    """What the client is sent of the answers of one or more replicas to its request. streams: whether it has begun.

    changed: makes of a whole answer, by its path, what is sent.
    """

    def __init__(self, send: Send, changed: Callable[[str, Message, bytes], Awaitable[tuple[Message, bytes]]]) -> None:
        self.streams = False
        self.send = send
        self._changed = changed
        self._told: set[str] = set()
        self._start: Message | None = None
        self._parts: list[bytes] = []

    def begin_again(self) -> None:
        """Forget what is not sent: another replica answers."""
        self._start, self._parts = None, []

    async def take(self, message: Message) -> None:
        """A message of a replica."""
        if message["type"] == "http.response.start":
            self._start = message
            kind = dict(message["headers"]).get(b"content-type", b"")
            if kind.startswith(STREAM) and not self.streams:
                self.streams = True
                await self.send(message)
            return
        self._parts.append(bytes(message.get("body", b"")))
        if self.streams:
            whole, end, rest = b"".join(self._parts).rpartition(b"\n\n")
            self._parts = [rest]
            for event in (whole + end).split(b"\n\n")[:-1]:
                await self._tell(event + b"\n\n")

    async def _tell(self, event: bytes) -> None:
        name = _name(event)
        if name is None or name not in self._told:
            await self.send({"type": "http.response.body", "body": event, "more_body": True})
        if name is not None:
            self._told.add(name)

    async def end(self, path: str) -> None:
        """The replica has answered all."""
        body = b"".join(self._parts)
        if not self.streams and self._start is not None:
            start, body = await self._changed(path, self._start, body)
            await self.send(start)
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


def _name(event: bytes) -> str | None:
    """Names an event that a second replica repeats, by its kind and its picture. None for what may be told twice."""
    for line in event.split(b"\n"):
        if line.startswith(b"data: {"):
            values = json.loads(line[6:])
            places = [values.get(key) for key in ("type", "index", "partial_image_index", "number")]
            return json.dumps(places) if any(place is not None for place in places[1:]) else None
    return None


async def _no_more() -> Message:
    """The body has been read."""
    return {"type": "http.disconnect"}


async def _live(receive: Receive, send: Send) -> None:
    """The lifespan protocol: nothing is to be done."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
