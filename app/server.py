"""Runs the application under uvicorn, from the first socket to the exit status.

At SIGTERM or SIGINT the server drains. From then on /readyz and new requests are answered with 503. Accepted requests
are finished within the drain limit. Then the workers end and `serve` returns. At a second signal the remaining requests
fail at once.

At SIGHUP the file of API keys is read again. Without such a file the server drains and ends, unless it was started with
SIGHUP ignored, as by `nohup`. SIGHUP never shortens the drain limit.
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
from collections.abc import Awaitable, Callable, Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from app import logs
from app.http.answers import Connection
from app.http.connections import Acceptor, ConnectionLimiter, connection_limit, raise_descriptor_limit
from app.http.keys import Keys, read_keys
from app.http.main import create_app
from app.http.protocol import Protocol
from app.http.service import Service
from app.load_settings import unused_host
from app.pictures.decoders import Decoders
from app.pool.early import EarlyWorker
from app.pool.worker_pool import WorkerPool
from app.settings import Settings, SettingsError
from app.wording import shorten
from model.errors import DalleError

KEEP_ALIVE = 75  # seconds for which an idle connection is kept; proxies keep it for 60, so they close it first
SAME_SIGNAL = 1.0  # seconds within which a second signal counts as the first one
UNSENT = 1 << 20  # bytes that the system keeps for a client that does not read
FLUSH_SECONDS = 5  # for answers that are still being sent after the drain
SIGNALS = (signal.SIGINT, signal.SIGTERM)
log = logging.getLogger("dalle.server")


class ServerFailed(DalleError):
    """The server could not start, or could not go on. The message is one line."""


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
        self._drain_seconds = drain_seconds
        self._acceptor = Acceptor(
            listener, lambda: Protocol(config, self.server_state, self.lifespan.state, limiter), limiter
        )
        self._reload = reload
        self._reloading: set[asyncio.Task[None]] = set()
        self._draining: asyncio.Task[None] | None = None
        self._asked: float | None = None  # when SIGTERM or SIGINT came, monotonic

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
        loop = asyncio.get_running_loop()
        logs.on_loop(loop)
        handlers = dict.fromkeys(SIGNALS, self.begin_shutdown)
        if self._reload is not None or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handlers[signal.SIGHUP] = self.hang_up
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def begin_shutdown(self) -> None:
        """Drain, then end. A second call more than SAME_SIGNAL later ends the wait. Call it on the event loop only.

        One Ctrl-C may come twice, because a parent such as GNU make passes on the signal that it gets.
        """
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            self._begin_draining()
        elif now - self._asked > SAME_SIGNAL and self._draining is not None:
            self._draining.cancel()
            self._draining = asyncio.create_task(self._drain(0))

    def hang_up(self) -> None:
        """Reload the API keys, or drain. A SIGHUP during the drain does not cut it short."""
        if self._reload is None:
            self._begin_draining()
            return
        task = asyncio.ensure_future(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    def _begin_draining(self) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(self._drain_seconds))

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


def reloader(settings: Settings, keys: Keys) -> Callable[[], Awaitable[None]] | None:
    """A function that reads the file of API keys into `keys` again. None if the settings name no such file."""
    if settings.api_keys_file is None:
        return None
    one = asyncio.Lock()  # so that the last reading wins

    async def reload() -> None:
        async with one:
            try:
                known = await asyncio.to_thread(read_keys, settings)
            except SettingsError as error:
                log.error("SIGHUP: the API keys stay as they were: %s", error)
            else:
                keys.replace(known)
                log.info("SIGHUP: the API keys were read again, %d of them", len(known))

    return reload


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServerFailed, which names the address."""
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


def serve(settings: Settings, early: Sequence[EarlyWorker] = ()) -> None:
    """Serve until a signal ends the server. Raises DalleError with one line if it cannot start or go on.

    early: processes of workers that were started before this module was loaded.
    If the log is JSON, the line is logged and SystemExit is raised instead.
    """
    logs.configure(settings.log, settings.log_level)
    try:
        _serve(settings, early)
    except DalleError as error:
        if settings.log != "json":
            raise
        log.error("%s", error)
        sys.exit(1)


def _serve(settings: Settings, early: Sequence[EarlyWorker]) -> None:
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
        reload = reloader(settings, app.state.keys)
        Server(config, pool, service.decoders, settings.drain, listener, limiter, reload).run([listener])
    finally:
        logs.tell_repeated(at_once=True)
        pool.kill()
        gc.freeze()  # without it the interpreter searches all modules for garbage when it ends, which takes 0.2 s
    if pool.fatal:
        raise ServerFailed(pool.fatal)
    log.info("ended")
