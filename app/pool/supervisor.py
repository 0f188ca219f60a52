"""One worker process from its start to its end, as the event loop sees it. Knows messages, and nothing of jobs.

A thread reads the pipe and one writes it: a worker in the middle of a step, or hung, never holds up the event loop.
However the process ends - by itself, killed, hung, or unable to start - `ended` says why, once.
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
from model.inference.messages import Heartbeat, Inbound, Ready, StartFailed, WorkerOptions

ENDED = "the worker process was ended"


def run_worker(connection: Connection, options: WorkerOptions, log: Literal["plain", "json"], log_level: str) -> None:
    """The main function of the process. torch is imported here and nowhere else in `app`.

    Signals of the terminal and of `kill` on the whole group are for the server: it drains, then it ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logs.configure(log, log_level)
    from model.inference import worker

    worker.run(connection, options)


def _start(process: BaseProcess) -> None:
    """Start a process, in a thread. It inherits the thread's mask: SIGHUP cannot end it before it is ignored there."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerProcess:
    """A process that paints.

    on_message: called on the event loop with every message, until the process has ended.
    heartbeat_timeout: seconds without a turn of the step loop after which it counts as hung; start_timeout: the same,
    until it is ready. log, log_level: as of the server.
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
        self.ready: Ready | None = None
        self.start_failed: StartFailed | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.alive_at = time.monotonic()  # when the step loop, or the start, was last known to get on
        self._on_message = on_message
        self._heartbeat_timeout = heartbeat_timeout
        self._start_timeout = start_timeout
        self._log = (log, log_level)
        self._outbox: queue.SimpleQueue[Inbound | None] = queue.SimpleQueue()
        self._process: BaseProcess | None = None

    @property
    def age(self) -> float:
        """Seconds since the step loop last came round."""
        return time.monotonic() - self.alive_at

    @property
    def pid(self) -> int | None:
        """Of the process, None before its start."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Spawn the process. A fresh interpreter, not a fork: nothing of the server is in it, sockets least of all."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=True)
        self._process = context.Process(
            target=run_worker,
            args=(theirs, self.options, *self._log),
            name=f"worker-{self.options.device}",
            daemon=True,
        )
        starting = asyncio.create_task(asyncio.to_thread(_start, self._process))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:  # the server ends while the thread is at it
            await starting
            self.kill()
            raise
        theirs.close()  # so that the pipe ends when the process does
        self.alive_at = time.monotonic()
        loop = asyncio.get_running_loop()
        for target in (self._read, self._write):
            threading.Thread(target=target, args=(ours, loop), name=target.__name__, daemon=True).start()

    def send(self, message: Inbound) -> None:
        """Never blocks; what is sent to a process that has ended is dropped."""
        self._outbox.put(message)

    async def watch(self, tick: float = 0.25) -> str:
        """Wait for the end and return its cause; a process that hangs is killed."""
        while not self.ended.done():
            before = time.monotonic()
            await asyncio.wait({self.ended}, timeout=tick)
            late = time.monotonic() - before - tick
            limit = self._heartbeat_timeout if self.ready else self._start_timeout
            if self.age > limit and late < 1.0 and not self.ended.done():  # late: it is we who were stopped
                what = "no step" if self.ready else "not ready"
                self._end(f"{what} after {self.age:.0f} s")
        cause = self.ended.result()
        code = await asyncio.to_thread(self._reap)
        if cause != ENDED or not code:
            return cause
        return f"{cause} by {signal.Signals(-code).name}" if code < 0 else f"{cause} with status {code}"

    async def stop(self) -> None:
        """End the process by a kill: what is in flight has been answered, and there is nothing else to save. The
        interpreter's own way out, with torch loaded, takes a second, and several on a busy machine."""
        if self.pid is None:
            return
        self.kill()
        self._end("stopped")
        await asyncio.to_thread(self._reap)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.pid is not None:
            self._process.kill()

    def _reap(self) -> int | None:
        """Whatever ended the pipe, leave no process behind. Returns the exit code. Blocks: not for the event loop."""
        assert self._process is not None
        self._process.join(0.5)
        self._process.kill()
        self._process.join()
        return self._process.exitcode

    def _end(self, cause: str) -> None:
        if not self.ended.done():
            self.ended.set_result(cause)
        self._outbox.put(None)

    def _take(self, message: Any) -> None:
        if self.ended.done():
            return
        match message:
            case Ready():
                self.ready = message
                self.alive_at = time.monotonic()
            case StartFailed():
                self.start_failed = message
                self._end(message.message)
                return
            case Heartbeat():
                self.alive_at = max(self.alive_at, message.time)
        self._on_message(message)

    def _read(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has closed
            try:
                while True:
                    loop.call_soon_threadsafe(self._take, connection.recv())
            except Exception:  # EOF, a reset pipe, or a message cut short: for us all the same
                loop.call_soon_threadsafe(self._end, ENDED)

    def _write(self, connection: Connection, _loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (message := self._outbox.get()) is not None:
                connection.send(message)
