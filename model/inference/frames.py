"""Frames: unfinished pictures that a request asked to see. They are painted here, or beside the steps.

    frames.ask(Frame("a", 0, 8, tokens, known))  # whenever so many rows are drawn
    frames.take()                                # [Partial("a", 0, 8, rgb)], now or later
    frames.forget("a", 0)                        # the picture is finished, or nobody wants it any more

`OwnFrames` paints every frame when it is taken. `ProcessFrames` never lets a token wait: another process, or for a GPU
a thread with a stream of its own, is given one frame at a time, and of frames that are late the newest of each picture
is painted. On a CPU that process has the lowest priority.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
import torch

from model.checkpoints.networks import AnyVAE
from model.inference.canvas import Canvas, measure_halo
from model.inference.events import Partial
from model.inference.image_codec import ImageCodec

REST = 9.0  # times the processor time of a frame, in which no other is sent: they take a tenth of a core at most
_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent's thread ends
Picture = tuple[str, int]  # the request's id, and the picture's index
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """A look at one unfinished picture.

    rows_done: rows of tokens that are drawn. tokens, known: little-endian int16 and bool for every cell; what is not
    known is covered.
    """

    request_id: str
    index: int
    rows_done: int
    tokens: bytes = field(repr=False)
    known: bytes = field(repr=False)

    @property
    def picture(self) -> Picture:
        """Which picture this is a look at."""
        return self.request_id, self.index


class Frames(Protocol):
    """What the engine asks for frames."""

    def ask(self, frame: Frame) -> None:
        """Want this frame. Later frames of a picture have more rows."""

    def take(self) -> list[Partial]:
        """The frames that are painted by now, in order. Does not wait for another process."""

    def forget(self, request_id: str, index: int | None = None) -> None:
        """No frame of this picture, or of all of the request's, is wanted any more."""


class OwnFrames:
    """Paints in this process, every frame."""

    def __init__(self, codec: ImageCodec) -> None:
        self._codec = codec
        self._halo: int | None = None
        self._measured = False
        self._canvases: dict[Picture, Canvas] = {}
        self._asked: list[Frame] = []

    def ask(self, frame: Frame) -> None:
        """As `Frames.ask`."""
        self._asked.append(frame)

    def take(self) -> list[Partial]:
        """As `Frames.take`. A frame that cannot be painted is left out; the finished picture will tell why."""
        painted = []
        asked, self._asked = self._asked, []
        for frame in asked:
            try:
                painted.append(Partial(frame.request_id, frame.index, frame.rows_done, self.paint(frame)))
            except Exception:
                log.exception("an unfinished picture could not be painted")
        return painted

    def forget(self, request_id: str, index: int | None = None) -> None:
        """As `Frames.forget`."""
        for picture in _of(self._canvases, request_id, index):
            del self._canvases[picture]
        self._asked = [frame for frame in self._asked if not _of([frame.picture], request_id, index)]

    @torch.inference_mode()
    def measure(self) -> None:
        """Measure the decoder's halo, unless that is done: two runs of the decoder."""
        if not self._measured:
            self._halo, self._measured = measure_halo(self._codec), True

    @torch.inference_mode()
    def paint(self, frame: Frame) -> bytes:
        """The picture's RGB bytes."""
        self.measure()
        canvas = self._canvases.setdefault(frame.picture, Canvas(self._codec, self._halo))
        tokens = torch.from_numpy(np.frombuffer(frame.tokens, "<i2").astype(np.int64))
        return canvas.show(tokens, torch.from_numpy(np.frombuffer(frame.known, np.bool_).copy()))


class ProcessFrames:
    """Has somebody else paint, over a connection that `serve` answers. Drops frames that are late.

    At most one frame is on its way, so that neither side ever waits while it sends. Even a process of the lowest
    priority takes time from the steps where there is no spare core. So it rests after each frame.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: dict[Picture, Frame] = {}  # the newest of each picture, the longest waiting picture first
        self._begun: set[Picture] = set()  # pictures of which a frame was sent
        self._forgotten: list[Picture] = []  # those of them whose canvas the process still has to drop
        self._sent: Picture | None = None  # the picture of the frame on its way
        self._next = 0.0  # when another may leave, in seconds of the monotonic clock
        self._wanted = False  # whether that frame is still wanted
        self._broken = False

    def ask(self, frame: Frame) -> None:
        """As `Frames.ask`."""
        self._waiting[frame.picture] = frame
        self._send()

    def take(self) -> list[Partial]:
        """As `Frames.take`."""
        painted: list[Partial] = []
        try:
            while self._sent is not None and self._connection.poll():
                partial, seconds = self._connection.recv()
                self._sent, self._next = None, time.monotonic() + REST * seconds
                if partial is not None and self._wanted:
                    painted.append(partial)
        except (EOFError, OSError):
            self._break()
        self._send()
        return painted

    def forget(self, request_id: str, index: int | None = None) -> None:
        """As `Frames.forget`."""
        for picture in _of(self._waiting, request_id, index):
            del self._waiting[picture]
        for picture in _of(self._begun, request_id, index):
            self._begun.remove(picture)
            self._forgotten.append(picture)
            if picture == self._sent:
                self._wanted = False

    def _send(self) -> None:
        if self._sent is not None or not self._waiting or self._broken or time.monotonic() < self._next:
            return
        picture = next(iter(self._waiting))
        frame, forgotten, self._forgotten = self._waiting.pop(picture), self._forgotten, []
        try:
            self._connection.send((frame, forgotten))
        except OSError:
            self._break()
        else:
            self._sent, self._wanted = picture, True
            self._begun.add(picture)

    def _break(self) -> None:
        """The process has ended: no unfinished pictures any more, and finished ones as before."""
        if not self._broken:
            log.error("the process that paints unfinished pictures has ended; streams show finished pictures only")
        self._broken, self._sent = True, None
        self._waiting.clear()


def _of(pictures: Iterable[Picture], request_id: str, index: int | None) -> list[Picture]:
    """Those of this request, or of them the one with this index."""
    return [picture for picture in pictures if picture[0] == request_id and index in (None, picture[1])]


def serve(connection: Connection, vae: AnyVAE, device: torch.device, narrow: bool = True) -> None:
    """Paint frames for a `ProcessFrames` until the connection ends. vae: on `device`. narrow: as in `ImageCodec`."""
    own = OwnFrames(ImageCodec(vae, device, narrow=narrow))
    own.measure()
    with contextlib.suppress(EOFError, OSError):
        while True:
            frame, forgotten = connection.recv()
            for picture in forgotten:
                own.forget(*picture)
            began = time.thread_time()
            own.ask(frame)
            partial = next(iter(own.take()), None)
            connection.send((partial, time.thread_time() - began))


def beside(vae: AnyVAE, device: torch.device) -> ProcessFrames:
    """Start a thread that paints: on a GPU, whose other streams it does not wait for. It ends with these frames.

    vae: on `device`.
    """
    ours, theirs = multiprocessing.Pipe()

    def paint() -> None:
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            serve(theirs, vae, device)

    threading.Thread(target=paint, name="frames", daemon=True).start()
    return ProcessFrames(ours)


def fork(vae: AnyVAE, narrow: bool) -> ProcessFrames | None:
    """Start the process that paints, as a fork of this one, so that it shares torch and the weights in memory.

    vae: on the CPU. narrow: as in `ImageCodec`. Call it before torch has computed anything here, as OpenMP's threads do
    not live on in a fork. Returns None where this system is not Linux, whose idle scheduling class is needed.
    """
    if sys.platform != "linux":
        return None
    ours, theirs = multiprocessing.Pipe()
    if os.fork():
        theirs.close()
        return ProcessFrames(ours)
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        keep = theirs.fileno()  # of all other files the parent's end must be seen by who reads them
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # a sandbox without it
            os.nice(19)
        torch.set_num_threads(1)
        serve(theirs, vae, torch.device("cpu"), narrow)
    finally:
        os._exit(0)
