"""Makes files of an order's pictures: each is encoded when it is painted. All stops when the client leaves.

The request that a job was made for holds all its files until they are sent. It takes room for them in the budget of
answers before the first file is made. A request that joins the job waits for its end and holds one file at a time.
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
from app.http.leaving import done_first
from app.http.service import Service
from app.pictures.encode import PNG, Finish
from app.pictures.provenance import Provenance, forced_tokens, prompt_hash
from app.pool.job import Job, Reader
from model.config import CheckpointConfig
from model.inference.events import Judged, Painted


@dataclass(frozen=True)
class Wanted:
    """What a client wants of the pictures of its order.

    best: how many of the pictures, those with the best scores; None for all. embed_prompt: the PNG holds the prompt.
    """

    finish: Finish = PNG
    best: int | None = None
    embed_prompt: bool = False


@dataclass(frozen=True)
class Told:
    """What an answer tells of the text of a picture.

    text: what was painted. revised: the same, if it is not the text that was sent, else None. restyled: whether the
    picture's style has changed it. style: its name, None where the model has not several.
    """

    text: str
    revised: str | None = None
    restyled: bool = False
    style: str | None = None


class Picture:
    """A picture to be sent. index: its index, which includes the order's first_index. size: bytes of its file.

    told: what is told of its text.
    make: gets or makes the file. held: the file, if this request holds it. claim: took the room of a held file.
    """

    def __init__(
        self,
        painted: Painted,
        told: Told,
        size: int,
        make: Callable[[], Coroutine[Any, Any, File]],
        claim: Claim,
        held: File | None,
    ) -> None:
        self.index = painted.index
        self.score = painted.score
        self.told = told
        self.size = size
        self._make = make
        self._claim = claim
        self._held = held

    async def file(self) -> File:
        """The picture's file. The caller should not keep it long."""
        return self._held or await self._make()

    def let_go(self) -> None:
        """Let go of the file, and give its room back."""
        if self._held is not None:
            self._held = None
            self._claim.give(self.size)


@dataclass(frozen=True)
class Painting:
    """An order that was painted.

    pictures: in the order of their indices, or the best one first. tokens: of the text. read: how many of them the
    model read. queued, painted, encoded: seconds of three times that follow one another. revised: the text before any
    style, if it is not the one that was sent. written: tokens that the model drew for it. judged: how well it says the
    text that was sent, if a reviser read that.
    """

    pictures: list[Picture]
    tokens: int
    read: int
    queued: float
    painted: float
    encoded: float  # only the part after the last picture was painted
    revised: str | None = None
    written: int = 0
    judged: Judged | None = None


async def paint(service: Service, reader: Reader, receive: Receive, wanted: Wanted, claim: Claim) -> Painting:
    """The pictures of the reader's job.

    receive: the ASGI channel of the request. claim: takes room for the files. A file's room is given back when the file
    is let go.
    Raises what the job raises, ClientGone if the client leaves first, and Overloaded if there is no room in time.
    """
    collect = _collect_lazily if reader.joined else _collect
    working = asyncio.create_task(collect(reader, service, wanted, claim))
    try:
        if await done_first(working, receive):
            return working.result()
        raise ClientGone("the client left before its pictures were done")
    finally:
        service.pool.leave(reader)


async def _collect(reader: Reader, service: Service, wanted: Wanted, claim: Claim) -> Painting:
    """Wait for the job's pictures. Each is encoded while others are painted, unless only the best are wanted."""
    job, album = reader.job, service.album(reader.job)
    bound = file_bound(service, job, wanted)
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
        if room is None:  # for all at once: two answers that hold some and want more could wait for each other
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
        Picture(
            event, tell(service, job, event), len(file.data), partial(finish, service, job, event, wanted), claim, file
        )
        for event, file in zip(painted, files, strict=True)
    ]
    return _painting(service, reader, pictures)


async def _collect_lazily(reader: Reader, service: Service, wanted: Wanted, claim: Claim) -> Painting:
    """Wait for the end of a job that others read, too. Each file is made when it is sent."""
    job, album = reader.job, service.album(reader.job)
    painted = _sorted([event async for event in reader if isinstance(event, Painted)], wanted)
    bound = file_bound(service, job, wanted)
    await claim.take(bound, reader.deadline)

    def file(event: Painted) -> Coroutine[Any, Any, File]:
        return album.file(event.index, partial(finish, service, job, event, wanted))

    for event in painted:
        if event.index not in album.sizes:  # the first request has left before its end
            await file(event)
    sizes = [album.sizes[event.index] for event in painted]
    claim.give(bound - max(sizes))
    pictures = [
        Picture(event, tell(service, job, event), size, partial(file, event), claim, None)
        for event, size in zip(painted, sizes, strict=True)
    ]
    return _painting(service, reader, pictures)


def _sorted(painted: list[Painted], wanted: Wanted) -> list[Painted]:
    """The pictures in the order of their indices. If only the best are wanted, those, the best one first."""
    if wanted.best is None:
        return sorted(painted, key=lambda picture: picture.index)
    return sorted(painted, key=lambda picture: (-(picture.score or 0.0), picture.index))[: wanted.best]


def _painting(service: Service, reader: Reader, pictures: list[Picture]) -> Painting:
    job = reader.job
    queued, seconds = observe(service, job)
    encoded = time.monotonic() - max(job.ended or job.accepted, reader.since)
    revised = job.revised.text if job.revised else None
    read, written = text_tokens(job), written_tokens(job)
    return Painting(pictures, job.tokens, read, queued, seconds, encoded, revised, written, job.judged)


def tell(service: Service, job: Job, painted: Painted) -> Told:
    """What is told of a picture's text."""
    text = job.text_of(painted)
    return Told(
        text,
        revised=text if text != job.order.text else None,
        restyled=painted.text is not None,
        style=painted.style if service.checkpoint(job.order.model).styles.several else None,
    )


def file_bound(service: Service, job: Job, wanted: Wanted) -> int:
    """Bytes that a picture's file hardly exceeds: those of its uncompressed pixels and of its texts."""
    side = wanted.finish.side or service.checkpoint(job.order.model).config.vae.image_size
    return 3 * side**2 + side**2 // 64 + (64 << 10)


def text_tokens(job: Job) -> int:
    """Tokens of the sent text that the model reads."""
    return job.read


def written_tokens(job: Job) -> int:
    """How many tokens the model drew to complete or revise the text."""
    return job.revised.written if job.revised else 0


def observe(service: Service, job: Job) -> tuple[float, float]:
    """The seconds of an ended job in the queue and in painting. The metrics count them at the first call."""
    started, ended = job.started or job.accepted, job.ended or job.accepted
    if not job.observed:
        job.observed = True
        service.metrics.queue_seconds.observe(started - job.accepted)
        service.metrics.paint_seconds.observe(ended - started)
    return started - job.accepted, ended - started


async def finish(service: Service, job: Job, painted: Painted, wanted: Wanted) -> File:
    """Make the file of a picture, on another thread."""
    before = time.monotonic()
    config = service.checkpoint(job.order.model).config
    told = tell(service, job, painted)
    texts = provenance(job, painted, config, told, wanted.embed_prompt).texts()
    file = await service.threads.run(wanted.finish.encode, painted.rgb, config.vae.image_size, texts)
    service.metrics.encode_seconds.observe(time.monotonic() - before)
    service.telemetry.encoded(job, painted.index, before)
    return File(file)


def provenance(job: Job, painted: Painted, config: CheckpointConfig, told: Told, embed_prompt: bool) -> Provenance:
    """What the picture's file tells. Its prompt is the one that was painted."""
    request = job.request
    return Provenance(
        model=config.name,
        index=painted.index,
        params=request.params,
        prompt_hash=prompt_hash(told.text),
        prompt=told.text if embed_prompt else None,
        style=told.style,
        forced=None if request.keep is None else forced_tokens(painted.tokens, request.keep),
    )
