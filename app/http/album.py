"""The files of a job's pictures. Each is made once for all who hold it, and anew for whoever asks when nobody does.

An album remembers the sizes. So an answer that comes again knows its length before it has any file, and makes one after
another while the client takes them: sixty readers of the same ten pictures cost hardly more than one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from weakref import WeakValueDictionary


class File:
    """The bytes of a picture's file; there are no others of the same picture while these are held."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data


class Album:
    """The files of one job, by the index of the picture. Belongs to the event loop.

    sizes: bytes of every file that was ever made. The same picture always makes the same file.
    """

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self._files: WeakValueDictionary[int, File] = WeakValueDictionary()
        self._making: dict[int, asyncio.Task[File]] = {}

    async def file(self, index: int, make: Callable[[], Coroutine[Any, Any, File]]) -> File:
        """The file that somebody holds or is making, or else what `make` makes. Raises what `make` raises."""
        if (held := self._files.get(index)) is not None:
            return held
        making = self._making.get(index)
        if making is None:
            making = self._making[index] = asyncio.create_task(make())
            making.add_done_callback(partial(self._made, index))
        return await asyncio.shield(making)  # of all who wait for it, whoever leaves

    def close(self) -> None:
        """Make no more of what is being made: nobody will want it."""
        for making in self._making.values():
            making.cancel()

    def _made(self, index: int, making: asyncio.Task[File]) -> None:
        del self._making[index]
        if not making.cancelled() and making.exception() is None:
            file = making.result()
            self.sizes[index] = len(file.data)
            self._files[index] = file
