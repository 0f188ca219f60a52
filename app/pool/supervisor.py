"""Starts one worker process, talks to it over a pipe, and finds out how it ended.

One thread reads the pipe and another writes to it, so that a worker that is busy or hangs never blocks the event loop.
The supervisor kills a process that makes no step for too long. It knows messages and nothing of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from app import logs
from app.pool.cpu_wait import CpuWait
from app.pool.deaths import Cause, Death
from app.pool.early import EarlyWorker, ignore_signals, start
from app.pool.memory_kills import MemoryKills
from model.inference.messages import Heartbeat, Inbound, Ready, StartFailed, WorkerOptions

EXIT_SECONDS = 10.0  # from the end of a process's pipe to its own end; with a GPU or a core dump that takes seconds


def run_worker(connection: Connection, options: WorkerOptions, log: Literal["plain", "json"], log_level: str) -> None:
    """The main function of the worker process. It imports torch, which nothing else in `app` does.

    A terminal or `kill` may send a signal to the server and its workers together. The workers ignore it, because the
    server still needs them for the accepted work. It ends them afterwards.
    """
    ignore_signals()
    logs.configure(log, log_level)
    from model.inference import worker

    worker.run(connection, options)


class WorkerProcess:
    """A process that paints.

    on_message: called on the event loop with every message, until the process has ended.
    heartbeat_timeout: seconds without a step after which a process that was ready counts as hung. Seconds in which it
        waited for a processor do not count.
    start_timeout: seconds that it may take until it is ready.
    log, log_level: the server's settings.
    early: a process that was started already and takes this one's place; see `start_early`.

    ended: done once the process counts as dead. Its result is the death, or None if the exit status tells why.
    """

    def __init__(
        self,
        options: WorkerOptions,
        on_message: Callable[[Any], None],
        heartbeat_timeout: float,
        start_timeout: float,
        log: Literal["plain", "json"] = "plain",
        log_level: str = "info",
    ) -> None:
        self.options = options
        self.early: EarlyWorker | None = None
        self.ready: Ready | None = None
        self.start_failed: StartFailed | None = None
        self.ended: asyncio.Future[Death | None] = asyncio.get_running_loop().create_future()
        self.alive_at = time.monotonic()  # of the last step, or of the start
        self._ready_at: float | None = None
        self._memory_kills: MemoryKills | None = None
        self._on_message = on_message
        self._heartbeat_timeout = heartbeat_timeout
        self._start_timeout = start_timeout
        self._log = (log, log_level)
        self._outbox: queue.SimpleQueue[Inbound | None] = queue.SimpleQueue()
        self._process: BaseProcess | None = None

    @property
    def age(self) -> float:
        """Seconds since the last step, or since the start."""
        return time.monotonic() - self.alive_at

    @property
    def ready_seconds(self) -> float:
        """Seconds since the process became ready; 0.0 if it has not."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process as a new interpreter. A fork would inherit what the server holds, such as sockets."""
        self._memory_kills = MemoryKills()
        if self.early is not None:
            self._process, ours = self.early.process, self.early.connection
            with contextlib.suppress(OSError):  # it has died; that is found out as always
                ours.send((self.options, *self._log))
        else:
            ours = await self._start()
        self.alive_at = time.monotonic()
        loop = asyncio.get_running_loop()
        for target in (self._read, self._write):
            threading.Thread(target=target, args=(ours, loop), name=target.__name__, daemon=True).start()

    async def _start(self) -> Connection:
        """Start it, and return this side of its pipe."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=True)
        self._process = context.Process(
            target=run_worker,
            args=(theirs, self.options, *self._log),
            name=f"worker-{self.options.device}",
            daemon=True,
        )
        starting = asyncio.create_task(asyncio.to_thread(start, self._process))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:  # the server ends while the thread is at it
            await starting
            self.kill()
            raise
        theirs.close()  # so that the pipe ends when the process does
        return ours

    def send(self, message: Inbound) -> None:
        """Send a message without blocking. A message to a process that has ended is dropped."""
        self._outbox.put(message)

    async def watch(self, tick: float = 0.25) -> Death:
        """Wait until the process has died, and say how. A process that hangs is killed."""
        step, waits = self.alive_at, CpuWait(self.pid)
        while not self.ended.done():
            before = time.monotonic()
            await asyncio.wait({self.ended}, timeout=tick)
            late = time.monotonic() - before - tick
            limit = self._heartbeat_timeout if self.ready else self._start_timeout
            if self.alive_at != step:
                step, waits = self.alive_at, CpuWait(self.pid)
                continue
            stuck = min(self.age, waits.stuck(self.age))
            if stuck > limit and late < 1.0 and not self.ended.done():  # late: this process was stopped
                if self.ready:
                    self._end(Death(Cause.HANG, f"made no step for {self.age:.0f} s and was ended"))
                else:
                    self._end(Death(Cause.START, f"was not ready after {self.age:.0f} s and was ended"))
        death = self.ended.result()
        status = await asyncio.to_thread(self._reap, EXIT_SECONDS if death is None else 0.0)
        if death is not None:
            return death
        memory = self._memory_kills.since() if self._memory_kills and status == -signal.SIGKILL else ""
        return Death.by_status(status, self.ready is not None, memory)

    async def stop(self) -> None:
        """End the process by SIGKILL, and wait for its end.

        It has nothing to save, and an orderly exit with torch loaded takes a second, or several on a busy machine.
        """
        if self.pid is None:
            return
        self.kill()
        self._end(None)
        await asyncio.to_thread(self._reap, 0.0)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.pid is not None:
            self._process.kill()

    def _reap(self, seconds: float) -> int | None:
        """Wait `seconds` for the process to end, then kill it. Blocks, so it must not run on the event loop.

        Returns the exit status as `Process.exitcode` has it, or None if the process had to be killed here.
        """
        assert self._process is not None
        self._process.join(seconds)
        status = self._process.exitcode
        self._process.kill()
        self._process.join()
        return status

    def _end(self, death: Death | None) -> None:
        if not self.ended.done():
            self.ended.set_result(death)
        self._outbox.put(None)

    def _take(self, message: Any) -> None:
        if self.ended.done():
            return
        match message:
            case Ready():
                self.ready = message
                self.alive_at = self._ready_at = time.monotonic()
            case StartFailed():
                self.start_failed = message
                self._end(Death(Cause.START, f"could not start: {message.message}"))
                return
            case Heartbeat():
                self.alive_at = max(self.alive_at, message.time)
        self._on_message(message)

    def _read(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has closed
            try:
                while True:
                    loop.call_soon_threadsafe(self._take, connection.recv())
            except Exception:  # the pipe ended, was reset, or ended within a message
                loop.call_soon_threadsafe(self._end, None)

    def _write(self, connection: Connection, _loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (message := self._outbox.get()) is not None:
                connection.send(message)
