"""Tars of captioned pictures -> token shards: every picture is decoded, judged and encoded once, whatever comes after.

A token shard is a folder that stands for one tar: tokens.npy (n, 1024) uint16, mirrored.npy where pictures may be
mirrored, captions.jsonl with offsets.npy to find a line, and prints.npy and looks.npy, by which duplicates are found
over all shards. It gets its name when it is complete, so a run that was killed goes on with the next tar. A picture
takes 2.5 kB on disk, a hundredth of its pixels, and nothing in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from model.errors import DataError
from model.training.data import Report, Sample, iterate
from model.training.duplicates import Seen, fingerprint, look
from model.training.filters import Filter, Rules
from model.training.loop import Place, first_goes_first, wait_for_all
from model.training.prepare import home_of, state_of, to_tensor, vae_digest
from model.training.published.store import CaptionStore, FileReport, parted
from model.vae import VAE

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.uint16]
Rows = npt.NDArray[np.int64]
HELD_OUT = 50  # where no picture of a shard names a split, the last of every so many of its pictures is held out


def tars_of(paths: Sequence[Path]) -> list[Path]:
    """The tars among `paths` and in their folders, by name. Raises DataError where there are none."""
    found = [tar for path in paths for tar in (sorted(path.rglob("*.tar")) if path.is_dir() else [path])]
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: a stream reads tars (KEY.jpg, KEY.txt or KEY.json); there are none"
        )
    return found


@dataclass(frozen=True, eq=False)
class TokenShard:
    """One tar's captioned pictures as tokens. Its files are mapped when they are first read, and go with the object."""

    folder: Path
    rows: Rows  # those to learn from
    held_out: Rows

    @cached_property
    def _tokens(self) -> dict[bool, Ids]:
        """By whether they are mirrored."""
        paths = {False: self.folder / "tokens.npy", True: self.folder / "mirrored.npy"}
        return {turned: np.load(path, mmap_mode="r") for turned, path in paths.items() if path.exists()}

    @cached_property
    def _lines(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        texts = np.memmap(self.folder / "captions.jsonl", dtype=np.uint8, mode="r")
        return np.load(self.folder / "offsets.npy", mmap_mode="r"), texts

    def line(self, row: int) -> dict[str, Any]:
        """A picture's "captions" [[weight, text], ...] and "key"; and "mirror", true where it may be mirrored."""
        offsets, texts = self._lines
        found: dict[str, Any] = json.loads(texts[offsets[row] : offsets[row + 1]].tobytes())
        return found

    def tokens(self, row: int, mirrored: bool = False) -> Ids:
        """(1024,) uint16, of the picture or of its mirror image."""
        found: Ids = self._tokens[mirrored][row]
        return found


class _Writer:
    """Gathers one tar's pictures and writes its token shard."""

    def __init__(self, vae: VAE, device: torch.device, batch: int = 16) -> None:
        self._vae, self._device, self._batch = vae, device, batch
        self._waiting: list[Sample] = []
        self._lines: list[bytes] = []
        self._arrays: dict[str, list[Any]] = {"tokens": [], "mirrored": [], "prints": [], "looks": [], "split": []}
        self._may_turn = False

    def add(self, sample: Sample) -> None:
        """Take one picture that passed."""
        turns = bool(sample.meta.get("mirror"))
        self._may_turn |= turns
        line = {"key": sample.key, "captions": sample.captions, **({"mirror": True} if turns else {})}
        self._lines.append(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._arrays["prints"].append(np.frombuffer(fingerprint(sample.image), dtype=np.uint8))
        self._arrays["looks"].append(look(sample.image))
        self._arrays["split"].append({"train": 1, "val": 2}.get(sample.meta.get("split", ""), 0))
        self._waiting.append(sample)
        if len(self._waiting) == self._batch:
            self._encode()

    @torch.inference_mode()
    def _encode(self) -> None:
        pictures = to_tensor(np.stack([sample.image for sample in self._waiting]), self._device)
        self._arrays["tokens"].append(self._vae.encode(pictures).flatten(1).cpu().numpy().astype(np.uint16))
        turns = any(sample.meta.get("mirror") for sample in self._waiting)
        turned = self._vae.encode(pictures.flip(-1)).flatten(1).cpu().numpy().astype(np.uint16) if turns else None
        self._arrays["mirrored"].append(self._arrays["tokens"][-1] if turned is None else turned)
        self._waiting.clear()

    def write(self, folder: Path, report: dict[str, Any]) -> None:
        """Write all of it to `folder`, which appears when it is complete."""
        if self._waiting:
            self._encode()
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if self._lines:
            for name in ("tokens", *(["mirrored"] if self._may_turn else [])):
                np.save(partial / f"{name}.npy", np.concatenate(self._arrays[name]))
            for name in ("prints", "looks", "split"):
                np.save(partial / f"{name}.npy", np.stack(self._arrays[name]).astype(np.uint8))
            np.save(partial / "offsets.npy", np.cumsum([0, *map(len, self._lines)]))
            (partial / "captions.jsonl").write_bytes(b"".join(self._lines))
        (partial / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        partial.replace(folder)


def _encode_tar(
    tar: Path, folder: Path, vae: VAE, rules: Rules, device: torch.device, join: Callable[[Sample], Sample]
) -> None:
    judge, report, writer = Filter(rules=replace(rules, near=False)), Report(), _Writer(vae, device)
    try:
        for sample in iterate([tar], refine=lambda sample: judge(join(sample)), report=report):
            writer.add(sample)
    except DataError:  # nothing in it can be read; the report says what was met
        report.corrupt["shard"] = max(1, report.corrupt["shard"])
    counts = judge.report()
    writer.write(
        folder, {"tar": tar.name, "corrupt": dict(report.corrupt), "refused": counts, "kept": counts["passed"]}
    )


def home_of_tar(tar: Path, home: Path) -> Path:
    """Where a tar's token shard stands; elsewhere when the tar has changed."""
    known = tar.stat()
    named = f"{tar.resolve()} {known.st_size} {known.st_mtime_ns}"
    return home / f"{tar.stem}-{hashlib.sha256(named.encode()).hexdigest()[:8]}"


def _choose(homes: Sequence[Path], rules: Rules) -> tuple[list[Rows], list[Rows], dict[str, Any]]:
    """Rows to learn from and rows held out, of each shard, and a report: duplicates of earlier rows are left out."""
    seen, refused, corrupt = Seen(rules.near), Counter[str](), Counter[str]()
    learnt: list[Rows] = []
    held_out: list[Rows] = []
    for home in homes:
        report = json.loads((home / "report.json").read_text())
        corrupt.update(report["corrupt"])
        refused.update(report["refused"])
        rows = split = np.zeros(0, dtype=np.int64)
        if report["kept"]:
            prints, looks = np.load(home / "prints.npy"), np.load(home / "looks.npy")
            reasons = [seen.judge(print_.tobytes(), look_) for print_, look_ in zip(prints, looks, strict=True)]
            refused.update(reason for reason in reasons if reason)
            rows = np.array([row for row, reason in enumerate(reasons) if not reason], dtype=np.int64)
            split = np.load(home / "split.npy")[rows]
        held = split == 2 if split.any() else np.arange(len(rows)) % HELD_OUT == HELD_OUT - 1
        learnt.append(rows[~held])
        held_out.append(rows[held])
    del refused["passed"]
    kept, kept_out = sum(map(len, learnt)), sum(map(len, held_out))
    report = {
        "tars": len(homes),
        "corrupt": dict(corrupt),
        "refused": dict(refused.most_common()),
        "passed": kept + kept_out,
    }
    return learnt, held_out, {**report, "learnt from": kept, "held out": kept_out}


def _chosen(home: Path, homes: Sequence[Path], rules: Rules) -> tuple[list[Rows], list[Rows]]:
    """`_choose`, made once for a set of shards and kept."""
    named = hashlib.sha256("\n".join(folder.name for folder in homes).encode()).hexdigest()[:12]
    path = home / f"rows-{named}.npz"
    if not path.exists():
        learnt, held_out, report = _choose(homes, rules)
        (home / f"report-{named}.json").write_text(json.dumps(report, indent=2) + "\n")
        log.info("%s", json.dumps(report))
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                learnt=np.concatenate(learnt),
                learnt_ends=np.cumsum([len(rows) for rows in learnt]),
                held_out=np.concatenate(held_out),
                held_out_ends=np.cumsum([len(rows) for rows in held_out]),
            )
        partial.replace(path)
    with np.load(path) as kept:
        parts = [np.split(kept[name], kept[f"{name}_ends"][:-1]) for name in ("learnt", "held_out")]
    return parts[0], parts[1]


def token_shards(data: Sequence[Path], vae: VAE, cache: Path, rules: Rules, place: Place) -> list[TokenShard]:
    """The token shards of the tars in `data`, made in `cache` where they are not there yet; none is empty.

    data: tars, folders of tars, and index files whose captions go before the pictures' own. Processes share the work.
    Tars and pictures that cannot be read are counted in the report and left out. Raises DataError when nothing is left.
    """
    pictures, files = parted(data)
    tars = tars_of(pictures)
    home = cache / "-".join(
        ["tokens", home_of(files, rules), vae_digest(vae), *([state_of(files)[:12]] if files else [])]
    )
    homes = [home_of_tar(tar, home) for tar in tars]
    missing = [at for at in range(place.rank, len(tars), place.world) if not homes[at].exists()]
    captions = home / "captions.sqlite"
    with first_goes_first(place):
        if files and not captions.exists():
            reports: dict[str, FileReport] = {}
            CaptionStore.build(files, captions, rules, reports).close()
            log.info(
                "%s", "; ".join(f"{file}: {report.passed} of {report.rows} rows" for file, report in reports.items())
            )
    store = CaptionStore(captions) if files else None
    vae = vae.to(place.device).eval()
    for at in track(missing, "encoding shards", console=Console(stderr=True), disable=not missing):
        join = (lambda sample: store.join(sample)[0]) if store else (lambda sample: sample)
        _encode_tar(tars[at], homes[at], vae, rules, place.device, join)
    if store:
        store.close()
    wait_for_all(place)
    with first_goes_first(place):
        learnt, held_out = _chosen(home, homes, rules)
    shards = [TokenShard(*parts) for parts in zip(homes, learnt, held_out, strict=True) if len(parts[1])]
    if not shards:
        raise DataError(f"{', '.join(map(str, data))}: no picture is fit to train on; {home} has the counts")
    return shards
