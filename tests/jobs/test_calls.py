"""Calls of the store on threads, as a server that stops cancels them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app.jobs import calls as module
from app.jobs.calls import Calls


def test_a_cancellation_that_comes_with_the_result_is_not_lost() -> None:
    async def scene() -> bool:
        calls = Calls()
        before = {*threading.enumerate()}
        calling = asyncio.create_task(calls.database(int))
        await asyncio.sleep(0)  # it is on its way to its thread
        calls._database.shutdown(wait=False)
        for thread in {*threading.enumerate()} - before:
            thread.join()  # the result waits for the loop now
        asyncio.get_running_loop().call_soon(calling.cancel)
        await asyncio.wait({calling})
        return calling.cancelled()

    assert asyncio.run(scene())


def test_the_end_waits_for_running_calls_and_then_closes_the_store() -> None:
    done: list[str] = []
    begun, goes_on = threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        goes_on.wait()
        done.append("written")

    async def scene() -> None:
        calls = Calls()
        writing = asyncio.create_task(calls.files(write))
        while not begun.is_set():
            await asyncio.sleep(0)
        writing.cancel()
        closing = asyncio.create_task(calls.close(lambda: done.append("closed")))
        await asyncio.sleep(0)
        goes_on.set()
        await closing

    asyncio.run(scene())
    assert done == ["written", "closed"]


def test_nothing_waits_for_a_call_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENDING", 0.01)
    done: list[str] = []
    begun, never = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        never.wait()

    async def scene() -> None:
        calls = Calls()
        before = {*threading.enumerate()}
        writing = asyncio.create_task(calls.files(hang))
        while not begun.is_set():
            await asyncio.sleep(0)
        writing.cancel()
        await calls.close(lambda: done.append("closed"))
        assert all(thread.daemon for thread in {*threading.enumerate()} - before)  # the process waits for the others

    asyncio.run(scene())
    assert not done
    never.set()
