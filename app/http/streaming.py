"""Sends pictures as server-sent events while they are painted: the stream of the OpenAI Images API, with additions.

`data:` lines are that API's events: partial_image, completed, an error, [DONE]. Further keys of these events, and
comments, tell the place in the queue and the rows done. The openai package skips comments, but it would take an event
of another type for a partial image:

    : progress {"queue_position":3,"rows_done":[0,0],"rows":32,"seconds_left":12.4}

Nothing is taken from the job before the client has read what was sent before. So a slow client holds one file in
memory, and as pixels the finished pictures and the newest frame of each unfinished one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.http.album import File
from app.http.answers import Writer, around_pictures
from app.http.budget import Claim
from app.http.errors import Answer, ClientGone, ReaderTooSlow, answer, openai_error
from app.http.idempotency import joined_headers
from app.http.leaving import done_first, end
from app.http.openai_schemas import Usage
from app.http.orders import fit_keys, model_headers, text_headers
from app.http.painting import Wanted, file_bound, finish, observe, tell, text_tokens, written_tokens
from app.http.service import Service
from app.pool.job import Reader
from model.errors import DalleError, UnknownPrompt
from model.inference.events import Event, Painted, Partial

TICK = 0.5  # seconds between two looks at the queue; comments about progress are at least as far apart
log = logging.getLogger("dalle.http")
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",  # nginx would hold the events back
}


class PictureStream(Response):
    """The answer that streams an accepted job. It always leaves the job at the end.

    kind: image_generation or image_edit. log: fields of the request's log line. claim: takes room for a file.
    """

    def __init__(
        self, service: Service, reader: Reader, wanted: Wanted, kind: str, log: dict[str, Any], claim: Claim
    ) -> None:
        job = reader.job
        told = model_headers(reader) | text_headers(job.tokens, text_tokens(job)) | joined_headers(reader)
        super().__init__(headers=HEADERS | told)
        del self.headers["content-length"]
        self._service = service
        self._job = job
        self._reader = reader
        self._wanted = wanted
        self._kind = kind
        self._log = log
        self._claim = claim
        self._bound = file_bound(service, job, wanted)
        self._vae = service.checkpoint(job.order.model).config.vae
        self._grid = self._vae.grid
        side = wanted.finish.side or self._vae.image_size
        self._common = {
            "size": f"{side}x{side}",
            "quality": "auto",
            "background": "opaque",
            "output_format": wanted.finish.format,
        }
        self._shown: dict[str, Any] = {}  # of the last comment
        self._commented = 0.0  # monotonic
        self._sent = 0.0
        self._completed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the job ends, the client leaves or the client reads too slowly (see `app.http.answers`)."""
        working = asyncio.create_task(self._stream(send, scope["state"]["request_id"]))
        try:
            if await done_first(working, receive):
                working.result()
            else:
                self._failed(ClientGone())
        finally:
            self._service.pool.leave(self._reader)

    def _failed(self, error: Exception) -> Answer:
        said = answer(error)
        self._log["error"] = said.code
        self._service.metrics.error(said.code)
        return said

    async def _stream(self, send: Send, request_id: str) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await self._tell_progress(send)
            await self._follow(send)
            await self._send(send, "data: [DONE]\n\n", more=False)
        except (ClientGone, ReaderTooSlow):
            raise
        except Exception as error:
            if not isinstance(error, DalleError):  # the middleware could only cut the connection
                log.exception("a fault of ours", extra={"fields": {"id": request_id}})
            said = self._failed(error.named("prompt") if isinstance(error, UnknownPrompt) else error)
            await self._send(send, _data({"error": openai_error(said)}), more=False)
        finally:
            self._log["images_sent"] = self._completed

    async def _follow(self, send: Send) -> None:
        """Send the job's events until it has ended. Raises the job's error."""
        coming: asyncio.Task[Event] | None = None
        try:
            while True:
                coming = coming or asyncio.create_task(anext(self._reader))
                await asyncio.wait({coming}, timeout=TICK)
                if coming.done():
                    try:
                        event = coming.result()
                    except StopAsyncIteration:
                        break
                    coming = None
                    await self._tell(send, event)
                await self._tell_progress(send)
        finally:
            if coming is not None:
                await end(coming)
        self._log["queue_ms"], self._log["paint_ms"] = (
            round(1000 * seconds, 1) for seconds in observe(self._service, self._job)
        )

    async def _tell(self, send: Send, event: Event) -> None:
        match event:
            case Partial():
                if not self._claim.try_take(self._bound):
                    return  # a newer one will come, or the finished picture
                try:
                    await self._tell_partial(send, event)
                finally:
                    self._claim.give(self._bound)
            case Painted():
                await self._room(send)
                try:
                    await self._tell_painted(send, event)
                finally:
                    self._claim.give(self._bound)

    async def _room(self, send: Send) -> None:
        """Wait for room for a file, and send comments meanwhile. Raises Overloaded."""
        taking = asyncio.create_task(self._claim.take(self._bound, self._reader.deadline))
        try:
            await asyncio.wait({taking}, timeout=TICK)
            while not taking.done():
                await self._tell_progress(send)
                await asyncio.wait({taking}, timeout=TICK)
            taking.result()
        finally:
            await end(taking)

    async def _tell_partial(self, send: Send, event: Partial) -> None:
        file = await self._service.threads.run(self._wanted.finish.encode, event.rgb, self._vae.image_size)
        index = self._job.request.partial_rows.index(event.rows_done)
        keys = {"partial_image_index": index, **self._common, "rows_done": event.rows_done}
        await self._picture(send, "partial_image", File(file), event.index, keys)

    async def _tell_painted(self, send: Send, event: Painted) -> None:
        album = self._service.album(self._job)
        file = await album.file(event.index, partial(finish, self._service, self._job, event, self._wanted))
        self._completed += 1
        usage = self._usage().model_dump()
        told = tell(self._service, self._job, event)
        of_text = {"revised_prompt": told.revised, "style": told.style}
        known = {key: text for key, text in of_text.items() if text is not None} | fit_keys(self._job.judged)
        keys = {**self._common, "usage": usage, "rows_done": self._grid, **known}
        await self._picture(send, "completed", file, event.index, keys)

    def _revised(self) -> dict[str, str]:
        """The key revised_prompt, once it is known that the painted text is not the one that was sent."""
        return {"revised_prompt": self._job.revised.text} if self._job.revised else {}

    def _usage(self) -> Usage:
        """Of the picture just completed; the prompt and the kept cells, read once, count to the first one."""
        kept = sum(self._job.request.keep or b"")
        drawn = self._grid**2 - kept
        if self._completed > 1:
            return Usage.of(0, 0, drawn)
        return Usage.of(text_tokens(self._job), kept, drawn, written_tokens(self._job))

    async def _picture(self, send: Send, what: str, file: File, index: int, keys: dict[str, Any]) -> None:
        event = {
            "type": f"{self._kind}.{what}",
            "b64_json": "",
            "created_at": int(time.time()),
            **keys,
            "index": index,
            "seed": self._job.request.params.seed,
            "rows": self._grid,
            "queue_position": 0,
            "seconds_left": self._seconds_left(),
        }
        if not self._log.get("first_ms"):
            seconds = time.monotonic() - self._reader.since
            self._log["first_ms"] = round(1000 * seconds, 1)
            self._service.metrics.first_picture_seconds.observe(seconds)
        before, after = around_pictures(_data(event))
        writer = Writer(send)
        await writer.write(before)
        await writer.file(file.data)
        await writer.write(after)
        await writer.flush()
        self._sent = time.monotonic()

    def _seconds_left(self) -> float | None:
        """Seconds until the job is done, rounded up to tenths so that 0 means done. None if they are not known."""
        seconds = self._service.pool.seconds_left(self._job)
        return None if seconds is None else math.ceil(10 * seconds) / 10

    async def _tell_progress(self, send: Send) -> None:
        """Send a comment if there is news, or if nothing was sent for too long.

        News of the rows comes every TICK seconds at most, news of the text at once.
        """
        now = time.monotonic()
        of_text = {**self._revised(), **fit_keys(self._job.judged)}
        if now - self._commented < TICK and all(self._shown.get(key) == value for key, value in of_text.items()):
            return
        news = {
            "queue_position": self._service.pool.ahead(self._job),
            "rows_done": list(self._job.rows_done),
            "rows": self._grid,
            **of_text,
        }
        if news == self._shown and now - self._sent < self._service.settings.keep_alive:
            return
        self._shown, self._commented = news, now
        told = json.dumps({**news, "seconds_left": self._seconds_left()}, separators=(",", ":"))
        await self._send(send, f": progress {told}\n\n")

    async def _send(self, send: Send, text: str, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
        self._sent = time.monotonic()


def _data(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, separators=(',', ':'))}\n\n"
