"""Writes manifest.jsonl (source, licence and author of each picture), manifest.json (counts) and NOTICE."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from model.drawings.compose import Picture
from model.errors import DataError

from .licences import ALLOWED, EVALUATION

LINES = "manifest.jsonl"
SUMMARY = "manifest.json"
_PREAMBLE = """\
The weights were trained on pictures made from the drawings named here. The drawings were rendered, cropped,
recoloured and put together into pictures; they are not part of this distribution."""
_PREAMBLE_EVALUATION = """\
These pictures, made from the drawings named here, measure models; no weights are trained on them.
Whoever passes the pictures on does so under the drawings' licence."""


@dataclass
class Summary:
    """What a build made: counts by kind, split and source, and what was dropped or left out, with the reasons."""

    selection: str
    seed: int
    pictures: int = 0
    shards: list[str] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    concepts: int = 0
    packages: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # source -> why

    def write(self, folder: Path) -> None:
        (folder / SUMMARY).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def line_of(picture: Picture, shard: str) -> dict[str, Any]:
    """A picture's line in the manifest."""
    drawing = picture.drawing
    return {
        "key": picture.key,
        "shard": shard,
        "split": picture.split,
        "kind": picture.kind,
        "concept": picture.concept,
        "source": drawing.source,
        "package": drawing.package,
        "licence": drawing.licence,
        "author": drawing.author,
        "url": drawing.url,
    }


def read(manifest: Path) -> list[dict[str, Any]]:
    """The lines of a manifest: the file, or the folder it is in. Raises DataError when it cannot be read."""
    path = manifest / LINES if manifest.is_dir() else manifest
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no manifest of a corpus ({error})") from error


def counts(lines: Iterable[Mapping[str, Any]], name: str) -> dict[str, int]:
    """How many lines have each value of a field, the most frequent value first."""
    return dict(Counter(str(line[name]) for line in lines).most_common())


def notice(manifest: Path) -> str:
    """The NOTICE for the corpus and the weights trained on it: each source with its package, licence and authors."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    pictures = read(manifest)
    for line in pictures:
        groups[line["source"], line["licence"]].append(line)
    paragraphs = [_PREAMBLE_EVALUATION if any(line["split"] == "eval" for line in pictures) else _PREAMBLE]
    for (source, licence), lines in sorted(groups.items()):
        known = {**ALLOWED, **EVALUATION}[licence]
        packages = ", ".join(sorted({line["package"] for line in lines}))
        authors = Counter(line["author"] for line in lines if line["author"])
        urls = sorted({line["url"] for line in lines if line["url"]})
        text = [f"{source} ({packages}), {len(lines)} pictures", f"  Licence: {known.title}, {known.url}"]
        if authors:
            text.append(f"  By: {', '.join(sorted(authors, key=str.casefold))}")
        if urls:
            text.append(f"  From: {', '.join(urls)}")
        paragraphs.append("\n".join(text))
    return "\n\n".join(paragraphs) + "\n"
