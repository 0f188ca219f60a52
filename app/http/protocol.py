"""One connection: uvicorn's HTTP/1.1 with limits on the time that a client may take.

A connection is in the middle of a request from the end of the request's head to the end of its answer. At other times
it waits, and it may be closed to make room for others (see `app.http.connections`). While it waits, a clock runs:

    it was opened, or a head has begun        HEAD_SECONDS until the head is complete. After them the answer is 408. If
                                              no byte came, the connection is closed without an answer.
    it was answered before its body ended     HEAD_SECONDS for the rest of the body
    it was answered and sends nothing         uvicorn's timeout_keep_alive
    it was closed with an unread answer       uvicorn's timeout_keep_alive. It begins again when the client has read a
                                              part.
"""

from __future__ import annotations

import asyncio
import http
import logging
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from app.http.connections import ConnectionLimiter, reset
from app.http.errors import Answer, render
from app.http.framing import StrictConnection
from app.http.middleware import HEADERS

HEAD_SECONDS = 10.0
LEAVE_SECONDS = 2.0  # for the client to read an answer after which the connection is closed
HEAD_TOO_SLOW = "head_too_slow"
TOO_MANY = Answer(503, "too_many_connections", "too many connections are open", {"Retry-After": "5"})
log = logging.getLogger("dalle.http")


class Protocol(H11Protocol):
    """HTTP/1.1 on one connection of `limiter`. app_state: uvicorn's state of the application's lifespan."""

    conn: StrictConnection

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], limiter: ConnectionLimiter
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.conn = StrictConnection()
        self._limiter = limiter
        self._clock: asyncio.TimerHandle | None = None
        self._leaving = False

    @property
    def sending(self) -> bool:
        """Whether the client has not read all of its answer yet."""
        return self.transport.get_write_buffer_size() > 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take the connection in. If there are too many, close a waiting one instead, or refuse this one."""
        super().connection_made(transport)
        if self._limiter.too_many(len(self.connections)) and not self._limiter.make_room():
            log.warning("a connection was refused: every open connection has a request", extra={"seldom": True})
            self._hang_up(TOO_MANY)
        else:
            self._settle()

    def data_received(self, data: bytes) -> None:
        """Read the data. Data that comes after a last answer is thrown away."""
        if not self._leaving:
            super().data_received(data)
            self._settle()

    def on_response_complete(self) -> None:
        """Wait for the next request, or go on with one that has arrived already."""
        super().on_response_complete()
        self._settle()
        if self.transport.is_closing():
            self._await_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, because nothing has come for a while."""
        super().timeout_keep_alive_handler()
        self._await_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_clock()
        self._unset_keepalive_if_required()
        self._limiter.forget(self)

    def shutdown(self) -> None:
        """Close the connection because the server ends. An answer that has begun is sent first."""
        if self._leaving:
            self.transport.close()
        else:
            super().shutdown()

    def give_way(self) -> None:
        """Close the connection to make room. It must not be in the middle of a request."""
        self._limiter.forget(self)
        if self._leaving:
            self.transport.abort()
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002, uvicorn's name for it
        """Answer data that is not a valid request, and close the connection. No further data is read."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self._hang_up(*self.conn.refusal)
        else:  # another answer has begun, and is cut short
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing. A request for another protocol is answered as if it had not asked for one (RFC 9110, 7.8)."""

    def _settle(self) -> None:
        """Tell the limiter whether a request is in progress. Start a clock if none is."""
        if self._leaving or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._limiter.forget(self)
            self._stop_clock()
            return
        self._limiter.waits(self)
        if self.cycle is None or self.conn.unread:
            self._unset_keepalive_if_required()
            if self._clock is None:
                self._clock = self.loop.call_later(HEAD_SECONDS, self._too_slow)
            return
        self._stop_clock()
        if self.timeout_keep_alive_task is None:  # uvicorn stopped it when the end of a body came
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _too_slow(self) -> None:
        self._clock = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.unread:
            log.info("the head of a request did not arrive within %g s", HEAD_SECONDS, extra={"seldom": True})
            self._hang_up(Answer(408, HEAD_TOO_SLOW, f"the request's head did not arrive within {HEAD_SECONDS:g} s"))
        else:
            self.transport.close()

    def _await_reader(self, unread_before: int = 0) -> None:
        """Cut the connection if the client no longer reads its last answer. Check again later if it still reads."""
        unread = self.transport.get_write_buffer_size()
        if unread and unread == unread_before:
            reset(self.transport)
        elif unread:
            self._stop_clock()
            self._clock = self.loop.call_later(self.timeout_keep_alive, self._await_reader, unread)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _hang_up(self, said: Answer, path: str = "") -> None:
        """Answer, and close the connection when the client has closed its side, LEAVE_SECONDS later at most.

        It must not be closed at once. If bytes of the client were still unread, the kernel would reset the connection,
        and the client might never see the answer.
        """
        self._limiter.count(said.code)
        answer = render(said, path)
        phrase = http.HTTPStatus(answer.status_code).phrase
        headers = [*self.server_state.default_headers, *answer.raw_headers, *HEADERS]
        headers += [(b"cache-control", b"no-store"), (b"connection", b"close")]
        lines = [f"HTTP/1.1 {answer.status_code} {phrase}".encode(), *(b"%b: %b" % header for header in headers)]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        if self.transport.is_closing():  # the client has left
            return
        self.transport.write_eof()
        self._leaving = True
        if self.cycle is not None:  # if the application still waits for this request's body, it is told of the end
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._stop_clock()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self._clock = self.loop.call_later(LEAVE_SECONDS, self.transport.abort)
        self._limiter.leaves(self)
