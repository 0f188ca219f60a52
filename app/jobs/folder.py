"""The files of pictures: in a folder, or under any address that fsspec knows, such as s3://bucket/pictures.

A file is there whole or not at all. fsspec writes local files in place, so this module writes them itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import fsspec.asyn  # type: ignore[import-untyped]

from app.jobs.faults import CLEAR, StoreFull, away, full
from model.errors import DalleError
from model.limits import one_line

PLACE = "the place of the pictures"
SECONDS = 15.0  # that a call of a bucket may take; by itself one waits for a bucket that hangs for ever
ABANDONED = 86_400.0  # seconds after which nobody goes on with writing a file
SPARE = 64 << 20  # bytes that a disk keeps free: a job is refused before nothing can be written at all


class Folder:
    """Named files under an address. Names are those that this module's callers make: letters, digits, _ and -."""

    def __init__(self, address: str) -> None:
        """address: a path, or an address with a scheme. Raises DalleError if it cannot be used."""
        self.address = address
        try:
            self._files, self._root = fsspec.core.url_to_fs(address)
            self._local = "file" in self._files.protocol
            self._call("makedirs", self._root, exist_ok=True)
        except Exception as error:  # each kind of bucket has errors of its own
            raise DalleError(f"store: {address} cannot be used: {one_line(error)}") from None

    def check_room(self, wanted: int) -> None:
        """Raises StoreFull unless `wanted` bytes fit on the disk, and StoreAway. A bucket has no end."""
        if not self._local:
            return
        with self._reached():
            free = shutil.disk_usage(self._root).free
        if free < wanted + SPARE:
            found = f"{free >> 20} MiB left, and about {(wanted + SPARE) >> 20} MiB are needed"
            raise StoreFull(f"{PLACE} has {found}; {CLEAR}", f"{self.address} has {found}")

    def write(self, name: str, data: bytes) -> None:
        """Write a file, over one of this name. Raises StoreFull and StoreAway."""
        if not self._local:
            with self._reached():
                self._call("pipe_file", self._path(name), data)
            return
        path = Path(self._path(name))
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")  # two servers may write the same
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise full(PLACE, f"{path} could not be written: {error.strerror}") from None
            raise away(PLACE, f"{path} could not be written: {error.strerror or error}") from None

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if there is none. Raises StoreAway."""
        with self._reached():
            try:
                data: bytes = self._call("cat_file", self._path(name))
            except FileNotFoundError:
                return None
            return data

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises StoreAway."""
        with self._reached(), contextlib.suppress(FileNotFoundError):
            self._call("rm_file", self._path(name))

    def tidy(self) -> None:
        """Remove what servers that died were writing. A bucket has nothing of the kind."""
        if self._local:
            for path in Path(self._root).glob("*/*.partial"):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < time.time() - ABANDONED:
                        path.unlink()

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        if not self._files.async_impl:
            return getattr(self._files, method)(*arguments, **options)

        async def bounded() -> Any:
            try:
                async with asyncio.timeout(SECONDS):
                    return await getattr(self._files, f"_{method}")(*arguments, **options)
            except TimeoutError:
                raise OSError(f"no answer within {SECONDS:g} s") from None

        return fsspec.asyn.sync(self._files.loop, bounded)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each kind of bucket has errors of its own
            raise away(PLACE, f"{self.address}: {one_line(str(error) or type(error).__name__)}") from None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"  # a folder of a million files would be slow to list
