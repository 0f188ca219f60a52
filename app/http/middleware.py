"""Gives every request an id, the security headers, a log line, its metrics, and an answer to any error.

It is plain ASGI, because Starlette's BaseHTTPMiddleware would hide from a route that its client has left. (FastAPI's
@app.middleware("http") makes one of that class.)
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.answers import Sender
from app.http.budget import Budget, Claim
from app.http.errors import Answer, answer, render
from app.http.metrics import Metrics
from model.errors import DalleError, Draining

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")  # an id of another form is replaced by a new one
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
QUIET = frozenset({"/healthz", "/livez", "/readyz", "/metrics"})  # probes: logged at level debug
log = logging.getLogger("dalle.http")


class Frontier:
    """ASGI middleware. Only `app.http.proxies` is around it.

    A front may have put `spent` into the state: the seconds since the request came to it.

    It adds to the state: `request_id`; `began`, in monotonic seconds; `log`, fields for the log line; `key`, which is
    empty until `app.http.keys` fills it; `claim`, the answer's share of the budget, which is given back at the end;
    `head`, whether only the headers are wanted.
    send_timeout: seconds that a client has to read each MiB of its answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        cross_origin: Callable[[ASGIApp], ASGIApp],
        budget: Budget,
        send_timeout: float,
    ) -> None:
        self._app = cross_origin(app)
        self._metrics = metrics
        self._cross_origin = cross_origin
        self._budget = budget
        self._send_timeout = send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic() - scope.get("state", {}).get("spent", 0.0)
        request_id = _request_id(scope)
        fields: dict[str, Any] = {}
        method = scope["method"]
        # HEAD is GET for the routes; the HTTP layer, which knows the true method, sends no body.
        scope = {**scope, "method": "GET" if method == "HEAD" else method}
        state: dict[str, Any] = scope.get("state", {})
        claim = Claim(self._budget, lambda: state["key"] or (scope["client"][0] if scope.get("client") else ""))
        state = {**state, "request_id": request_id, "began": began, "log": fields, "key": "", "claim": claim}
        state["head"] = method == "HEAD"
        scope["state"] = state
        sender = Sender(send, state.get("connection"), claim, self._send_timeout, method == "HEAD")
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = list(message.get("headers", []))
                names = {name for name, _ in given}
                caching = b"no-cache" if b"etag" in names else b"no-store"
                added = [*HEADERS, (b"cache-control", caching), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": given + [one for one in added if one[0] not in names]}
            await sender(message)

        def failed(error: BaseException) -> Answer:
            said = answer(error)
            fields["error"] = said.code
            self._metrics.error(said.code)
            return said

        try:
            try:
                await self._app(scope, receive, send_on)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and status and "connection" in state and not sender.cut:
                    await sender.give_up(Draining("the server is shutting down"))
                if sender.cut is None:
                    said = failed(_known(error, request_id))
                    if status:
                        raise  # the answer has begun; uvicorn then cuts the connection, so nobody takes it for complete
                    await self._cross_origin(render(said, scope["path"]))(scope, receive, send_on)
            await sender.end()
            if sender.cut is not None:
                status = failed(sender.cut).status
        finally:
            claim.close()
            seconds = time.monotonic() - began
            route = getattr(scope.get("route"), "path", "") or "other"
            self._metrics.answered(route, method, status, seconds)
            client = scope.get("client")
            line = {"id": request_id, "status": status, "ms": round(seconds * 1000, 1), **fields}
            line["client"] = client[0] if client else "-"
            level = logging.DEBUG if scope["path"] in QUIET and status < 500 else logging.INFO
            log.log(level, "%s %s", method[:16], scope["path"][:80], extra={"fields": line})


def _known(error: BaseException, request_id: str) -> BaseException:
    """The error itself, or Draining for a cancellation. An error that is not a DalleError is logged."""
    if isinstance(error, asyncio.CancelledError):  # uvicorn shuts down and waits no longer for this request
        return Draining("the server is shutting down")
    if not isinstance(error, DalleError):
        log.error("a fault of ours", exc_info=error, extra={"fields": {"id": request_id}})
    return error


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex
