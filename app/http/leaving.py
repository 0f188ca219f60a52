"""Notices that the client has left while its answer is made."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive


async def gone(receive: Receive) -> None:
    """Wait until the client has left. The server notices that only while a receive() is pending.

    receive: the ASGI channel of the request. The body has been read, so the next message is that the client left.
    """
    while (await receive())["type"] != "http.disconnect":
        pass


async def done_first(working: asyncio.Task[Any], receive: Receive) -> bool:
    """Wait until the task is done or the client has left. Returns whether the task was done first, else cancels it."""
    leaving = asyncio.create_task(gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.done()
    finally:
        await end(working, leaving)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait for their end. Nobody asks any more how they end, so no error of theirs is logged."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
