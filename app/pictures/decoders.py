"""A few processes that decode clients' pictures. Each is started when it is first needed, and is then kept.

A process can be ended at any time: when the request is cancelled, when a picture takes more processor time than any
ordinary one, or when the server ends. The next picture gets a new process. The server unpickles nothing that a decoder
answers, so that a hole in an image library is not a hole in the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Protocol

from app.pictures.decode import Upload
from app.pictures.decoder import ANSWER, ASKED, HEAD, PICTURE, unpack
from app.pictures.turns import Turns
from model.errors import Draining, InvalidRequest
from model.inference.cores import usable_cores

CPU_SECONDS = 5.0  # for a picture; the slowest ordinary picture of USUAL_PIXELS takes 1.5
USUAL_PIXELS = 1 << 24
FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP})  # signals that no picture causes
ROOT = Path(__file__).parents[2]
# An interpreter without start-up files, which take longer than Pillow. It can import what the server can import.
COMMAND = (
    "import sys; sys.path[:] = sys.argv[3:]; from app.pictures.decoder import main; "
    "main(int(sys.argv[1]), float(sys.argv[2]))"
)
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}  # or glibc keeps 80 MB after a large picture
log = logging.getLogger("dalle.pictures")


class Form(Protocol):
    """What a picture is made into: the config of a VAE is one."""

    @property
    def image_size(self) -> int:
        """Pixels a side."""

    @property
    def grid(self) -> int:
        """Cells a side."""


class Decoders:
    """The decoding processes. Use it on the event loop only.

    max_pixels: as in `read_upload`. processes: how many at most. seconds: of processor time for a picture.
    """

    def __init__(self, max_pixels: int, processes: int | None = None, seconds: float | None = None) -> None:
        self._max_pixels = max_pixels
        self.seconds = seconds or CPU_SECONDS * max(1.0, max_pixels / USUAL_PIXELS)
        # 2 on 2 cores, so that one slow picture holds nobody up; more than 8 would only take memory.
        self._turns = Turns(processes or min(8, max(2, usable_cores() // 2)))
        self._idle: list[Process] = []
        self._alive: set[Process] = set()
        self._closed = False

    async def decode(self, name: str, data: bytes, form: Form, client: str = "") -> Upload:
        """Decode the picture that was sent in the field `name`. form: what it becomes. client: clients take turns.

        Raises InvalidRequest if the data is not a picture, cannot be decoded, takes too long or crashes the decoder.
        Raises Draining after `close`. A cancellation kills the process.
        """
        self._check_open()
        async with self._turns.turn(client):
            ended = await self._try(name, data, form, self._idle.pop() if self._idle else None)
            if isinstance(ended, signal.Signals) and ended in FROM_OUTSIDE:
                ended = await self._try(name, data, form)
        if isinstance(ended, Upload):
            return ended
        if ended is signal.SIGPROF:
            most = f"at most {self.seconds:g} s of processor time"
            raise InvalidRequest(name, f"{name} must be a picture that takes {most} to decode, got one that takes more")
        found = f"one that ended its decoder ({ended.name})"
        raise InvalidRequest(name, f"{name} must be a picture that can be decoded, got {found}")

    async def close(self) -> None:
        """End all processes at once. Whoever waits for a picture gets Draining."""
        self._closed = True
        self._turns.refuse(Draining("the server is shutting down"))
        for process in list(self._alive):
            self._kill(process)
        await asyncio.gather(*(process.wait() for process in list(self._alive)))

    def _check_open(self) -> None:
        if self._closed:
            raise Draining("the server is shutting down")

    async def _try(self, name: str, data: bytes, form: Form, process: Process | None = None) -> Upload | signal.Signals:
        """Decode the picture. Returns the signal instead if one ended the process.

        Raises RuntimeError if the process ended by itself.
        """
        if process is None or process.returncode is not None:
            process = await self._start()
        try:
            upload = await self._ask(name, data, form, process)
            self._idle.append(process)
            return upload
        except InvalidRequest:
            self._idle.append(process)
            raise
        except (OSError, EOFError):  # the pipe has ended, and so does the process
            return await self._buried(process, len(data))
        except BaseException:  # nobody waits for the picture any more, or the answer is not valid
            self._kill(process)
            raise

    async def _buried(self, process: Process, size: int) -> signal.Signals:
        """The signal that ended the process. Raises RuntimeError if the process ended by itself."""
        try:
            status = await process.wait()  # a kill before this could hide the status
        except asyncio.CancelledError:
            self._kill(process)
            raise
        self._check_open()
        if status >= 0:
            raise RuntimeError(f"a decoder of pictures ended with status {status}")
        ended = signal.Signals(-status)
        log.warning("decoder %d was ended by %s at a picture of %d bytes", process.pid, ended.name, size)
        return ended

    async def _ask(self, name: str, data: bytes, form: Form, process: Process) -> Upload:
        side, grid = form.image_size, form.grid
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(ASKED.pack(len(data), side, grid))
        process.stdin.write(data)
        await process.stdin.drain()
        kind, size = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
        if size > PICTURE.size + side**2 * 3 + grid**2:
            raise ValueError(f"a decoder of pictures answers with {size} bytes")
        body = await process.stdout.readexactly(size)
        if kind == ANSWER:
            return unpack(body, side, grid)
        raise InvalidRequest(name, f"{name} {body.decode()}")

    async def _start(self) -> Process:
        given = (self._max_pixels, self.seconds)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-IS", "-c", COMMAND, *map(str, given), str(ROOT), *sys.path),
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, **GIVE_BACK},
        )
        if self._closed:
            self._kill(process)
            self._check_open()
        self._alive = {one for one in self._alive if one.returncode is None} | {process}
        return process

    def _kill(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            process.kill()
