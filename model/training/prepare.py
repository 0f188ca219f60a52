"""Shards or folders of pictures -> flat arrays on disk that training reads at random: pictures once, tokens once.

For more pictures than the disk has room for twice, there is `model.training.stream`.

A prepared folder holds images.raw, n x 256 x 256 x 3 bytes, captions.jsonl (a line a picture) and, per VAE,
tokens-*.npy (n, 1024) uint16 with the mirrored pictures' tokens beside them. They are memory-mapped, so a data set may
be larger than memory, and sample i is sample i in every run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from model.errors import DataError
from model.training.data import Report, iterate
from model.training.filters import RULES, Filter, Rules, fit_captions
from model.training.published.store import FileReport, joined
from model.vae import VAE

log = logging.getLogger(__name__)

_STDERR = Console(stderr=True)

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.uint16]


@dataclass
class Prepared:
    """n pictures and what is known of each. A picture without captions is for the VAE only."""

    folder: Path
    images: Bytes  # (n, 256, 256, 3), memory-mapped
    lines: list[dict[str, Any]]  # captions [[weight, text], ...], concept, kind, split, mirror, source

    def why_no_captions(self) -> str:
        """Why pictures are without a caption, as the report has it: "no caption 3, caption not English 2"."""
        reasons = _report(self.folder).get("captions", {})
        return ", ".join(f"{reason} {count}" for reason, count in reasons.items())

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Indices of the pictures of one split, "train" or "val"."""
        return np.array([i for i, line in enumerate(self.lines) if line.get("split", "train") == split], dtype=np.int64)


def _report(home: Path) -> dict[str, Any]:
    path = home / "report.json"
    return cast(dict[str, Any], json.loads(path.read_text())) if path.exists() else {}


def state_of(data: Sequence[Path], made: Path | None = None) -> str:
    """Changes with the names, sizes and times of files and of all in folders, but what was made of them in `made`."""
    digest, made = hashlib.sha256(), made.resolve() if made else None
    for path in (Path(path).resolve() for path in data):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not (made and file.is_relative_to(made)):
                known = file.stat()
                digest.update(f"{file} {known.st_size} {known.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _up_to_date(home: Path, data: Sequence[Path]) -> bool:
    """True where `home` holds what was made of these data as they are now."""
    made_of = _report(home).get("state")
    # One without a state was made before states were kept. Data that went away stay prepared.
    return made_of is None or not all(Path(path).exists() for path in data) or made_of == state_of(data, home)


def _write(data: Sequence[Path], folder: Path, rules: Rules) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = state_of(data, folder)
    for made in (folder / "captions.jsonl", *folder.glob("tokens-*")):  # of what the data were before
        made.unlink(missing_ok=True)
    judge, report, captions = Filter(captions=False, rules=rules), Report(), Counter[str]()
    files: dict[str, FileReport] = {}
    raw, lines = folder / "images.raw.partial", folder / "captions.jsonl.partial"
    count = 0
    with joined(data, folder / "captions.sqlite", rules, files) as (pictures, join):
        samples = iterate(pictures, refine=lambda sample: judge(join(sample)), report=report)
        with raw.open("wb") as pixels, lines.open("w") as texts:
            for sample in track(samples, "reading pictures", total=None, console=Console(stderr=True)):
                pixels.write(np.ascontiguousarray(sample.image, dtype=np.uint8).tobytes())
                fit, reason = fit_captions(sample.captions, rules)
                captions[reason] += 1
                line = {**sample.meta, "captions": [[float(weight), text] for weight, text in fit]}
                texts.write(json.dumps(line, ensure_ascii=False) + "\n")
                count += 1
    counts = {"pictures": judge.report(), "captions": {reason: n for reason, n in captions.items() if reason}}
    if files:
        counts["index rows that passed"] = {file: found.passed for file, found in files.items()}
    log.info("%d pictures; passed and refused: %s", count, json.dumps(counts))
    if not count:
        raise DataError(f"{', '.join(map(str, data))}: no picture is fit to train on: {report}; {json.dumps(counts)}")
    (folder / "report.json").write_text(json.dumps({"read": str(report), "state": state, **counts}, indent=2) + "\n")
    raw.replace(folder / "images.raw")
    lines.replace(folder / "captions.jsonl")


def home_of(data: Sequence[Path], rules: Rules) -> str:
    """The name of the folder for what is made of these data by these rules."""
    named = "\n".join(str(Path(path).resolve()) for path in data)
    if rules != RULES:
        named += f"\n{rules}"
    return hashlib.sha256(named.encode()).hexdigest()[:12]


def held_out(pictures: int) -> int:
    """How many of so many are held out, the last ones, where none names a split: 2 %, and at least one of several."""
    return max(1, pictures // 50) if pictures > 1 else 0


def prepare(data: Sequence[Path], folder: Path, rules: Rules = RULES) -> Prepared:
    """Read every picture of `data` once into `folder`, or take what an earlier call left there of the same files.

    data: folders and tars of pictures, and index files, whose captions go before the pictures' own. Pictures that
    break a rule are left out. A picture with no caption left stays, for the VAE alone. Where no picture names a split,
    the last 2 % (at least one) become "val". Raises DataError when nothing can be read.
    """
    home = folder / home_of(data, rules)
    if not (home / "captions.jsonl").exists() or not _up_to_date(home, data):
        _write(data, home, rules)
    with (home / "captions.jsonl").open() as texts:
        lines = [json.loads(line) for line in texts]
    images = np.memmap(home / "images.raw", dtype=np.uint8, mode="r").reshape(len(lines), 256, 256, 3)
    if not any("split" in line for line in lines):
        for line in lines[len(lines) - held_out(len(lines)) :]:
            line["split"] = "val"
    return Prepared(home, images, lines)


def to_tensor(pictures: Bytes, device: torch.device | str = "cpu") -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float32 in [0, 1], channels last in memory."""
    return to_floats(torch.from_numpy(np.array(pictures)).to(device))  # a copy: memory maps are read-only


def to_floats(pictures: Tensor) -> Tensor:
    """The same of a tensor, on its device."""
    return pictures.permute(0, 3, 1, 2).float().div_(255).contiguous(memory_format=torch.channels_last)


def to_bytes(pictures: Tensor) -> Bytes:
    """The way back: (n, 3, h, w) floats in [0, 1] -> (n, h, w, 3) uint8, on the CPU."""
    pixels: Bytes = (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def vae_digest(vae: VAE) -> str:
    """A short name of the VAE's encoder: another encoder makes other tokens, another decoder does not."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.inference_mode()
def tokenize(prepared: Prepared, vae: VAE, device: torch.device, batch: int = 16) -> tuple[Ids, Ids]:
    """Image tokens of every picture and of its mirror image, each (n, 1024) uint16, made once and kept."""
    name = vae_digest(vae)
    paths = (prepared.folder / f"tokens-{name}.npy", prepared.folder / f"tokens-{name}-mirrored.npy")
    if not all(path.exists() for path in paths):
        count, tokens = len(prepared.lines), vae.config.grid**2
        found = (np.zeros((count, tokens), np.uint16), np.zeros((count, tokens), np.uint16))
        vae = vae.to(device).eval()
        for first in track(range(0, count, batch), "encoding pictures", console=_STDERR):
            pictures = to_tensor(prepared.images[first : first + batch], device)
            for array, images in zip(found, (pictures, pictures.flip(-1)), strict=True):
                array[first : first + batch] = vae.encode(images).flatten(1).cpu().numpy()
        for path, array in zip(paths, found, strict=True):
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, array)
            partial.replace(path)
    return np.load(paths[0], mmap_mode="r"), np.load(paths[1], mmap_mode="r")
