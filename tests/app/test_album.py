"""The files of a job's pictures, which several requests share."""

from __future__ import annotations

import asyncio

from app.http.album import Album, File


def test_the_size_of_a_file_is_known_as_soon_as_the_file_is() -> None:
    async def make() -> File:
        return File(b"png")

    async def scene() -> None:
        album = Album()
        first = asyncio.create_task(album.file(0, make))
        await asyncio.sleep(0)  # it asks for the file,
        await asyncio.sleep(0)  # which is made in the turn of the loop in which another request asks
        second = await album.file(0, make)
        assert album.sizes == {0: 3}
        assert await first is second

    asyncio.run(scene())
