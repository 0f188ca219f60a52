"""Requests that come twice. A request with the Idempotency-Key of an earlier one is not painted anew.

It joins the earlier request if that one is still running, and gets its pictures again if it has finished.

Each API key has Idempotency-Keys of its own. Two requests are the same if a hash of their path, fields and files is the
same. A different request with the same key is a conflict. A request that fails, is refused or is cancelled is forgotten
at once, so that it can be tried again. The pictures of a finished job are kept for SECONDS. A stream can be repeated,
too. It gets all finished pictures, and the unfinished ones that come from then on.

Memory is bounded. The queue bounds the running requests. At most RESULTS finished ones and `max_bytes` of their
pictures are kept. Beyond that the oldest are forgotten, and their requests are painted anew.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.http.errors import IdempotencyConflict
from app.http.headers import IDEMPOTENCY
from app.pool.job import Job, Outcome, Reader

SECONDS = 600.0  # for which a result is kept
RESULTS = 1000  # kept at most
Name = tuple[str, str]  # the hash of an API key, "" for none; the Idempotency-Key


def fingerprint(path: str, fields: str, files: Mapping[str, list[bytes]]) -> bytes:
    """A hash of a request. fields: in a form that is the same however they were sent. files: by their field's name."""
    found = hashlib.blake2b(digest_size=32)
    for part in (path, fields):
        found.update(hashlib.blake2b(part.encode()).digest())
    for name, contents in sorted(files.items()):
        for content in contents:
            found.update(hashlib.blake2b(name.encode()).digest() + hashlib.blake2b(content).digest())
    return found.digest()


def joined_headers(reader: Reader) -> dict[str, str]:
    """The header Idempotent-Replayed of the answer if the request joined an earlier one, else no header."""
    return {"Idempotent-Replayed": "true"} if reader.joined else {}


@dataclass(eq=False)
class _Entry:
    """The request that came first with a key. size: bytes of its result once the request has ended."""

    fingerprint: bytes
    submitting: asyncio.Task[Job]
    size: int = 0
    timer: asyncio.TimerHandle | None = None


class Idempotency:
    """Jobs by the keys that clients gave them. Use it on the event loop only."""

    def __init__(self, max_bytes: int, seconds: float = SECONDS, results: int = RESULTS) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._results = results
        self._entries: dict[Name, _Entry] = {}
        self._kept: dict[Name, _Entry] = {}  # the finished ones of `_entries`, the oldest first

    async def job(self, name: Name, asked: bytes, submit: Callable[[], Coroutine[Any, Any, Job]]) -> Job:
        """The job of the key. If there is none, `submit` makes one from an order that is `shared`.

        The caller must join the job at once. asked: the request's `fingerprint`. Raises IdempotencyConflict, and what
        `submit` raises.
        """
        while True:
            entry = self._entries.get(name)
            if entry is None:
                entry = self._entries[name] = _Entry(asked, asyncio.create_task(submit()))
                entry.submitting.add_done_callback(partial(self._submitted, name, entry))
            elif entry.fingerprint != asked:
                raise IdempotencyConflict(
                    f"{IDEMPOTENCY} must be new: another request had it in the last {self._seconds / 60:g} minutes"
                )
            job = await asyncio.shield(entry.submitting)  # a request may leave, and the others still wait
            if job.outcome is not Outcome.CANCELLED:  # cancelled: all others left before this request could join
                return job

    @property
    def kept_bytes(self) -> int:
        """Bytes of all results that are kept."""
        return sum(entry.size for entry in self._kept.values())

    def _submitted(self, name: Name, entry: _Entry, _: object) -> None:
        if entry.submitting.cancelled() or entry.submitting.exception() is not None:
            self._forget(name, entry)
            return
        job = entry.submitting.result()
        job.on_end(lambda: self._ended(name, entry, job))

    def _ended(self, name: Name, entry: _Entry, job: Job) -> None:
        entry.size = job.size
        if job.outcome is not Outcome.COMPLETED or entry.size > self._max_bytes:
            self._forget(name, entry)
            return
        self._kept[name] = entry
        entry.timer = asyncio.get_running_loop().call_later(self._seconds, self._forget, name, entry)
        while len(self._kept) > self._results or self.kept_bytes > self._max_bytes:
            self._forget(*next(iter(self._kept.items())))

    def _forget(self, name: Name, entry: _Entry) -> None:
        self._entries.pop(name, None)
        self._kept.pop(name, None)
        if entry.timer is not None:
            entry.timer.cancel()
