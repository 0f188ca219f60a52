"""Starts a worker's process before the server itself is loaded, so that both import what they need at the same time.

The process imports PyTorch and the engine, and then waits for its options. It ends if the pipe ends before they come.
"""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess


@dataclass(frozen=True)
class EarlyWorker:
    """A process that waits for the arguments of `run_worker`, which go through `connection`."""

    process: BaseProcess
    connection: Connection

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()


def start_early(name: str) -> EarlyWorker:
    """Start such a process. name: of the process, for a list of processes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=True)
    process = context.Process(target=wait_and_run, args=(theirs,), name=name, daemon=True)
    start(process)
    theirs.close()  # so that the pipe ends when the process does
    return EarlyWorker(process, ours)


def start(process: BaseProcess) -> None:
    """Start a process, in any thread. It inherits the thread's signal mask, so no SIGHUP ends it while it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """A terminal or `kill` may send a signal to the server and its workers together; the server ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def wait_and_run(connection: Connection) -> None:
    """The main function of the process."""
    ignore_signals()
    from model.inference import worker

    worker.preload()
    from app.pool.supervisor import run_worker

    try:
        arguments = connection.recv()
    except (EOFError, OSError):
        return  # the server could not start
    run_worker(connection, *arguments)
