"""From the fields of a request to an order of the pool: what all routes that paint have in common."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import Request

from app.http.body import Body
from app.http.errors import ClientGone
from app.http.headers import idempotency_key, timeout
from app.http.idempotency import fingerprint
from app.http.painting import Painting, gone
from app.http.schemas import Sampling
from app.http.service import Service
from app.logs import prompt_fields
from app.pictures.decode import Upload
from app.pool.job import Job, Order, Reader, late
from model.errors import InvalidRequest
from model.inference.requests import Completion, GenerationRequest, SamplingParams


def make_order(
    service: Service,
    request: Request,
    asked: Sampling,
    text: str,
    pictures: int,
    partial_rows: tuple[int, ...] = (),
) -> Order:
    """The order of `pictures` pictures, noted for the request's log line. Its time counts from the request's arrival.

    Raises InvalidRequest for a best_of, complete or revise, and BadHeader for a time limit, that cannot be honoured.
    """
    settings = service.settings
    if asked.best_of is not None:
        room = min(settings.queue, settings.client_queue or settings.queue)
        if not pictures <= asked.best_of <= room:
            allowed = f"it must be from {pictures}, the pictures to return, to {room}, which the queue has room for"
            raise InvalidRequest("best_of", f"best_of: {asked.best_of}, and {allowed}")
    config = service.pool.checkpoint.config
    if asked.complete and not config.completes:
        raise InvalidRequest("complete", f"complete: true, and {config.name} was not trained to continue texts")
    if asked.revise and config.reviser is None:
        raise InvalidRequest("revise", f"revise: true, and {config.name} has no reviser")
    revises = settings.revise and not asked.complete and config.reviser is not None
    params = SamplingParams.of(config.sampling, asked.seed, asked.temperature, asked.top_k, asked.top_p, asked.guidance)
    order = Order(
        text=text,
        request=GenerationRequest(
            id="",
            text_ids=(),
            num_images=asked.best_of or pictures,
            params=params,
            first_index=asked.index or 0,
            partial_rows=partial_rows,
            score=asked.best_of is not None,
            complete=Completion() if asked.complete else None,
            revise=revises if asked.revise is None else asked.revise,
        ),
        truncate=settings.truncate if asked.truncate is None else asked.truncate,
        seconds=timeout(request, settings.deadline) or settings.deadline,
        began=request.state.began,
        request_id=request.state.request_id,
        client=request.state.key or (request.client.host if request.client else ""),
    )
    _log_order(request, order)
    return order


async def submit(
    service: Service, request: Request, sent: Body[Any], order: Callable[[], Coroutine[Any, Any, Order]]
) -> Reader:
    """Have the order painted; with an Idempotency-Key, only if the request has not come before.

    sent: what `order` is made of. Raises what `order` and the pool raise, IdempotencyConflict and BadHeader.
    """
    key = idempotency_key(request)
    if key is None:
        job = await service.pool.submit(await order())
        request.state.log["job"] = job.id
        return job.join()

    async def accepted() -> Job:
        return await service.pool.submit(dataclasses.replace(await order(), shared=True))

    seconds = timeout(request, service.settings.deadline)
    fields = sent.fields.model_dump_json()
    asked = await asyncio.to_thread(fingerprint, request.url.path, fields, sent.files)  # 1 ms a MiB
    job = await service.repeated.job((request.state.key, key), asked, accepted)
    reader = job.join(seconds)
    if reader.joined:
        service.metrics.joined.inc()
        _log_order(request, job.order)
    request.state.log.update(job=job.id, joined=reader.joined)
    return reader


def _log_order(request: Request, order: Order) -> None:
    """Note for the request's log line what is painted for it."""
    asked = order.request
    request.state.log.update(
        prompt_fields(order.text), images=asked.num_images, seed=asked.params.seed, index=asked.first_index
    )


def log_painting(request: Request, painting: Painting) -> None:
    """Note for the request's log line how it went."""
    request.state.log.update(
        tokens=painting.tokens, queue_ms=milliseconds(painting.queued), paint_ms=milliseconds(painting.painted),
        encode_ms=milliseconds(painting.encoded),
    )  # fmt: skip


def painting_on(order: Order, picture: Upload, keep: bytes) -> Order:
    """The order, to paint on from a picture. keep: for each of its cells whether it is kept."""
    return dataclasses.replace(order, request=dataclasses.replace(order.request, image=picture.rgb, keep=keep))


def text_headers(tokens: int, read: int) -> dict[str, str]:
    """Of the answer: that only `read` of the text's tokens were read, if that is so."""
    return {"X-Text-Truncated": f"{read} of {tokens} tokens"} if read < tokens else {}


def revised_header(prompt: str | None) -> dict[str, str]:
    """Of the answer: the painted text, if it is another than was sent, in UTF-8, percent-encoded as in an address."""
    return {} if prompt is None else {"X-Revised-Prompt": quote(prompt, safe=" ,'()")}


async def decode(service: Service, request: Request, order: Order, name: str, data: bytes) -> Upload:
    """The picture that was sent in the field `name`, decoded in another process within the order's time.

    Raises InvalidRequest, DeadlineExceeded, Draining, and ClientGone when the client leaves first, unless others may
    wait for the same pictures.
    """
    decoding = asyncio.create_task(service.decoders.decode(name, data, order.client))
    leaving = [asyncio.create_task(gone(request.receive))] if idempotency_key(request) is None else []
    tasks: list[asyncio.Task[Any]] = [decoding, *leaving]
    left = None if order.deadline is None else max(0.0, order.deadline - time.monotonic())
    try:
        await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if decoding.done():
            return decoding.result()
        if any(task.done() for task in leaving):
            raise ClientGone("the client left before its picture was decoded")
        raise late(order.seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def top_rows(rows: int, grid: int) -> bytes:
    """For each cell of the grid, row by row, whether it is in one of the `rows` top rows. Raises InvalidRequest."""
    if not 1 <= rows < grid:
        raise InvalidRequest("keep_rows", f"keep_rows: {rows}, and it must be an integer from 1 to {grid - 1}")
    return bytes([1]) * rows * grid + bytes((grid - rows) * grid)


def milliseconds(seconds: float) -> float:
    """Rounded for people."""
    return round(seconds * 1000, 1)
