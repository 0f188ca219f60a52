"""The files of a job's pictures. All requests that need a file share it. A file that nobody uses any more is dropped.

A dropped file is made again when it is needed. An album remembers the sizes of files, so a repeated answer knows its
length before it has any file. It then makes one file after another while the client reads. Sixty readers of the same
ten pictures cost hardly more than one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakValueDictionary


class File:
    """The bytes of a picture's file. No second copy is made while this one is held."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data


class Album:
    """The files of one job, by the index of the picture. Use it on the event loop only.

    sizes: bytes of every file that was made so far. They stay true, because a picture always makes the same file.
    """

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self._files: WeakValueDictionary[int, File] = WeakValueDictionary()
        self._making: dict[int, asyncio.Task[File]] = {}

    async def file(self, index: int, make: Callable[[], Coroutine[Any, Any, File]]) -> File:
        """The file, if somebody holds it or is making it. Otherwise `make` makes it. Raises what `make` raises."""
        if (held := self._files.get(index)) is not None:
            return held
        making = self._making.get(index)
        if making is None:
            making = self._making[index] = asyncio.create_task(self._made(index, make))
            making.add_done_callback(lambda _: self._making.pop(index))
        return await asyncio.shield(making)  # a request may leave, and the others still wait

    def close(self) -> None:
        """Cancel the files that are being made, because nobody wants them any more."""
        for making in self._making.values():
            making.cancel()

    async def _made(self, index: int, make: Callable[[], Coroutine[Any, Any, File]]) -> File:
        file = await make()
        self.sizes[index] = len(file.data)
        self._files[index] = file
        return file
