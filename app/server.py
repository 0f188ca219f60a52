"""Runs the application under uvicorn, from the first socket to the exit status.

SIGTERM or SIGINT: not ready at once, accepted work is finished within the drain limit while new requests are told 503,
then the workers end and `serve` returns. A second signal fails what is left at once.

SIGHUP: the file of API keys is read again. Without such a file the server drains and ends, unless it was started with
SIGHUP ignored, as `nohup` does. SIGHUP never fails accepted work before its time.
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
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from app import logs
from app.checkpoint import ServedCheckpoint
from app.http.answers import Connection
from app.http.connections import Acceptor, ConnectionLimiter, connection_limit, raise_descriptor_limit
from app.http.keys import Keys, read_hashes
from app.http.main import create_app
from app.http.protocol import Protocol
from app.http.service import Service
from app.pictures.decoders import Decoders
from app.pool.worker_pool import WorkerPool
from app.settings import Settings, SettingsError, unused_host
from app.wording import shorten
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
    """uvicorn that drains the pool before it closes its sockets, and ends when the pool has given up.

    It takes connections from `listener` into `limiter`. reload: what SIGHUP does; None: it drains, as SIGTERM does.
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
        await super().startup([])  # or uvicorn would have asyncio accept, without a limit
        self._acceptor.open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and let the connections end."""
        self._acceptor.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises a signal again once it has shut down, which would make the exit status -15; this does not."""
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
        """Drain, then end. Called again after a while: do not wait any longer. On the event loop only.

        A signal to a whole process group comes twice where a parent, GNU make for one, passes on what it gets.
        """
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            self._begin_draining()
        elif now - self._asked > SAME_SIGNAL and self._draining is not None:
            self._draining.cancel()
            self._draining = asyncio.create_task(self._drain(0))

    def hang_up(self) -> None:
        """SIGHUP: reload, or drain. Never a second signal, which would cut short what still runs."""
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
        # What is still being decoded is no accepted request yet: the pool would refuse it.
        await asyncio.gather(self._pool.drain(seconds), self._decoders.close())
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s."""
        logs.tell_repeated()
        return bool(self._pool.fatal) or await super().on_tick(counter)


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


def reloader(settings: Settings, keys: Keys) -> Callable[[], Awaitable[None]] | None:
    """What reads the file of API keys into `keys` again; None where there is no such file."""
    if settings.api_keys_file is None:
        return None
    one = asyncio.Lock()  # so that what was read last is what holds

    async def reload() -> None:
        async with one:
            try:
                hashes = await asyncio.to_thread(read_hashes, settings)
            except SettingsError as error:
                log.error("SIGHUP: the API keys stay as they were: %s", error)
            else:
                keys.replace(hashes)
                log.info("SIGHUP: the API keys were read again, %d of them", len(hashes))

    return reload


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
    limit = connection_limit(raise_descriptor_limit(), len(settings.devices))
    pool = WorkerPool(settings, ServedCheckpoint.read(settings.weights))
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
        proxy_headers=False,  # uvicorn would trust whoever is on this machine: see app.http.proxies
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    if (unused := unused_host(settings)) is not None:
        log.warning(
            "HOST must be an IP address or localhost, got %s: not used; DALLE_HOST takes names", shorten(unused)
        )
    listener = bind(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d, loading %s", f"[{host}]" if ":" in host else host, port, settings.weights)
    try:
        limiter = ConnectionLimiter(limit, service.metrics.error)
        reload = reloader(settings, app.state.keys)
        Server(config, pool, service.decoders, settings.drain, listener, limiter, reload).run([listener])
    finally:
        logs.tell_repeated(at_once=True)
        pool.kill()
        gc.freeze()  # or the interpreter, on its way out, searches all that was imported for garbage: 0.2 s
    if pool.fatal:
        raise ServerFailed(pool.fatal)
    log.info("ended")
