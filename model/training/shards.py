"""WebDataset shards out: PREFIX-000000.tar, PREFIX-000001.tar ... each with KEY.webp and KEY.json.

The bytes depend only on what is added, in order: no times, users or machine names get in. A shard appears under its
name when it is complete.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMIT = 200_000_000  # bytes a shard, by default
_BLOCK = 512  # a tar's unit; a member is its header and its bytes, each in whole blocks


class ShardWriter:
    """Writes samples to shards of at most `limit` bytes (a single larger sample gets a shard of its own)."""

    def __init__(self, folder: Path, prefix: str, limit: int = LIMIT) -> None:
        self.folder = folder
        self.prefix = prefix
        self.limit = limit
        self.shards: list[str] = []
        self._tar: tarfile.TarFile | None = None
        self._partial: Path | None = None
        self._bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, key: str, picture: bytes, meta: Mapping[str, Any], suffix: str = "webp") -> str:
        """Append one sample; the name of the shard it went to. `key` has no dot (WebDataset ends a key there)."""
        if "." in key or "/" in key:
            raise ValueError(f"key {key!r}: no dots or slashes in a key")
        text = json.dumps(meta, ensure_ascii=False, separators=(",", ":")).encode()
        needed = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for data in (picture, text))
        if self._tar is None or (self._bytes and self._bytes + needed + tarfile.RECORDSIZE > self.limit):
            self._next()
        assert self._tar is not None
        for ending, data in ((suffix, picture), ("json", text)):
            member = tarfile.TarInfo(f"{key}.{ending}")
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
        self._bytes += needed
        return self.shards[-1]

    def _next(self) -> None:
        self.close()
        name = f"{self.prefix}-{len(self.shards):06d}.tar"
        self.shards.append(name)
        self._partial = self.folder / f"{name}.partial"
        self._tar = tarfile.open(self._partial, "w")  # noqa: SIM115 - closed in close()
        self._bytes = 0

    def close(self) -> None:
        """Finish the shard in hand and give it its name."""
        if self._tar is not None and self._partial is not None:
            self._tar.close()
            self._partial.replace(self._partial.with_suffix(""))
        self._tar = self._partial = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._tar is not None and self._partial is not None:  # leave no half shard behind
            self._tar.close()
            self._partial.unlink(missing_ok=True)
            self._tar = None
