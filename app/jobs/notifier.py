"""Tells webhooks of the ends of jobs, as long as the store has messages that are due."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.jobs.calls import Calls
from app.jobs.faults import StoreFault
from app.jobs.rows import Message, StoredJob
from app.jobs.store import Store
from app.jobs.webhooks import Sender, Tried, pause

HELD = 15.0  # seconds in which no other server sends a message that this one is sending
LOOKED = 1.0  # seconds between looks for messages
SENDING = 16  # messages that are on the way at a time, each of another client
log = logging.getLogger("dalle.webhooks")


class Notifier:
    """message: makes what a webhook is told of a job. sender: sends it."""

    def __init__(
        self, store: Store, calls: Calls, sender: Sender, message: Callable[[StoredJob], Awaitable[Mapping[str, Any]]]
    ) -> None:
        self._store = store
        self._calls = calls
        self._sender = sender
        self._message = message

    async def run(self) -> None:
        """Send the messages that are due. A client whose receiver is slow holds up nobody else."""
        sending: set[str] = set()
        sent = asyncio.Event()

        async def send(message: Message) -> None:
            await self._send(message)
            sending.remove(message.job.client)
            sent.set()

        async with asyncio.TaskGroup() as group:
            while True:
                sent.clear()
                due = await self._calls.tried(self._store.due, HELD, [*sending]) if len(sending) < SENDING else None
                if due is not None:
                    sending.add(due.job.client)
                    group.create_task(send(due))
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOKED):
                        await sent.wait()

    async def _send(self, due: Message) -> None:
        hook = due.job.hook or {}
        try:
            found = await self._sender.send(hook["url"], hook["secret"], due.id, await self._message(due.job))
        except StoreFault as error:
            found = Tried(False, str(error))
        except Exception as error:  # one message must not keep back all others
            log.exception("a fault of ours", exc_info=error)
            found = Tried(False, "internal error")
        wait = pause(due.tries + 1)
        if found.done or wait is None:
            log.info("webhook of %s: %s", due.job.id, found.why)
            await self._calls.tried(self._store.settle, due.id)
        else:
            log.warning("webhook of %s: %s; the next attempt is in %g s", due.job.id, found.why, wait)
            await self._calls.tried(self._store.postpone, due.id, wait)
