"""The main function of a worker process: load a checkpoint, then step while there is work, answering over one pipe.

Torch is imported by `run`, not with this module: the OpenMP runtime reads its settings when it is loaded.

The process ends by itself when it is told to, when its work is done after Drain, when the pipe ends, and when its
parent dies, even in the middle of a step.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from model.errors import DalleError, InvalidRequest
from model.inference.cores import settle_threads, usable_cores
from model.inference.messages import Cancel, Drain, Heartbeat, Ready, StartFailed, Stop, Submit, WorkerOptions
from model.inference.sequence import DRAINING, INTERNAL_ERROR, INVALID_REQUEST, Event, Failed

if TYPE_CHECKING:
    from model.inference.engine import Engine

NICE = 10  # of a worker on the CPU: the HTTP process needs little, and goes before a step that takes every core
log = logging.getLogger(__name__)


def run(connection: Connection, options: WorkerOptions) -> None:
    """Serve one parent over `connection` until the end. Sends Ready or StartFailed first; see `messages`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
        if not options.device.startswith("cuda"):
            os.nice(NICE)  # of this thread and those that it starts, so before torch starts any
    _end_with_parent()
    settle_threads()
    try:
        engine, ready = start(options)
    except DalleError as error:
        _send(connection, [StartFailed(_one_line(error))])
        return
    except Exception as error:
        log.exception("the worker cannot start")
        _send(connection, [StartFailed(f"{type(error).__name__}: {_one_line(error)}", permanent=False)])
        return
    if _send(connection, [ready]):
        _Loop(connection, engine, options.heartbeat).run()


def start(options: WorkerOptions) -> tuple[Engine, Ready]:
    """Load and verify the checkpoint, build the engine, warm up.

    Raises CheckpointError, InvalidRequest for an option that cannot be honoured, and what torch raises when memory is
    short.
    """
    import torch

    from model.checkpoints import load
    from model.inference.devices import pick_device, pick_dtype
    from model.inference.engine import Engine

    began = time.monotonic()
    threads = options.threads or usable_cores()
    torch.set_num_threads(threads)
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    checkpoint = load(options.checkpoint)
    engine = Engine(checkpoint, slots=options.slots, device=device, dtype=dtype, strict=options.strict)
    loaded = time.monotonic()
    engine.warm_up()
    config = engine.config
    return engine, Ready(
        model=checkpoint.config.name,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        strict=options.strict,
        slots=options.slots,
        threads=threads,
        widths=engine.decoder.widths,
        parameters=sum(p.numel() for p in checkpoint.transformer.parameters()),
        cache_bytes=engine.decoder.cache.nbytes,
        load_seconds=loaded - began,
        warm_up_seconds=time.monotonic() - loaded,
        seconds_per_step=engine.stats().seconds_per_step,
        steps=config.steps,
        text_tokens=config.text_tokens,
        image_vocab=config.image_vocab,
        grid=config.grid,
        image_size=checkpoint.config.vae.image_size,
    )


class _Loop:
    """Messages in, steps, events out."""

    def __init__(self, connection: Connection, engine: Engine, heartbeat: float) -> None:
        self._connection = connection
        self._engine = engine
        self._heartbeat = heartbeat
        self._beaten = 0.0  # monotonic, of the last heartbeat
        self._draining = False
        self._stopped = False

    def run(self) -> None:
        """Until Stop, the end of the pipe, or the last event after Drain."""
        while not self._stopped and not (self._draining and not self._engine.has_work):
            came_round = time.monotonic()
            events = self._listen(0.0 if self._engine.has_work else self._heartbeat)
            if self._engine.has_work and not self._stopped:
                events += self._engine.step()
            outgoing: list[Event | Heartbeat] = [*events]
            if time.monotonic() - self._beaten >= self._heartbeat:
                self._beaten = time.monotonic()
                outgoing.append(Heartbeat(came_round, self._engine.stats()))
            if not _send(self._connection, outgoing):
                return

    def _listen(self, timeout: float) -> list[Event]:
        """Take all messages that are there, waiting for the first one at most `timeout` seconds. Returns refusals."""
        refused: list[Event] = []
        try:
            while not self._stopped and self._connection.poll(timeout):
                timeout = 0.0
                match self._connection.recv():
                    case Submit() as submit:
                        refused += self._submit(submit)
                    case Cancel(request_id):
                        self._engine.cancel(request_id)
                    case Drain():
                        self._draining = True
                    case Stop():
                        self._stopped = True
                    case other:
                        log.error("a message of an unknown kind was dropped: %s", type(other).__name__)
        except (EOFError, OSError):
            self._stopped = True
        return refused

    def _submit(self, submit: Submit) -> list[Event]:
        request = submit.request
        if self._draining:
            return [Failed(request.id, DRAINING, "the worker is shutting down")]
        try:
            self._engine.add(request, submit.deadline)
        except InvalidRequest as error:
            return [Failed(request.id, INVALID_REQUEST, _one_line(error), error.field)]
        except Exception:  # a request that breaks its own checks must not end its neighbours
            log.exception("request %s could not be checked", request.id)
            return [Failed(request.id, INTERNAL_ERROR, "the request could not be checked")]
        return []


def _send(connection: Connection, messages: Iterable[object]) -> bool:
    """False when nobody is there any more."""
    try:
        for message in messages:
            connection.send(message)
    except OSError:
        return False
    return True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _end_with_parent() -> None:
    """End this process when the one that started it dies, also in the middle of a step or of the start.

    A thread waits for the parent's sentinel. (PR_SET_PDEATHSIG would be no better: it fires when the thread that
    started the process ends, and a server starts its workers from threads.)
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
