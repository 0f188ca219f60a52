"""The folder that a file of prompts is painted into: pictures, contact sheets, and manifest.jsonl.

A picture is written first, and then its line of the manifest. So whatever happens, a picture in the manifest is whole,
and one that is not in it is painted again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import DataError
from model.inference.requests import SEED_BITS
from model.written import told, whole, write_whole

if TYPE_CHECKING:
    from app.batch.lines import Line

MANIFEST = "manifest.jsonl"
SECRET = ".seed"  # from which the lines without a seed get theirs
SHEET = 200  # pictures of a contact sheet
SLUG_BYTES = 120  # of a file's name that come from its text; file systems take 255 in all, and some encrypted ones 143


@dataclass(frozen=True)
class Wanted:
    """The pictures of a line that the folder does not hold yet.

    id: the line's identity. missing: places among its pictures. key: names its job.
    """

    line: Line
    id: str
    missing: tuple[int, ...]
    key: str


@dataclass(frozen=True)
class Found:
    """What the manifest tells of a picture: the text that was painted, how well that says the line's, and how."""

    text: str
    seed: int
    index: int
    style: str | None = None
    score: float | None = None
    fit: str | None = None


class Folder:
    """The folder, held by this process. It is made if it is not there.

    model: the name of the model that paints. Pictures of another model count as not painted.
    Raises DataError if another process paints into it, or if its manifest cannot be read.
    """

    def __init__(self, path: Path, model: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._model = model
        self._file = open(path / MANIFEST, "a+b")  # noqa: SIM115, closed by `close`
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise DataError(f"{path}: another process paints into this folder") from None
        self._entries: dict[tuple[str, int], dict[str, Any]] = {}
        self._read()
        self._names = {entry["file"]: place for place, entry in self._entries.items()}
        secret = path / SECRET
        if not secret.exists():
            write_whole(secret, secrets.token_hex(16).encode())
        self._secret = secret.read_text()

    def close(self) -> None:
        """Let go of the folder."""
        with contextlib.suppress(OSError):  # a line that could not be written is tried again here
            self._file.close()

    def wanted(self, line: Line) -> Wanted:
        """What the folder does not hold yet of a line. The fields of the result have a seed."""
        name = line.identity(self._model)
        if line.fields.seed is None:
            seed = int(self._hash(name)[: SEED_BITS // 4], 16)
            line = replace(line, fields=line.fields.model_copy(update={"seed": seed}))
        missing = [number for number in range(line.count) if not self._painted(name, number)]
        return Wanted(line, name, tuple(missing), self._hash(f"{name} {line.count}"))

    def keep(self, wanted: Wanted, number: int, data: bytes, found: Found) -> None:
        """Write a picture. number: its place among those of its line. data: the PNG."""
        name = self._name(wanted, number)
        place = self.path / name
        write_whole(place, data)
        line = wanted.line
        entry = {"file": name, "line": line.number, "text": line.text, "painted": found.text, "seed": found.seed}
        entry |= {"index": found.index, "style": found.style, "score": found.score, "model": self._model}
        entry |= {"fit": found.fit, "id": wanted.id, "number": number}
        self._entries[wanted.id, number], self._names[name] = entry, (wanted.id, number)
        with told(self.path / MANIFEST):
            self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._file.flush()

    def sheets(self, lines: Sequence[Line]) -> list[Path]:
        """Write contact sheets of the pictures of these lines that are painted, in their order. Returns their paths."""
        from PIL import Image

        from model.sheets import contact_sheet

        names = [line.identity(self._model) for line in lines]
        places = [(name, n) for name, line in zip(names, lines, strict=True) for n in range(line.count)]
        there = [self._entries[place] for place in places if self._painted(*place)]
        paths = []
        for first in range(0, len(there), SHEET):
            images, captions = [], []
            for entry in there[first : first + SHEET]:
                with Image.open(self.path / entry["file"]) as image:
                    images.append(image.convert("RGB"))
                captions.append(entry["text"])
            paths.append(self.path / f"sheet-{first // SHEET + 1}.png")
            with whole(paths[-1]) as partial:
                contact_sheet(images, captions).save(partial)
        return paths

    def _hash(self, name: str) -> str:
        return hashlib.sha256(f"{self._secret} {name}".encode()).hexdigest()

    def _painted(self, name: str, number: int) -> bool:
        entry = self._entries.get((name, number))
        return entry is not None and (self.path / entry["file"]).is_file()

    def _name(self, wanted: Wanted, number: int) -> str:
        """A name that no other picture has: 0007-a-red-apple-2.png, with a further number if the file was changed."""
        several = f"-{number + 1}" if wanted.line.count > 1 else ""
        stem = f"{wanted.line.number:04}-{slug(wanted.line.text)}{several}"
        names = itertools.chain([f"{stem}.png"], (f"{stem}-again-{i}.png" for i in itertools.count(1)))
        own = (wanted.id, number)
        return next(name for name in names if self._names.get(name, own) == own)

    def _read(self) -> None:
        """Read the manifest. A last line that was cut short, because the process died, is removed."""
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        os.ftruncate(self._file.fileno(), len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                if not re.fullmatch(r"[^/\0]+\.png", entry["file"]):
                    raise ValueError
                self._entries[str(entry["id"]), int(entry["number"])] = entry
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{self.path / MANIFEST}, line {number}: it must be a picture's, got another") from None


def slug(text: str) -> str:
    """A file name from the words of a text: "A red apple!" -> "a-red-apple"."""
    words = re.findall(r"\w+", text.lower())
    name = "-".join(words)[:60].encode()[:SLUG_BYTES].decode(errors="ignore")
    return name.rstrip("-") or "picture"
