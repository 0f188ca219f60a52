"""Builds the default corpus: fetches packages, lists, renders and composes drawings, writes shards and manifest.

    summary = build(Path("data/common"), Plan(selection="common"))

There are two passes, each on all processors. The first renders every drawing to ink. The ink is cached under a hash of
the drawing's content, so later builds use it again. The second pass paints the pictures and writes them in an order
that depends on the seed alone. The same packages and seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from model.drawings.compose import Drawing, Picture, painted
from model.drawings.drawing import WHITE, RenderError, visible_share
from model.errors import DataError
from model.training.shards import LIMIT, ShardWriter

from . import clipart, emoji, faces, icons, manifest
from .manifest import Summary
from .packages import Fetched, FetchError, fetch
from .plan import Plan
from .render import ink_of_file, ink_of_svg
from .source import Source

logger = logging.getLogger(__name__)

SOURCES: tuple[Source, ...] = (*emoji.SOURCES, *icons.SOURCES, *clipart.SOURCES, *faces.SOURCES)
SELECTIONS = ("common", "full", "eval")
_RENDERER = "1"  # a part of every ink's name; raise it when `render` changes

Progress = Callable[
    [str, int, int], None
]  # called with what is being done, how much of it is done, and how much there is
Job = TypeVar("Job")
Result = TypeVar("Result")


def default_cache() -> Path:
    """$XDG_CACHE_HOME/dalle-server/corpus, or below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dalle-server" / "corpus"


def ink_path(drawing: Drawing, inks: Path) -> Path:
    """Where a drawing's ink is kept: the name is a hash of its SVG or file."""
    art = drawing.art.encode() if isinstance(drawing.art, str) else drawing.art.read_bytes()
    name = hashlib.blake2b(_RENDERER.encode() + art, digest_size=16).hexdigest()
    return inks / name[:2] / f"{name}.webp"


def _render(job: tuple[Drawing, Path]) -> tuple[str, str, str]:
    """Make a drawing's ink unless it exists. Returns (path, digest of its pixels, ""), or ("", "", the fault)."""
    drawing, inks = job
    try:
        path = ink_path(drawing, inks)
        if not path.exists():
            ink = ink_of_svg(drawing.art) if isinstance(drawing.art, str) else ink_of_file(drawing.art)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            ink.save(partial, "WEBP", lossless=True, quality=0, method=0, exact=True)
            partial.replace(path)
        with Image.open(path) as ink:
            if max(ink.size) > 4 * min(ink.size):
                raise RenderError("long and thin")
            rgba = ink.convert("RGBA")
        if drawing.colour != "white" and visible_share(rgba, WHITE, distance=24.0) < 0.02:
            raise RenderError("white on white")
        return str(path), hashlib.blake2b(rgba.tobytes(), digest_size=16).hexdigest(), ""
    except RenderError as fault:
        return "", "", str(fault)


def _paint(job: tuple[Picture, dict[str, str]]) -> bytes:
    """`painted`, with inks that are read from files."""
    picture, inks = job
    loaded = {}
    for key, path in inks.items():
        with Image.open(path) as ink:
            loaded[key] = ink.convert("RGBA")
    return painted(picture, loaded)


class _Workers:
    """An ordered map over a number of processes. With one, it runs in this process."""

    def __init__(self, processes: int) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else None

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterable[Result]:
        return map(function, jobs) if self._pool is None else self._pool.imap(function, jobs, chunksize=16)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()


def _silent(_what: str, _done: int, _total: int) -> None:
    """A progress callback that does nothing."""


def _chosen(selection: str, names: Sequence[str] | None) -> list[Source]:
    if selection not in SELECTIONS:
        raise DataError(f"selection must be one of {', '.join(SELECTIONS)}, got {selection!r}")
    fitting = [s for s in SOURCES if s.evaluation == (selection == "eval") and (s.common or selection != "common")]
    if not names:
        return fitting
    unknown = set(names) - {source.name for source in fitting}
    if unknown:
        known = ", ".join(source.name for source in fitting)
        raise DataError(f"source must be one of {known} in the selection {selection}, got {', '.join(sorted(unknown))}")
    return sorted((source for source in fitting if source.name in names), key=lambda source: names.index(source.name))


def _listed(sources: Sequence[Source], cache: Path, asked: bool, summary: Summary, progress: Progress) -> list[Drawing]:
    """Fetch the packages and list the drawings. A source that cannot be fetched is left out, unless it is needed."""
    fetched: dict[str, Fetched] = {}
    drawings: list[Drawing] = []
    for at, source in enumerate(sources):
        progress(f"fetching {source.name}", at, len(sources))
        try:
            for package in source.packages:
                if package.name not in fetched:
                    fetched[package.name] = fetch(package, cache)
            drawings += source.read(fetched)
        except FetchError as error:
            if source.needed or asked:
                raise DataError(f"source {source.name}: {error}") from error
            logger.warning("source %s is left out: %s", source.name, error)
            summary.left_out[source.name] = str(error)
    progress("fetching", len(sources), len(sources))
    summary.packages = sorted(map(str, fetched.values()))
    return drawings


def build(
    out: Path,
    plan: Plan,
    *,
    cache: Path | None = None,
    sources: Sequence[str] | None = None,
    processes: int | None = None,
    shard_bytes: int = LIMIT,
    progress: Progress | None = None,
) -> Summary:
    """Build the corpus of a plan into `out`: train-*.tar, val-*.tar, manifest.jsonl, manifest.json, NOTICE.

    cache: folder for packages and rendered drawings. sources: use only these, in this order; each of them is needed
    then. processes: one for each processor by default. progress: called with what is being done, how much of it is
    done, and how much there is.
    Raises DataError if a needed package cannot be fetched, if a licence is not allowed, if `out` holds shards already,
    or if no drawing is left.
    """
    out, cache = Path(out), Path(cache or default_cache())
    report: Progress = progress or _silent
    summary = Summary(plan.selection, plan.seed)
    if out.exists() and any(out.glob("*.tar")):
        raise DataError(f"{out}: must be an empty folder, but it holds shards")
    fetched = _listed(_chosen(plan.selection, sources), cache, bool(sources), summary, report)
    listed, plain = plan.chosen(fetched)
    coloured = plan.in_other_colours(listed)
    if missing := plan.missing([*listed, *plain]):
        logger.warning("none of the sources has a drawing of %s", ", ".join(missing))
        summary.left_out |= dict.fromkeys(missing, "none of the sources has a drawing of it")
    with _Workers(processes or os.cpu_count() or 1) as workers:
        others = {picture.drawing.key: picture.drawing for picture in coloured}
        inks = _inks([*listed, *plain, *others.values()], cache / "ink", workers, summary, report)
        drawings = [drawing for drawing in listed if drawing.key in inks]
        if not drawings and not plain:
            raise DataError(f"none of {len(listed)} drawings can be rendered: {dict(summary.dropped)}")
        shapes_left = [drawing for drawing in plain if drawing.key in inks]
        pictures = plan.pictures(
            drawings, shapes_left, [picture for picture in coloured if picture.drawing.key in inks]
        )
        _write(out, pictures, inks, workers, shard_bytes, summary, report)
    return summary


def _inks(
    drawings: Sequence[Drawing],
    folder: Path,
    workers: _Workers,
    summary: Summary,
    progress: Progress,
) -> dict[str, str]:
    """Key of a drawing -> path of its ink. Faulty drawings and duplicates are left out."""
    inks: dict[str, str] = {}
    digests: set[str] = set()
    dropped: Counter[str] = Counter()
    jobs = [(drawing, folder) for drawing in drawings]
    for at, (drawing, (path, digest, fault)) in enumerate(zip(drawings, workers.map(_render, jobs), strict=True)):
        progress("rendering drawings", at + 1, len(drawings))
        if not fault and (digest in digests or drawing.key in inks):
            fault = "duplicate"
        if fault:
            dropped[fault] += 1
        else:
            digests.add(digest)
            inks[drawing.key] = path
    summary.dropped = dict(dropped.most_common())
    return inks


def _write(
    out: Path,
    pictures: Sequence[Picture],
    inks: dict[str, str],
    workers: _Workers,
    shard_bytes: int,
    summary: Summary,
    progress: Progress,
) -> None:
    jobs = [(picture, {key: inks[key] for key, _ in picture.placed}) for picture in pictures]
    lines = []
    seen: set[bytes] = set()
    writers: dict[str, ShardWriter] = {}
    for at, (picture, webp) in enumerate(zip(pictures, workers.map(_paint, jobs), strict=True)):
        progress("painting pictures", at + 1, len(pictures))
        digest = hashlib.blake2b(webp, digest_size=16).digest()
        if not webp or digest in seen:
            fault = "duplicate picture" if webp else "too little contrast"
            summary.dropped[fault] = summary.dropped.get(fault, 0) + 1
            continue
        seen.add(digest)
        writer = writers.get(picture.split) or writers.setdefault(
            picture.split, ShardWriter(out, picture.split, shard_bytes)
        )
        meta = {
            "captions": picture.captions,
            "concept": picture.concept,
            "source": picture.drawing.source,
            "licence": picture.drawing.licence,
            "kind": picture.kind,
            "split": picture.split,
            "mirror": picture.mirror,
        }
        lines.append(manifest.line_of(picture, writer.add(picture.key, webp, meta)))
    for writer in writers.values():
        writer.close()
        summary.shards += writer.shards
    with (out / manifest.LINES).open("w") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    summary.pictures, summary.concepts = len(lines), len({line["concept"] for line in lines})
    summary.splits, summary.kinds, summary.sources = (
        manifest.counts(lines, field) for field in ("split", "kind", "source")
    )
    summary.write(out)
    (out / "NOTICE").write_text(manifest.notice(out))
