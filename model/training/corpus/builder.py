"""The default corpus from end to end: fetch, list, render, compose, write shards and manifest.

    summary = build(Path("data/common"), selection="common")

Two passes, each over all processors. The first renders every drawing once to ink in the cache, under a name made from
its content, so that a build that was stopped, or a later one, goes on from there. The second paints the pictures and
writes them in an order that depends on the seed alone: the same packages and seed give the same shards, byte for byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

from PIL import Image

from model.errors import DataError
from model.training.selection import Selection
from model.training.shards import LIMIT, ShardWriter

from . import clipart, emoji, faces, icons, manifest
from .compose import SHARES, Picture, compositions, dyes, hold_out, on_grounds, plain_shapes, shapes, single, together
from .drawing import WHITE, RenderError, encode, ink_of_file, ink_of_svg, paint, visible_share
from .manifest import Summary
from .packages import Fetched, FetchError, fetch
from .source import Drawing, Source

logger = logging.getLogger(__name__)

SOURCES: tuple[Source, ...] = (*emoji.SOURCES, *icons.SOURCES, *clipart.SOURCES, *faces.SOURCES)
SELECTIONS = ("common", "full", "eval")
DYED_GROUNDS = 2  # on so many a thing in another colour is shown: its colour and the ground are known from elsewhere
_RENDERER = "1"  # part of every ink's name: raise it when `drawing` renders otherwise

Progress = Callable[[str, int, int], None]  # what is being done, done, of how many
Job = TypeVar("Job")
Result = TypeVar("Result")


def default_cache() -> Path:
    """$XDG_CACHE_HOME/dalle-server/corpus, or below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dalle-server" / "corpus"


def ink_path(drawing: Drawing, inks: Path) -> Path:
    """Where a drawing's ink is kept: named by what it is rendered from."""
    art = drawing.art.encode() if isinstance(drawing.art, str) else drawing.art.read_bytes()
    name = hashlib.blake2b(_RENDERER.encode() + art, digest_size=16).hexdigest()
    return inks / name[:2] / f"{name}.webp"


def _render(job: tuple[Drawing, Path]) -> tuple[str, str, str]:
    """Make a drawing's ink unless it is there. (path, digest of its pixels, "") or ("", "", the fault)."""
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


def painted(picture: Picture, inks: Mapping[str, Image.Image]) -> bytes:
    """A picture as WebP; b"" when one of its drawings would not stand out from its background."""
    placed = [(inks[key], box) for key, box in picture.placed]
    if any(visible_share(ink, picture.background) < picture.contrast for ink, _ in placed):
        return b""
    return encode(paint(picture.background, placed))


def _paint(job: tuple[Picture, dict[str, str]]) -> bytes:
    """`painted`, from the inks' files."""
    picture, inks = job
    loaded = {}
    for key, path in inks.items():
        with Image.open(path) as ink:
            loaded[key] = ink.convert("RGBA")
    return painted(picture, loaded)


class _Workers:
    """An ordered map over this many processes; in this one alone when it is one."""

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
    """Nobody wants to know."""


def _chosen(selection: str, names: Sequence[str] | None) -> list[Source]:
    if selection not in SELECTIONS:
        raise DataError(f"selection {selection!r}: one of {', '.join(SELECTIONS)} is meant")
    fitting = [s for s in SOURCES if s.evaluation == (selection == "eval") and (s.common or selection != "common")]
    if not names:
        return fitting
    unknown = set(names) - {source.name for source in fitting}
    if unknown:
        known = ", ".join(source.name for source in fitting)
        raise DataError(f"no source {', '.join(sorted(unknown))} in the selection {selection}; there are {known}")
    return sorted((source for source in fitting if source.name in names), key=lambda source: names.index(source.name))


def _listed(sources: Sequence[Source], cache: Path, asked: bool, summary: Summary, progress: Progress) -> list[Drawing]:
    """Fetch the packages and list the drawings. A source that cannot be had is left out, unless it is needed."""
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


def _of_concepts(drawings: Sequence[Drawing], concepts: Mapping[str, float]) -> list[Drawing]:
    wanted = Selection(concepts)
    return [drawing for drawing in drawings if wanted.weight(drawing.concept.slug) > 0]


def _first_of_each(drawings: Sequence[Drawing]) -> list[Drawing]:
    """The first drawing of every thing."""
    return list({drawing.concept.slug: drawing for drawing in reversed(drawings)}.values())[::-1]


def _with_own_names(drawings: Sequence[Drawing]) -> list[Drawing]:
    """No two things by one name: it stays with the thing whose first name it is, or else with the first that has it.

    A name of two drawings would be drawn as something between them. A thing without a name of its own keeps its names.
    """
    owner: dict[str, str] = {}
    for drawing in drawings:
        owner.setdefault(drawing.concept.names[0].text, drawing.concept.slug)
    for drawing in drawings:
        for name in (*drawing.concept.names, *drawing.concept.synonyms):
            owner.setdefault(name.text, drawing.concept.slug)
    found = []
    for drawing in drawings:
        concept = drawing.concept
        names, synonyms = (
            tuple(name for name in some if owner[name.text] == concept.slug)
            for some in (concept.names, concept.synonyms)
        )
        own = dataclasses.replace(concept, names=names or concept.names, synonyms=synonyms)
        found.append(dataclasses.replace(drawing, concept=own))
    return found


def _dyed(
    drawings: Sequence[Drawing], chosen: Mapping[str, float], number: int, grounds: int, seed: int
) -> list[Picture]:
    """These things in other colours."""
    if not number:
        return []
    taken = {name.text for drawing in drawings for name in drawing.concept.names}
    return [
        one
        for drawing in _of_concepts(drawings, chosen)
        for one in dyes(Random(f"{seed} {drawing.key} dyes"), drawing, number, min(grounds, DYED_GROUNDS), taken)
    ]


def _plan(
    drawings: Sequence[Drawing],
    plain: Sequence[Drawing],
    selection: str,
    seed: int,
    grounds: int,
    pairs: int,
    paired: Mapping[str, float],
    one_each: bool,
    say_style: bool,
    dyed: Sequence[Picture] = (),
) -> list[Picture]:
    """Every picture to be made, in the order of the shards."""
    pictures = [single(drawing, say_style) for drawing in drawings]
    if selection == "eval":
        return [Picture(**{**vars(p), "kind": "eval", "split": "eval"}) for p in pictures]
    pictures += shapes(Random(f"{seed} shapes"), plain, whole=one_each)
    shares = SHARES[selection] | (dict.fromkeys(("pair", "count"), 0.0) if pairs else {})
    pictures += compositions(Random(f"{seed} compositions"), drawings, shares)
    pictures += (
        together(Random(f"{seed} together"), _of_concepts(drawings, paired), pairs, named=bool(paired)) if pairs else []
    )
    for drawing in drawings:
        pictures += on_grounds(Random(f"{seed} {drawing.key}"), drawing, grounds)
    pictures += dyed
    pictures = hold_out(Random(f"{seed} val"), pictures)
    Random(f"{seed} order").shuffle(pictures)
    return pictures


def build(
    out: Path,
    selection: str = "common",
    *,
    cache: Path | None = None,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    grounds: int = 0,
    pairs: int = 0,
    concepts: Mapping[str, float] | None = None,
    paired: Mapping[str, float] | None = None,
    in_colours: int = 0,
    dyed: Mapping[str, float] | None = None,
    one_each: bool = False,
    say_style: bool = False,
    kinds: Collection[str] = (),
    processes: int | None = None,
    shard_bytes: int = LIMIT,
    progress: Progress | None = None,
) -> Summary:
    """Build the corpus into `out`: train-*.tar, val-*.tar, manifest.jsonl, manifest.json, NOTICE.

    selection: "common", the everyday things by the emoji vendors (about 8000 pictures, four minutes on two cores);
    "full", all sources; "eval", the held-out vendor's drawings, whose share-alike licence keeps them out of training.
    cache: packages and rendered drawings are kept here. sources: only these, in this order, and each is then needed.
    grounds: every drawing also on so many of the named colours, in its place.
    pairs: every drawing of a thing in up to so many pairs, and two to five times; 0 leaves a few of both to chance.
    concepts: only drawings of these, as in `Selection`; paired: of them, those that are counted and put into pairs.
    in_colours: every drawing that has a main colour also in so many others, and each of these on up to two grounds;
    dyed: of these things only.
    one_each: of every name the first drawing only, an emoji's red circle before our own; and every name for one thing.
    say_style: a thing alone is always told with its style ("a 3d cat"), so that "a cat" may be drawn in another.
    kinds: only pictures of these, as the samples name their kind.
    processes: default, one a processor.
    progress: called with what is being done, done, of how many.
    Raises DataError for a package that cannot be had and is needed, for a licence that is not allowed, for an `out`
    that holds shards already, and where nothing is left to draw.
    """
    out, cache = Path(out), Path(cache or default_cache())
    report: Progress = progress or _silent
    summary = Summary(selection, seed)
    if out.exists() and any(out.glob("*.tar")):
        raise DataError(f"{out}: holds shards already; name an empty folder")
    listed = _listed(_chosen(selection, sources), cache, bool(sources), summary, report)
    if selection == "common":
        listed = [drawing for drawing in listed if drawing.everyday]
    listed = _of_concepts(listed, concepts or {})
    plain = [] if selection == "eval" else _of_concepts(plain_shapes(), concepts or {})
    if one_each:
        listed = _with_own_names(_first_of_each(listed))
        named = {name.text for drawing in listed for name in drawing.concept.names}
        plain = [drawing for drawing in plain if drawing.concept.names[0].text not in named]
    coloured = _dyed(listed, dyed or {}, in_colours, grounds, seed)
    if missing := sorted(name for name in concepts or () if not _of_concepts([*listed, *plain], {name: 1.0})):
        logger.warning("no source that was asked has a drawing of %s", ", ".join(missing))
        summary.left_out |= dict.fromkeys(missing, "no source that was asked has a drawing of it")
    with _Workers(processes or os.cpu_count() or 1) as workers:
        others = {picture.drawing.key: picture.drawing for picture in coloured}
        inks = _inks([*listed, *plain, *others.values()], cache / "ink", workers, summary, report)
        drawings = [drawing for drawing in listed if drawing.key in inks]
        if not drawings and not plain:
            raise DataError(f"none of {len(listed)} drawings can be rendered: {dict(summary.dropped)}")
        shapes_left = [drawing for drawing in plain if drawing.key in inks]
        coloured = [picture for picture in coloured if picture.drawing.key in inks]
        pictures = _plan(
            drawings, shapes_left, selection, seed, grounds, pairs, paired or {}, one_each, say_style, coloured
        )
        if unknown := set(kinds) - (made := {picture.kind for picture in pictures}):
            raise DataError(f"no picture is of kind {', '.join(sorted(unknown))}; there are {', '.join(sorted(made))}")
        pictures = [picture for picture in pictures if not kinds or picture.kind in kinds]
        _write(out, pictures, inks, workers, shard_bytes, summary, report)
    return summary


def _inks(
    drawings: Sequence[Drawing],
    folder: Path,
    workers: _Workers,
    summary: Summary,
    progress: Progress,
) -> dict[str, str]:
    """Drawing -> path of its ink, for those that can be seen and are not a twin of an earlier one."""
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
