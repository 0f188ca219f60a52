"""Files of pictures: whole or not at all, on a disk that may be full, in a bucket that may hang."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.asyn import AsyncFileSystem  # type: ignore[import-untyped]

from app.jobs import folder as folders
from app.jobs.faults import StoreAway, StoreFull
from app.jobs.folder import Folder


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path / "pictures"))
    with pytest.raises(StoreFull, match="^the place of the pictures has .* left, .* ask for fewer pictures") as caught:
        folder.check_room(1 << 60)
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.why.startswith(f"{tmp_path}/pictures has ")
    folder.write("name", b"whole")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreFull, match="^the place of the pictures is full; ask for fewer") as caught:
        folder.write("name", b"part")
    assert caught.value.why.endswith("na/name could not be written: No space left on device")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["name"]
    assert folder.read("name") == b"whole"


def test_another_place_for_files() -> None:
    folder = Folder("memory://pictures")
    folder.write("name", b"bytes")
    assert folder.read("name") == b"bytes"
    folder.remove("name")
    folder.remove("name")
    assert folder.read("name") is None


class Bucket(AsyncFileSystem):  # type: ignore[misc]
    """A bucket that takes requests, and answers none that is about a file."""

    protocol = "silent"

    async def _makedirs(self, *_: Any, **__: Any) -> None:
        pass

    async def _forever(self, *_: Any, **__: Any) -> None:
        await asyncio.sleep(1000)

    _pipe_file = _cat_file = _rm_file = _forever


def test_a_bucket_that_hangs_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "SECONDS", 0.1)
    fsspec.register_implementation("silent", Bucket, clobber=True)
    folder = Folder("silent://pictures")
    folder.check_room(1 << 60)
    calls = (partial(folder.write, "name", b"x"), partial(folder.read, "name"), partial(folder.remove, "name"))
    for call in cast("tuple[Callable[[], object], ...]", calls):
        with pytest.raises(StoreAway, match="^the place of the pictures cannot be reached now$") as caught:
            call()
        assert caught.value.why == "silent://pictures: no answer within 0.1 s"


def test_a_folder_that_is_gone_is_away(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "pictures"))
    (tmp_path / "pictures").rmdir()
    with pytest.raises(StoreAway, match="^the place of the pictures cannot be reached now$") as caught:
        folder.check_room(1)
    assert caught.value.why.startswith(f"{tmp_path}/pictures: ")
    assert folder.read("name") is None


def test_what_a_dead_server_was_writing_is_removed_a_day_later(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("name", b"x")
    old, new = tmp_path / "na" / "name.1.partial", tmp_path / "na" / "name.2.partial"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    folder.tidy()
    assert sorted(path.name for path in (tmp_path / "na").iterdir()) == ["name", "name.2.partial"]
