"""Runs the application under uvicorn, from the first socket to the exit status.

When the server drains (see `app.signals`), /readyz and new requests are answered with 503. Accepted requests are
finished within the drain limit. Then the workers end and `serve` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from app import logs
from app.http.answers import Connection
from app.http.connections import Acceptor, ConnectionLimiter, connection_limit, raise_descriptor_limit
from app.http.keys import reloader
from app.http.listener import ServerFailed, bind
from app.http.main import create_app
from app.http.protocol import Protocol
from app.http.service import Service
from app.load_settings import unused_host
from app.pictures.decoders import Decoders
from app.pool.early import EarlyWorker
from app.pool.worker_pool import WorkerPool
from app.settings import Settings
from app.signals import Signals
from app.wording import shorten

KEEP_ALIVE = 75  # seconds for which an idle connection is kept; proxies keep it for 60, so they close it first
FLUSH_SECONDS = 5  # for answers that are still being sent after the drain
log = logging.getLogger("dalle.server")


class Server(uvicorn.Server):
    """uvicorn's server. It drains the pool before it closes its sockets, and ends when the pool has given up.

    listener: the listening socket. limiter: bounds the connections. reload: called at SIGHUP; if None, SIGHUP drains.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        pool: WorkerPool,
        decoders: Decoders,
        drain_seconds: float,
        listener: socket.socket,
        limiter: ConnectionLimiter,
        reload: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(config)
        self._pool = pool
        self._decoders = decoders
        self._acceptor = Acceptor(
            listener, lambda: Protocol(config, self.server_state, self.lifespan.state, limiter), limiter
        )
        self._signals = Signals(self._drain, drain_seconds, reload)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002, they are the acceptor's
        """Start the application, then accept."""
        await super().startup([])  # with sockets uvicorn would let asyncio accept, without a limit
        self._acceptor.open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and let the connections end."""
        self._acceptor.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals. uvicorn would raise SIGTERM again after the shutdown, and the exit status would not be 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        logs.on_loop(asyncio.get_running_loop())
        with self._signals.handled():
            yield

    async def _drain(self, seconds: float) -> None:
        # The decoders are closed at once: a request whose picture is still decoded would be refused by the pool anyway.
        await asyncio.gather(self._pool.drain(seconds), self._decoders.close())
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called every 0.1 s. Returns whether the server ends."""
        logs.tell_repeated()
        return bool(self._pool.fatal) or await super().on_tick(counter)


def abortable(app: ASGIApp) -> ASGIApp:
    """The application, with a `Connection` in `scope["state"]["connection"]`, which can disconnect a slow client.

    ASGI offers no way to do so. The server would keep an unread answer and its socket until the client leaves.
    """

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            scope["state"]["connection"] = Connection(cycle)
        await app(scope, receive, send)

    return outermost


def serve(settings: Settings, early: Sequence[EarlyWorker] = ()) -> None:
    """Serve until a signal ends the server. Raises DalleError with one line if it cannot start or go on.

    early: processes of workers that were started before this module was loaded.
    """
    logs.configure(settings.log, settings.log_level)
    pool = WorkerPool(settings, early=early)
    limit = connection_limit(raise_descriptor_limit(), len(settings.devices) * len(pool.models.served))
    app = create_app(settings, pool)
    service: Service = app.state.service
    config = uvicorn.Config(
        abortable(app),
        loop="asyncio",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # app.http.proxies reads them; uvicorn would trust every process on this machine
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    if (unused := unused_host(settings)) is not None:
        log.warning(
            "HOST must be an IP address or localhost, got %s; it is ignored, and DALLE_HOST takes names",
            shorten(unused),
        )
    listener = bind(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    weights = ", ".join(str(folder) for _, folder in settings.folders)
    log.info("listening on http://%s:%d, loading %s", f"[{host}]" if ":" in host else host, port, weights)
    try:
        limiter = ConnectionLimiter(limit, service.metrics.error)
        reload = reloader(settings, app.state.keys.let_in)
        Server(config, pool, service.decoders, settings.drain, listener, limiter, reload).run([listener])
    finally:
        logs.tell_repeated(at_once=True)
        pool.kill()
        gc.freeze()  # without it the interpreter searches all modules for garbage when it ends, which takes 0.2 s
    if pool.fatal:
        raise ServerFailed(pool.fatal)
    log.info("ended")
