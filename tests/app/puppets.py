"""Worker processes that do what a test tells them, and a pool over them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.pool.job import Job, Order
from app.pool.supervisor import WorkerProcess
from app.pool.worker_pool import WorkerPool
from app.settings import Settings
from model.errors import DalleError
from model.inference.events import Event, Finished, Painted
from model.inference.messages import Ready
from model.inference.requests import GenerationRequest, SamplingParams

READY = Ready(
    device="cpu", dtype="float32", products="float32", slots=4, threads=1, parameters=1,
    load_seconds=0.0, warm_up_seconds=0.0, seconds_per_step=0.5, steps=10, grid=16,
)  # fmt: skip
PLAIN = SamplingParams(seed=1)


def order_of(text: str = "a red apple", images: int = 1, params: SamplingParams = PLAIN, **more: Any) -> Order:
    """An order as the routes make it, without an id and token ids. more: other fields of Order."""
    return Order(text, GenerationRequest("", (), images, params), **{"began": time.monotonic(), **more})


class Puppet(WorkerProcess):
    """A worker without a process. started: all of them, in order. status: its exit status, once it died."""

    started: list[Puppet]
    status: int | None = None

    async def start(self) -> None:
        self.sent: list[Any] = []
        type(self).started.append(self)

    def send(self, message: Any) -> None:
        self.sent.append(message)

    async def stop(self) -> None:
        self.die()

    def kill(self) -> None:
        self.die()

    def _reap(self, seconds: float) -> int | None:  # noqa: ARG002, of a real process
        return self.status

    def die(self, status: int | None = -signal.SIGSEGV) -> None:
        self.status = status
        self._end(None)

    def say(self, *messages: Any) -> None:
        for message in messages:
            self._take(message)

    @property
    def requests(self) -> list[GenerationRequest]:
        return [message for message in self.sent if isinstance(message, GenerationRequest)]

    def paint(self, request: GenerationRequest, *indices: int) -> None:
        """Say that pictures are done; without indices all, and that the request is."""
        all_of_them = range(request.first_index, request.first_index + request.num_images)
        for index in indices or all_of_them:
            self.say(Painted(request.id, index, b"rgb", b"", 0.1))
        if not indices:
            self.say(Finished(request.id))


class Stage:
    """A pool over puppets."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self._known = 1

    @property
    def worker(self) -> Puppet:
        return Puppet.started[-1]

    async def next_worker(self) -> Puppet:
        """The replacement of the last worker, ready."""
        while len(Puppet.started) == self._known:
            await asyncio.sleep(0.001)
        self._known += 1
        self.worker.say(READY)
        return self.worker

    async def order(
        self, images: int = 1, seconds: float | None = None, client: str = "", guidance: float = 1.0
    ) -> Job:
        params = SamplingParams(seed=1, guidance=guidance)
        return await self.pool.submit(order_of(images=images, params=params, seconds=seconds, client=client))

    def outcomes(self) -> tuple[int, ...]:
        """Completed, failed, cancelled, expired; the ledger is checked."""
        stats = self.pool.stats()
        ended = (stats.completed, stats.failed, stats.cancelled, stats.expired)
        assert stats.accepted == sum(ended) + stats.in_flight
        return ended


async def read(job: Job) -> list[Event]:
    return [event async for event in job.join()]


async def fails(job: Job, kind: type[DalleError]) -> DalleError:
    with pytest.raises(kind) as caught:
        async with asyncio.timeout(60):
            await read(job)
    return caught.value


def player(weights: Path) -> Callable[..., None]:
    """play(scene, **settings): run an async scene on a stage whose first worker is ready."""

    @asynccontextmanager
    async def stage(ready: bool, settings: dict[str, Any]) -> AsyncIterator[Stage]:
        Puppet.started = []
        pool = WorkerPool(Settings(weights=weights, **settings), process=Puppet)
        await pool.start()
        while not Puppet.started:
            await asyncio.sleep(0)
        if ready:
            Puppet.started[0].say(READY)
        try:
            yield Stage(pool)
        finally:
            await pool.stop()

    def run(scene: Callable[[Stage], Coroutine[Any, Any, None]], ready: bool = True, **settings: Any) -> None:
        async def main() -> None:
            async with stage(ready, settings) as made, asyncio.timeout(120):
                await scene(made)

        asyncio.run(main())

    return run
