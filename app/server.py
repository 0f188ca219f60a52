"""Runs the application under uvicorn, from the first socket to the exit status.

SIGTERM or SIGINT: not ready at once, accepted work is finished within the drain limit while new requests are told 503,
then the workers end and `serve` returns. A second signal fails what is left at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from app import logs
from app.checkpoint import ServedCheckpoint
from app.http.answers import Connection
from app.http.errors import Answer, render
from app.http.main import create_app
from app.http.middleware import HEADERS
from app.pool.port import Pool
from app.pool.worker_pool import WorkerPool
from app.settings import Settings
from model.errors import DalleError

KEEP_ALIVE = 75  # seconds that an idle connection is kept; above the usual 60 of proxies, so that they close first
SAME_SIGNAL = 1.0  # seconds within which a second signal is the first one again
UNSENT = 1 << 20  # bytes of a connection that the system keeps for a client who does not take them
FLUSH_SECONDS = 5  # for answers on their way after the drain
SIGNALS = (signal.SIGINT, signal.SIGTERM)
log = logging.getLogger("dalle.server")


class ServerFailed(DalleError):
    """The server could not start, or could not go on. The message is one line."""


class Server(uvicorn.Server):
    """uvicorn that drains the pool before it closes its sockets, and ends when the pool has given up."""

    def __init__(self, config: uvicorn.Config, pool: Pool, drain_seconds: float) -> None:
        super().__init__(config)
        self._pool = pool
        self._drain_seconds = drain_seconds
        self._draining: asyncio.Task[None] | None = None
        self._asked = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises a signal again once it has shut down, which would make the exit status -15; this does not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        logs.on_loop(loop)
        for number in SIGNALS:
            loop.add_signal_handler(number, self.begin_shutdown)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def begin_shutdown(self) -> None:
        """Drain, then end. Called again after a while: do not wait any longer. On the event loop only.

        A signal to a whole process group comes twice where a parent, GNU make for one, passes on what it gets.
        """
        now = time.monotonic()
        if self._draining is None:
            self._asked = now
            self._draining = asyncio.create_task(self._drain(self._drain_seconds))
        elif now - self._asked > SAME_SIGNAL:
            self._draining.cancel()
            self._draining = asyncio.create_task(self._drain(0))

    async def _drain(self, seconds: float) -> None:
        await self._pool.drain(seconds)
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s."""
        return bool(self._pool.fatal) or await super().on_tick(counter)


class Protocol(H11Protocol):
    """HTTP/1.1, whose answer to what is none has the form and the headers of all other answers."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002, uvicorn's name for it
        """Answer, and close the connection."""
        if self.cycle is None or not self.cycle.response_started:  # else the answer is under way, and is cut short
            said = render(Answer(400, "bad_request", "the request is not HTTP/1.1 that can be read"))
            headers = [*said.raw_headers, *HEADERS, (b"cache-control", b"no-store"), (b"connection", b"close")]
            lines = [b"HTTP/1.1 400 Bad Request", *(b"%b: %b" % header for header in headers), b"", bytes(said.body)]
            self.transport.write(b"\r\n".join(lines))
        self.transport.close()


def abortable(app: ASGIApp) -> ASGIApp:
    """The application, which finds in `scope["state"]["connection"]` what `app.http.answers` does with it.

    ASGI has no word for it: what a client does not read would be kept for it, and its socket open, until it leaves.
    """

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            scope["state"]["connection"] = Connection(cycle)
        await app(scope, receive, send)

    return outermost


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServerFailed naming the address."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # its connections inherit it
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ServerFailed(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


def serve(settings: Settings) -> None:
    """Serve until a signal ends it. Raises DalleError, one line, if it cannot start or go on.

    Where the log is JSON, the line is logged, and SystemExit is raised instead.
    """
    logs.configure(settings.log, settings.log_level)
    try:
        _serve(settings)
    except DalleError as error:
        if settings.log != "json":
            raise
        log.error("%s", error)
        sys.exit(1)


def _serve(settings: Settings) -> None:
    pool = WorkerPool(settings, ServedCheckpoint.read(settings.weights))
    config = uvicorn.Config(
        abortable(create_app(settings, pool)),
        loop="asyncio",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    listener = bind(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d, loading %s", f"[{host}]" if ":" in host else host, port, settings.weights)
    try:
        Server(config, pool, settings.drain).run(sockets=[listener])
    finally:
        pool.kill()
        gc.freeze()  # or the interpreter, on its way out, searches all that was imported for garbage: 0.2 s
    if pool.fatal:
        raise ServerFailed(pool.fatal)
    log.info("ended")
