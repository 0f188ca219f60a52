"""Clients share the room for pictures of jobs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from app.jobs.room import Room


def run(scene: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await scene

    asyncio.run(within())


def test_clients_get_equal_numbers_of_pictures_whatever_their_parts() -> None:
    async def scene() -> None:
        room, within, done = Room(16), [], Counter[str]()

        async def paint(client: str, pictures: int) -> None:
            while True:
                await room.enter(client, pictures)
                within.append((client, pictures))

        tasks = [asyncio.create_task(paint(client, count)) for client, count in (("a", 8), ("b", 1), ("c", 3))]
        await asyncio.sleep(0)
        for _ in range(1000):
            while room.let_in():
                await asyncio.sleep(0)
            client, pictures = within.pop(0)  # the earliest is painted first, as in the pool
            room.leave(pictures)
            done[client] += pictures
        for task in tasks:
            task.cancel()
        assert max(done.values()) - min(done.values()) <= 16, done

    run(scene())


def test_a_client_that_comes_later_is_next_and_gets_nothing_for_the_past() -> None:
    async def scene() -> None:
        room, order = Room(1), []

        async def paint(client: str, parts: int) -> None:
            for _ in range(parts):
                await room.enter(client, 8)
                order.append(client)

        async def turns(number: int) -> None:
            for _ in range(number):
                assert room.let_in()
                assert not room.let_in()  # it is full
                await asyncio.sleep(0)
                room.leave(8)

        long = asyncio.create_task(paint("a", 100))
        await asyncio.sleep(0)
        await turns(9)
        short = asyncio.create_task(paint("b", 3))
        await asyncio.sleep(0)
        await turns(7)
        assert "".join(order[9:]) in ("bababaa", "abababa")
        await short
        long.cancel()

    run(scene())


def test_who_leaves_the_queue_takes_no_room() -> None:
    async def scene() -> None:
        room = Room(1)
        waiting = [asyncio.create_task(room.enter("a", 1)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert room.let_in()
        waiting[1].cancel()  # after it was let in, before it knows
        await asyncio.sleep(0)
        assert not room.full
        assert room.let_in()
        await waiting[2]
        assert room.full

    run(scene())
