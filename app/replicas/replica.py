"""A replica: the whole application, with its own worker processes, called without a socket. It knows nothing of Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

from app.http.keys import Hook, Keys
from app.http.main import create_app
from app.http.service import Service
from app.replicas.whole import Report
from app.settings import Settings
from model.errors import WorkerFailed

LOOK = 0.1  # seconds between looks whether the model is loaded
LEAVING_SECONDS = 5.0  # for the application to notice that the client has left
Message = MutableMapping[str, Any]


class Replica:
    """The application. Between `start` and `stop` it answers. name: of the replica among all."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._app = create_app(settings)
        self._service: Service = self._app.state.service
        self._running = AsyncExitStack()
        self._name = name
        self._hangups = 0

    async def start(self) -> None:
        """Load the model, and wait until it is loaded. Raises WorkerFailed if no worker can be started."""
        await self._running.enter_async_context(self._app.router.lifespan_context(self._app))
        while self._service.pool.not_ready() is not None:
            self.check_health()
            await asyncio.sleep(LOOK)

    async def stop(self) -> None:
        """Finish what was accepted, within the drain limit, and end the workers."""
        await self.drain(self._service.settings.drain)
        await self._running.aclose()

    async def drain(self, seconds: float) -> None:
        """Accept no more, and finish what was accepted. After so many seconds the rest fails."""
        await self._service.pool.drain(seconds)

    async def let_in(self, hangups: int, keys: Mapping[str, Hook | None]) -> None:
        """Let these API keys in from now on, and no others. hangups: which reading of the keys it is."""
        known: Keys = self._app.state.keys
        known.replace(keys)
        self._hangups = hangups

    def check_health(self) -> None:
        """Raises WorkerFailed if this replica can paint no more."""
        if self._service.pool.fatal:
            raise WorkerFailed(self._service.pool.fatal)

    def report(self) -> Report:
        """What it tells of itself."""
        pool = self._service.pool
        stats = pool.stats()
        names = ("", *pool.models.served, *pool.models.aliases)
        return Report(
            self._name,
            self._service.metrics.text().decode(),
            pool.not_ready(),
            frozenset(name for name in names if stats.models_loaded[pool.models.named(name or None)]),
            stats.pace,
            self._hangups,
        )

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Message]:
        """The ASGI messages that answer a request. If nobody reads them any more, the request is cancelled."""
        asked: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        left = asyncio.Event()
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        taken = asyncio.Semaphore(1)  # a message is made when the one before it is read

        async def receive() -> Message:
            if asked:
                return asked.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if not left.is_set():
                await taken.acquire()
                messages.put_nowait(message)

        async def run() -> None:
            try:
                await self._app(scope, receive, send)
            finally:
                messages.put_nowait(None)

        running = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                yield message
                taken.release()
            await running
        finally:
            left.set()
            taken.release()
            await asyncio.wait({running}, timeout=LEAVING_SECONDS)
            running.cancel()
