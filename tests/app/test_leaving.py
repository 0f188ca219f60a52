"""What happens when a client leaves, or the server ends, in the middle of an answer. Without sockets."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from app.http.answers import Connection
from app.http.budget import Budget
from app.http.leaving import done_first
from app.http.middleware import Frontier


def test_an_error_that_nobody_asks_for_any_more_is_not_logged() -> None:
    logged: list[dict[str, Any]] = []

    async def fails_at_its_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        assert not await done_first(asyncio.create_task(fails_at_its_end()), leave)

    asyncio.run(scene())
    gc.collect()
    assert not logged


class Kept(Connection):
    """A connection whose client takes nothing."""

    gone = False

    def __init__(self) -> None:
        self.aborted = False

    async def taken(self) -> None:
        await asyncio.Event().wait()

    def abort(self) -> None:
        self.aborted = True


def test_an_answer_that_the_end_of_the_server_cuts_is_no_fault() -> None:
    connection = Kept()
    counted: list[str] = []
    sent: list[str] = []

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001, ASGI's
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a part", "more_body": True})

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async def scene() -> None:
        metrics: Any = SimpleNamespace(error=counted.append, answered=lambda *_: None)
        frontier = Frontier(answers, metrics, lambda app: app, Budget(1000, 1), 1000)
        state = {"connection": connection}
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "state": state}
        answering = asyncio.create_task(frontier(scope, asyncio.Event().wait, send))  # type: ignore[arg-type]
        while "http.response.body" not in sent:
            await asyncio.sleep(0)
        answering.cancel()
        await answering

    asyncio.run(scene())
    assert connection.aborted
    assert counted == ["draining"]
