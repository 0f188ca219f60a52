"""Calls of the store on threads, as a server that stops cancels them."""

from __future__ import annotations

import asyncio
import threading

from app.jobs.calls import Calls


def test_a_cancellation_that_comes_with_the_result_is_not_lost() -> None:
    async def scene() -> bool:
        calls = Calls()
        before = {*threading.enumerate()}
        calling = asyncio.create_task(calls.database(int))
        await asyncio.sleep(0)  # it is on its way to its thread
        calls.close()
        for thread in {*threading.enumerate()} - before:
            thread.join()  # the result waits for the loop now
        asyncio.get_running_loop().call_soon(calling.cancel)
        await asyncio.wait({calling})
        return calling.cancelled()

    assert asyncio.run(scene())
