"""Folders and WebDataset tars -> where the files of each sample are. Nothing is decoded.

A folder holds pictures, at any depth, with a text of the same name beside each or elsewhere, or with a list of captions
(`listed`), or shards. A shard is an uncompressed tar with KEY.webp and KEY.json or KEY.txt. In a tar the key ends at
the first dot, as in WebDataset, so photo.01.jpg is no picture there. `pairing` says what belongs together. Everything
that is not used is counted and named in the report.
"""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.errors import DataError
from model.files import KINDS
from model.limits import printable
from model.training.folders import HIDDEN, files_in, is_hidden
from model.training.listed import LISTS, read_list
from model.training.pairing import PICTURES, TEXTS, Entry, Grouped, Piece, Row, pair
from model.training.report import Report

DOTTED = "file of a tar whose name has a dot before its ending"
LINK = "link in a tar"
OTHER = "file of a kind that is not read"


def _zeros_from(path: Path, offset: int) -> bool:
    """Whether the file has only zeros from `offset` on, and one or more: the end of a sound tar.

    tarfile stops without an error at a damaged header, too.
    """
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read(1 << 16)
        ends = bool(rest)
        while rest and not rest.strip(b"\0"):
            rest = file.read(1 << 16)
        return ends and not rest


def _in_tar(path: Path, report: Report) -> Iterator[Entry]:
    found = Grouped(report)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                _add_member(member, path, found, report)
            if not _zeros_from(path, tar.offset):
                raise tarfile.ReadError(f"byte {tar.offset} is neither a file's header nor the archive's end")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:  # damaged numbers, too
        report.note("end of a shard" if found.groups else "shard", f"{path.name} ({error})")
    yield from pair(found.groups, [], report)


def _add_member(member: tarfile.TarInfo, path: Path, found: Grouped, report: Report) -> None:
    if member.isdir():
        return
    folder, _, name = member.name.rpartition("/")
    key, _, rest = name.partition(".")
    ending = f".{rest.lower()}"
    told = f"{path.name}:{member.name}"
    if any(is_hidden(part) for part in (*folder.split("/"), name) if part not in (".", "..")):
        report.leave(HIDDEN, told)
    elif not member.isfile():
        report.leave(LINK if member.islnk() or member.issym() else OTHER, told)
    elif ending in PICTURES or ending in TEXTS:
        found.add(folder, key, name, ending, Piece(path, member.offset_data, member.size))
    elif Path(name).suffix.lower() in (*PICTURES, *TEXTS):
        report.leave(DOTTED, told)
    else:
        report.leave(OTHER, told)


def _in_folder(folder: Path, report: Report) -> Iterator[Entry]:
    found, rows = Grouped(report), list[Row]()
    for path in files_in(folder, lambda kind, path: report.leave(kind, str(path))):
        ending = path.suffix.lower()
        if ending == ".tar":
            yield from _in_tar(path, report)
        elif path.name.lower() in LISTS:
            listed = read_list(path, lambda what: report.note("list", what))
            rows += [Row(str(path.parent), name, captions) for name, captions in listed.items()]
        elif ending in PICTURES or ending in TEXTS:
            found.add(str(path.parent), path.stem, path.name, ending, Piece(path))
        else:
            report.leave(OTHER, str(path))
    yield from pair(found.groups, rows, report)


def _check_kind(path: Path) -> None:
    """Raises DataError for what is neither a folder nor a regular file, whose opening might wait for ever."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    mode = path.stat().st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise DataError(
            f"{path} must be a folder or a regular file, got {KINDS.get(stat.S_IFMT(mode), 'another kind')}"
        )


def index(paths: Sequence[Path], report: Report | None = None) -> list[Entry]:
    """Every sample of these folders and tars, in an order that depends only on their names.

    A tar that is damaged or cut short is counted in the report, and the rest is read. Raises DataError, with the path,
    when one does not exist, a folder holds no picture, or none of the tars can be read.
    """
    report = report if report is not None else Report()
    entries: list[Entry] = []
    for path in map(Path, paths):
        _check_kind(path)
        here = list(_in_folder(path, report) if path.is_dir() else _in_tar(path, report))
        if not here and not report.corrupt["shard"]:
            why = f"{path}: no pictures in it ({', '.join(PICTURES)}, or tars of them)"
            raise DataError(printable(f"{why}; unused: {report.told_unused()}" if report.unused else why))
        entries += here
    if not entries:
        why = (
            f"{paths[0]}: no shard can be read: {', '.join(report.names)}"
            if paths
            else "no folder or tar of pictures is named"
        )
        raise DataError(why)
    return entries
