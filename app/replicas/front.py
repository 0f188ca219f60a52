"""The front before the replicas. It passes requests on, and passes one on again if its replica dies. It knows no Ray.

A request gets its seed here. So the next replica paints the same pictures, bit for bit on machines that are alike. An
answer is passed on when it is complete. A stream of events is passed on event by event, and what was told before a
replica's death is not told again.

The front knows what each replica has to paint, and at which pace. A request goes to the one that will be done first. So
the forecast of that replica is the forecast of the whole. The bounds of the queue, the metrics, the readiness, the
drain and the API keys are those of all replicas together.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from app.http.body import BODY_SECONDS
from app.http.errors import Answer, BadHeader, BodyTooSlow, answer, render
from app.http.headers import timeout
from app.http.keys import Hook
from app.pool.job import late
from app.replicas.tally import Asked, Tally
from app.replicas.whole import Report, Whole
from app.settings import Settings
from model.errors import DalleError, Draining, WorkerFailed
from model.inference.requests import SEED_BITS

TIMES = 5  # replicas that a request may lose
LOOK = 1.0  # seconds between two looks at the replicas
LATE_SECONDS = 10.0  # that a replica has to say that a request is late
FLUSH_SECONDS = 5.0  # for the last answers, after the drain
PASSED_ON = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
STREAM = b"text/event-stream"
IDEMPOTENCY = b"idempotency-key"
JOBS = "/v1/jobs"
PROBES = ("/readyz", "/livez")
Message = MutableMapping[str, Any]
log = logging.getLogger("dalle.front")


class Replicas(Protocol):
    """What the front knows of the replicas."""

    def call(self, scope: dict[str, Any], body: bytes, replica: str) -> AsyncIterator[Message]:
        """Have this replica answer a request, or any if it is "" or has died; see `app.replicas.replica.Replica`."""

    async def reports(self) -> Sequence[Report]:
        """What every replica tells of itself. Raises TimeoutError."""

    async def drain(self, seconds: float) -> None:
        """Drain every replica."""

    async def let_in(self, hangups: int, keys: Mapping[str, Hook | None]) -> None:
        """Tell every replica the API keys."""

    def lost(self, error: Exception) -> bool:
        """Whether an error of `call` means that the replica is gone."""


class Front:
    """An ASGI application before replicas. Bodies are read up to the bound of uploads; a replica refuses the rest."""

    def __init__(self, replicas: Replicas, settings: Settings) -> None:
        self._replicas = replicas
        self._body_bytes = max(settings.max_body, settings.max_upload)
        self._deadline = settings.deadline
        self._tally = Tally(settings)
        self._whole = Whole(replicas.reports)
        self._keys: set[str] = set()  # Idempotency-Keys of requests in flight
        self._painting: set[asyncio.Task[Any]] = set()  # the tasks of requests that wait for pictures
        self._hangups = 0
        self._let_in: Mapping[str, Hook | None] = {}  # the API keys of the last hangup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        came = time.monotonic()
        try:
            body = await self._body(receive)
        except TimeoutError:
            await _refuse(BodyTooSlow(f"the body did not arrive within {BODY_SECONDS:g} s"), scope, send)
            return
        if body is None:
            return
        if said := await self._probe(scope["path"].rstrip("/")):
            await said(scope, receive, send)
            return
        wanted, client = await self._tally.read(scope, body), await self._tally.client(scope)
        if wanted.pictures and self._whole.draining:
            await _refuse(Draining("the server is shutting down and takes no more requests"), scope, send)
            return
        key, limit = _key(scope, client), self._limit(scope) if wanted.pictures else None
        with (
            self._noted(wanted),
            self._joining(key) as joins,
            self._tally.hold(replace(wanted, pictures=0) if joins else wanted, client) as elsewhere,
        ):
            state = {"seed": secrets.randbits(SEED_BITS), "elsewhere": replace(elsewhere, pace=self._whole.pace)}
            out = _Answer(send, self._changed)
            try:
                async with asyncio.timeout(None if limit is None else limit + LATE_SECONDS):
                    await self._pass_on(_passed_on(scope, state), body, wanted, key, came, out)
            except TimeoutError:
                await out.fail(late(limit), scope)

    async def drain(self, seconds: float) -> None:
        """Paint nothing more than what was accepted, and wait for that. After so many seconds the rest fails."""
        self._whole.draining = True
        if self._painting:
            await asyncio.wait(self._painting, timeout=seconds)
        if self._painting:
            await self._replicas.drain(0)
            await asyncio.wait(self._painting, timeout=FLUSH_SECONDS)

    async def let_in(self, keys: Mapping[str, Hook | None]) -> None:
        """Let these API keys in from now on, and no others."""
        self._hangups, self._let_in = self._hangups + 1, keys
        await self._replicas.let_in(self._hangups, keys)

    @contextmanager
    def _noted(self, wanted: Asked) -> Iterator[None]:
        """The drain waits for what this task does in the context, if that is to paint."""
        task = asyncio.current_task()
        if task is None or not wanted.pictures:
            yield
            return
        self._painting.add(task)
        try:
            yield
        finally:
            self._painting.discard(task)

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

    async def _pass_on(
        self, asked: dict[str, Any], body: bytes, wanted: Asked, key: str, came: float, out: _Answer
    ) -> None:
        for _ in range(TIMES):
            out.begin_again()
            asked["state"]["spent"] = time.monotonic() - came
            replica = self._whole.choose(wanted.model, wanted.pictures, key, self._tally.replicas)
            try:
                with self._tally.given(replica, wanted.pictures):
                    answering = self._replicas.call(asked, body, replica)
                    async with aclosing(answering) as messages:  # type: ignore[type-var]
                        async for message in messages:
                            await out.take(message)
                await out.end(asked["path"].rstrip("/"))
                return
            except Exception as error:
                if not self._replicas.lost(error):
                    raise
                self._whole.lose(replica)
                log.warning("a replica died; its request is given to another one")
        await out.fail(WorkerFailed("the replicas that painted this request died; it can be sent again"), asked)

    def _limit(self, scope: Scope) -> float:
        """The seconds that a request may take. If its header cannot be honoured, a replica refuses it."""
        try:
            return timeout(Request(scope), self._deadline) or self._deadline
        except BadHeader:
            return self._deadline

    async def _probe(self, path: str) -> Response | None:
        """The answer to a probe in the drain, or while no replica can answer it, because others are being started."""
        if path.endswith("/readyz") and self._whole.draining:
            return render(Answer(503, "not_ready", "the server is shutting down"))
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

    async def _live(self, receive: Receive, send: Send) -> None:
        """The lifespan protocol. Meanwhile it looks at the replicas."""
        watching = asyncio.create_task(self._watch())
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.shutdown":
                watching.cancel()
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # replicas come and go
                if any(report.hangups < self._hangups for report in await self._whole.reports()):
                    await self._replicas.let_in(self._hangups, self._let_in)  # one was starting at the hangup
            await asyncio.sleep(LOOK)

    async def _body(self, receive: Receive) -> bytes | None:
        """The body of the request, up to the bound. None if the client has left. Raises TimeoutError."""
        data, more = bytearray(), True
        async with asyncio.timeout(BODY_SECONDS):
            while more and len(data) <= self._body_bytes:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                data += message.get("body", b"")
                more = message.get("more_body", False)
        return bytes(data)


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

    async def fail(self, error: DalleError, scope: Scope) -> None:
        """No replica answers. Raises the error if a stream has begun, so that it is cut and has no end."""
        if self.streams:
            raise error
        await _refuse(error, scope, self.send)

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


async def _refuse(error: DalleError, scope: Scope, send: Send) -> None:
    await render(answer(error), scope["path"])(scope, _no_more, send)
