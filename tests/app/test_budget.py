"""The budget of answers and the albums of files, without a server: when a file gets room, and when it gives it back."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app.http.album import Album, File
from app.http.budget import Budget, Claim
from model.errors import Overloaded

TOTAL = 100


def scene(play: Callable[[Budget], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(play(Budget(TOTAL, retry_after=7.0)))


def claim(budget: Budget, client: str) -> Claim:
    return Claim(budget, lambda: client)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def soon() -> float:
    """A deadline that is over at once."""
    return time.monotonic()


def test_one_client_gets_half_and_others_the_rest() -> None:
    async def play(budget: Budget) -> None:
        greedy, modest = claim(budget, "greedy"), claim(budget, "modest")
        await greedy.take(50, None)
        with pytest.raises(Overloaded) as refused:
            await claim(budget, "greedy").take(1, soon())
        assert (refused.value.per_client, refused.value.retry_after) == (True, 7.0)
        await modest.take(50, None)
        with pytest.raises(Overloaded) as refused:
            await claim(budget, "third").take(1, soon())
        assert not refused.value.per_client
        assert budget.used == TOTAL
        greedy.close()
        modest.close()
        assert budget.used == 0

    scene(play)


def test_files_wait_in_order_and_a_client_over_its_share_blocks_nobody() -> None:
    async def play(budget: Budget) -> None:
        first = claim(budget, "a")
        await first.take(50, None)
        order: list[str] = []

        async def wait(name: str, size: int) -> None:
            await claim(budget, name).take(size, None)
            order.append(name)

        waiting = [asyncio.create_task(wait(*one)) for one in (("a", 10), ("b", 50), ("c", 10), ("d", 1))]
        await turns()
        assert order == ["b"]
        assert not claim(budget, "e").try_take(0), "whoever comes later does not overtake"
        first.give(20)
        await turns()
        assert order == ["b", "a", "c"]
        first.close()
        await asyncio.gather(*waiting)
        assert order[-1] == "d"

    scene(play)


def test_a_file_larger_than_the_budget_is_taken_alone() -> None:
    async def play(budget: Budget) -> None:
        small, large = claim(budget, "a"), claim(budget, "b")
        await small.take(1, None)
        waiting = asyncio.create_task(large.take(10 * TOTAL, None))
        await turns()
        assert not waiting.done()
        small.close()
        await waiting
        assert budget.used == 10 * TOTAL
        assert not small.try_take(1)

    scene(play)


def test_a_cancelled_wait_takes_nothing() -> None:
    async def play(budget: Budget) -> None:
        first, second, third = (claim(budget, name) for name in "abc")
        await first.take(TOTAL, None)
        tasks = [asyncio.create_task(one.take(60, None)) for one in (second, third)]
        await turns()
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        first.close()
        tasks_done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(tasks_done[0], asyncio.CancelledError)
        assert tasks_done[1] is None
        assert budget.used == 60
        third.close()

        again = asyncio.create_task(second.take(60, None))  # granted and cancelled in one step of the loop
        await asyncio.sleep(0)
        again.cancel()
        await asyncio.wait([again])
        second.close()
        assert budget.used == 0

    scene(play)


def test_a_claim_that_is_closed_gives_all_back_once() -> None:
    async def play(budget: Budget) -> None:
        one = claim(budget, "a")
        await one.take(30, None)
        one.give(-5)  # more than was thought
        assert budget.used == 35
        one.give(10)
        one.close()
        one.close()
        one.give(10)
        assert budget.used == 0
        await one.take(10, None)  # by a task that was not told
        assert budget.used == 0
        with budget.passing(2 * TOTAL):
            assert budget.used == 2 * TOTAL
            assert one.try_take(0)
        assert budget.used == 0

    scene(play)


def test_a_file_is_made_once_for_all_who_hold_it_and_again_when_nobody_does() -> None:
    async def play(_: Budget) -> None:
        album, made, gate = Album(), [], asyncio.Event()

        async def make() -> File:
            made.append(1)
            await gate.wait()
            return File(b"picture")

        asking = [asyncio.create_task(album.file(0, make)) for _ in range(3)]
        await turns()
        asking[0].cancel()  # the one for whom it was begun
        await turns()
        gate.set()
        files = await asyncio.gather(*asking[1:])
        files.append(await album.file(0, make))
        same = len({id(file) for file in files}) == 1  # pytest would keep what an assertion looks at
        assert (same, len(made), album.sizes) == (True, 1, {0: 7})
        asking.clear()
        files.clear()
        await turns()
        gc.collect()
        assert (await album.file(0, make)).data == b"picture"
        assert len(made) == 2

    scene(play)


def test_a_file_that_cannot_be_made_is_an_error_to_all_and_tried_again() -> None:
    async def play(_: Budget) -> None:
        album = Album()

        async def fail() -> File:
            raise OSError("no memory")

        async def make() -> File:
            return File(b"")

        found = await asyncio.gather(*(album.file(0, fail) for _ in range(2)), return_exceptions=True)
        assert [type(error) for error in found] == [OSError, OSError]
        assert album.sizes == {}
        assert (await album.file(0, make)).data == b""

    scene(play)
