"""From an order to files: submit, encode every picture as it is painted, and stop the moment the client leaves.

The request that a job was made for holds all its files until they are sent: it has taken room for them in the budget of
answers before the first one is made. One that joins the job, or comes again, waits for the end and holds one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import Receive

from app.http.album import File
from app.http.budget import Claim
from app.http.errors import ClientGone
from app.http.service import Service
from app.pictures.encode import PNG, Finish
from app.pictures.provenance import Provenance, forced_tokens, prompt_hash
from app.pool.job import Job, Reader
from model.config import CheckpointConfig
from model.inference.events import Painted

SPECIALS = 2  # <bos> and <eot> around the text


@dataclass(frozen=True)
class Wanted:
    """What a client wants of the pictures of its order.

    best: only so many, the best by their score; None for all. embed_prompt: the prompt itself in a PNG's text chunks.
    """

    finish: Finish = PNG
    best: int | None = None
    embed_prompt: bool = False


class Picture:
    """A picture to be sent. index: first_index of its order included. size: bytes of its file.

    make: the file, which somebody may hold. held: it, if this request does; claim: from which it was taken then.
    """

    def __init__(
        self,
        painted: Painted,
        size: int,
        make: Callable[[], Coroutine[Any, Any, File]],
        claim: Claim,
        held: File | None,
    ) -> None:
        self.index = painted.index
        self.score = painted.score
        self.size = size
        self._make = make
        self._claim = claim
        self._held = held

    async def file(self) -> File:
        """Its file, which whoever asks should let go soon."""
        return self._held or await self._make()

    def let_go(self) -> None:
        """Hold its file no longer."""
        if self._held is not None:
            self._held = None
            self._claim.give(self.size)


@dataclass(frozen=True)
class Painting:
    """An order, painted.

    pictures: in the order of their indices, or the best one first. tokens: of the text, of which `read` were read.
    queued, painted, encoded: seconds, one after another. revised: the text that was painted, if it is another than was
    sent; written: tokens that were drawn for it.
    """

    pictures: list[Picture]
    tokens: int
    read: int
    queued: float
    painted: float
    encoded: float  # of it, what was left to do after the last picture was painted
    revised: str | None = None
    written: int = 0


async def paint(service: Service, reader: Reader, receive: Receive, wanted: Wanted, claim: Claim) -> Painting:
    """The pictures of the reader's job. Raises what the job raises, and ClientGone when the client leaves first.

    receive: the ASGI channel of the request, whose body has been read: what comes now is the client's leaving. claim:
    takes room for the files, which stays taken until they are let go. Raises Overloaded when there is none in time.
    """
    collect = _collect_lazily if reader.joined else _collect
    working = asyncio.create_task(collect(reader, service, wanted, claim))
    leaving = asyncio.create_task(gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client left before its pictures were done")
        return working.result()
    finally:
        service.pool.leave(reader)
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})


async def gone(receive: Receive) -> None:
    """Wait until the client has left. A receive() is pending all the while, which is how the server notices."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _collect(reader: Reader, service: Service, wanted: Wanted, claim: Claim) -> Painting:
    """Wait for every picture of the job; each is encoded while the others are painted, unless only the best count."""
    job, album = reader.job, service.album(reader.job)
    bound = file_bound(service, wanted)
    painted: list[Painted] = []
    count = wanted.best or job.request.num_images
    room: asyncio.Task[None] | None = None
    encoding: dict[int, asyncio.Task[File]] = {}

    async def encode(picture: Painted, room: asyncio.Task[None]) -> File:
        await asyncio.shield(room)
        file = await album.file(picture.index, partial(finish, service, job, picture, wanted))
        claim.give(bound - len(file.data))
        return file

    def begin(picture: Painted) -> None:
        nonlocal room
        if room is None:  # for all of them at once: answers that hold some and wait for more could wait for each other
            room = asyncio.create_task(claim.take(count * bound, reader.deadline))
        encoding[picture.index] = asyncio.create_task(encode(picture, room))

    try:
        async for event in reader:
            if isinstance(event, Painted):
                painted.append(event)
                if wanted.best is None:
                    begin(event)
        painted = _sorted(painted, wanted)
        for picture in painted:
            if picture.index not in encoding:
                begin(picture)
        files = [await encoding[picture.index] for picture in painted]
    finally:
        for task in (room, *encoding.values()):
            if task is not None:
                task.cancel()
        await asyncio.gather(*filter(None, (room, *encoding.values())), return_exceptions=True)
        if not job.order.shared:
            album.close()
    pictures = [
        Picture(event, len(file.data), partial(finish, service, job, event, wanted), claim, file)
        for event, file in zip(painted, files, strict=True)
    ]
    return _painting(service, reader, pictures)


async def _collect_lazily(reader: Reader, service: Service, wanted: Wanted, claim: Claim) -> Painting:
    """Wait for the end of a job that others wait for, too. The files are made when they are sent, one after another."""
    job, album = reader.job, service.album(reader.job)
    painted = _sorted([event async for event in reader if isinstance(event, Painted)], wanted)
    bound = file_bound(service, wanted)
    await claim.take(bound, reader.deadline)

    def file(event: Painted) -> Coroutine[Any, Any, File]:
        return album.file(event.index, partial(finish, service, job, event, wanted))

    for event in painted:
        if event.index not in album.sizes:  # the first request has left before its time
            await file(event)
    sizes = [album.sizes[event.index] for event in painted]
    claim.give(bound - max(sizes))
    pictures = [
        Picture(event, size, partial(file, event), claim, None) for event, size in zip(painted, sizes, strict=True)
    ]
    return _painting(service, reader, pictures)


def _sorted(painted: list[Painted], wanted: Wanted) -> list[Painted]:
    """In the order of their indices, or if only some are wanted these, the best one first."""
    if wanted.best is None:
        return sorted(painted, key=lambda picture: picture.index)
    return sorted(painted, key=lambda picture: (-(picture.score or 0.0), picture.index))[: wanted.best]


def _painting(service: Service, reader: Reader, pictures: list[Picture]) -> Painting:
    job = reader.job
    queued, seconds = observe(service, job)
    encoded = time.monotonic() - max(job.ended or job.accepted, reader.since)
    revised = job.revised.text if job.revised else None
    return Painting(pictures, job.tokens, text_tokens(job), queued, seconds, encoded, revised, written_tokens(job))


def file_bound(service: Service, wanted: Wanted) -> int:
    """Bytes that the file of a picture hardly exceeds: its pixels uncompressed, and its texts."""
    side = wanted.finish.side or service.pool.checkpoint.config.vae.image_size
    return 3 * side**2 + side**2 // 64 + (64 << 10)


def text_tokens(job: Job) -> int:
    """Tokens of the sent text that the model reads."""
    return len(job.request.text_ids) - SPECIALS


def written_tokens(job: Job) -> int:
    """Tokens that the model drew to complete or revise it."""
    return job.revised.written if job.revised else 0


def observe(service: Service, job: Job) -> tuple[float, float]:
    """Count the seconds of a job that has ended, in the queue and in painting, once, and return them."""
    started, ended = job.started or job.accepted, job.ended or job.accepted
    if not job.observed:
        job.observed = True
        service.metrics.queue_seconds.observe(started - job.accepted)
        service.metrics.paint_seconds.observe(ended - started)
    return started - job.accepted, ended - started


async def finish(service: Service, job: Job, painted: Painted, wanted: Wanted) -> File:
    """Make the file of a picture, on another thread."""
    before = time.monotonic()
    config = service.pool.checkpoint.config
    texts = provenance(job, painted, config, wanted.embed_prompt).texts()
    file = await service.threads.run(wanted.finish.encode, painted.rgb, config.vae.image_size, texts)
    service.metrics.encode_seconds.observe(time.monotonic() - before)
    return File(file)


def provenance(job: Job, painted: Painted, config: CheckpointConfig, embed_prompt: bool) -> Provenance:
    """What the picture's file tells. Its prompt is the one that was painted."""
    request = job.request
    return Provenance(
        model=config.name,
        index=painted.index,
        params=request.params,
        prompt_hash=prompt_hash(job.prompt),
        prompt=job.prompt if embed_prompt else None,
        forced=None if request.keep is None else forced_tokens(painted.tokens, request.keep),
    )
