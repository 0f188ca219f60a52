"""DALLE-pytorch and min-dalle beside this project: the same weights, the same machine, one run.

Their packages are installed into an environment of their own, once, which uses this program's PyTorch. Each makes a
checkpoint with random weights, and is measured. `dalle-server import` makes a checkpoint of the same weights, and the
engine is measured with it. A ratio is their time through ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from app.commands.bench.clients import BenchFailed
from app.commands.bench.report import Row
from model.errors import InvalidRequest

PACKAGES = (
    "dalle-pytorch==1.6.6",
    "axial-positional-embedding==0.2.1",
    "rotary-embedding-torch==0.1.5",
    "min-dalle==0.4.11",
    "emoji==2.16.0",
    "requests",
    "certifi",
    "charset-normalizer",
    "idna",
    "urllib3",
    "tqdm",
    "packaging",
    "einops",
    "setuptools<81",  # for pkg_resources
)
TOGETHER = 16
ROUNDED = ("bfloat16", "int8")


@dataclass(frozen=True)
class Shape:
    """Sizes of the peers' models. images: numbers of pictures at once that DALLE-pytorch paints."""

    hparams: dict[str, Any]
    vae_params: dict[str, Any]
    min_dalle: dict[str, int]
    images: tuple[int, ...] = (1, TOGETHER)


PUBLISHED = Shape(
    {"num_text_tokens": 49408, "text_seq_len": 256, "dim": 512, "depth": 12, "heads": 8, "dim_head": 64},
    {"image_size": 256, "num_layers": 3, "num_tokens": 8192, "codebook_dim": 512, "hidden_dim": 64},
    {"layers": 12, "heads": 16, "width": 1024, "hidden": 2730, "text_vocab": 50264},
)


@dataclass(frozen=True)
class Compared:
    """Seconds of the peers and of this project.

    repaired, ours: of so many pictures of DALLE-pytorch's checkpoint. published: of one, as the package is. probe: the
    largest difference of logits that both compute of the same tokens. min_dalle, ours_min_dalle: of one picture.
    rounded: as ours, by the --dtype that rounds the weights; ours computes with the weights as they are.
    """

    repaired: dict[int, float]
    published: float
    ours: dict[int, float]
    probe: float
    min_dalle: float
    ours_min_dalle: float
    rounded: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Ratios, above 1 where this project is faster, and the seconds behind them."""
        one = self.ours[1]
        return {
            "dalle_pytorch": {
                "one_image": self.repaired[1] / one,
                "sixteen_images": self._together(self.ours),
                "published_one_image": self.published / one,
                **{
                    dtype: {"one_image": self.repaired[1] / ours[1], "sixteen_images": self._together(ours)}
                    for dtype, ours in self.rounded.items()
                },
                "seconds": {
                    "repaired": self.repaired,
                    "published": self.published,
                    "ours": self.ours,
                    **{f"ours_{dtype}": ours for dtype, ours in self.rounded.items()},
                },
                "logits_differ_by": self.probe,
            },
            "min_dalle": {
                "one_image": self.min_dalle / self.ours_min_dalle,
                "seconds": {"theirs": self.min_dalle, "ours": self.ours_min_dalle},
            },
        }

    def _together(self, ours: dict[int, float]) -> float | None:
        return self.repaired[TOGETHER] / ours[TOGETHER] if TOGETHER in self.repaired else None

    def rows(self) -> list[Row]:
        """Lines of the table. Their time stands where the floor of other lines stands: more is better here."""
        found = []
        for images, theirs in self.repaired.items():
            who = "1 picture" if images == 1 else f"{images} pictures"
            for dtype, all_of_ours in (("", self.ours), *self.rounded.items()):
                ours, how = all_of_ours[images], f" {dtype}".rstrip()
                note = self.notes.get(f"ours {images}{how}", "")
                told = f"DALLE-pytorch, its cache repaired: {theirs:.3g} s; ours{how} {ours:.3g} s"
                found.append(Row(f"times faster, {who}", theirs / ours, None, "x", f"{told}{note}"))
        told = f"DALLE-pytorch 1.6.6 as published: {self.published:.3g} s"
        found.append(Row("times faster, 1 picture", self.published / self.ours[1], None, "x", told))
        told = f"min-dalle: {self.min_dalle:.3g} s; ours {self.ours_min_dalle:.3g} s"
        note = self.notes.get("ours min-dalle", "")
        found.append(Row("times faster, 1 picture", self.min_dalle / self.ours_min_dalle, None, "x", f"{told}{note}"))
        return found


def folder() -> Path:
    """Where the environment of these packages is, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    said = json.dumps([sys.version, sysconfig.get_path("purelib"), PACKAGES])
    return cache / "dalle-server" / f"peers-{sha256(said.encode()).hexdigest()[:12]}"


def environment(say: Callable[[str], object] = lambda _: None) -> Path:
    """The Python of the peers' environment, which is made if it is missing. Raises BenchFailed if pip cannot."""
    import torch

    place = folder()
    python = place / "bin" / "python"
    done = place / "installed"
    if done.exists():
        return python
    say("installing DALLE-pytorch and min-dalle, once")
    venv.create(place, clear=True, with_pip=True)
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True
    )
    ours = Path(found.stdout.decode().strip()) / "host.pth"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *PACKAGES]
    if (installed := subprocess.run(pip, capture_output=True)).returncode:
        last = installed.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise BenchFailed(f"the peers' packages cannot be installed: {last}")
    places = (sysconfig.get_path("purelib"), str(Path(torch.__file__).parents[1]))  # the same PyTorch for all
    ours.write_text("\n".join(dict.fromkeys(places)) + "\n")
    done.touch()
    return python


def compare(
    threads: int,
    seed: int,
    seconds: float,
    say: Callable[[str], object] = lambda _: None,
    shape: Shape = PUBLISHED,
    positions: int = 5,
    repeats: int = 4,
) -> Compared:
    """Measure the peers and this project. seconds: see `measure`. Raises BenchFailed."""
    python = environment(say)
    notes: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="dalle-bench-") as name:
        place = Path(name)
        shared = {"folder": name, "threads": threads, "seed": seed}
        say("DALLE-pytorch")
        asked = {"hparams": shape.hparams, "vae_params": shape.vae_params, "images": shape.images}
        theirs = _run(
            python, "dalle_pytorch_1_6_6", shared | asked | {"positions": positions, "repeats": repeats}, threads
        )
        say("the same weights here")
        _import([place / "dalle.pt"], place / "dalle")
        ours, probe = _ours(place / "dalle", shape.images, threads, seconds, notes, "", theirs["probe"])
        rounded = {}
        for dtype in ROUNDED:
            with suppress(InvalidRequest):  # int8 where there are no native kernels
                rounded[dtype], _ = _ours(place / "dalle", shape.images, threads, seconds, notes, "", None, dtype)
        (place / "dalle.pt").unlink()
        say("min-dalle")
        sizes = {"sizes": shape.min_dalle, "repeats": 2}
        other = _run(python, "min_dalle_0_4_11", shared | sizes, threads)
        say("the same weights here")
        files = [place / file for file in ("encoder.pt", "decoder.pt", "detoker.pt", "vocab.json", "merges.txt")]
        _import(files, place / "mini", heads=shape.min_dalle["heads"])
        mini, _ = _ours(place / "mini", (1,), threads, seconds, notes, "min-dalle", None)
    repaired = {int(images): found for images, found in theirs["repaired"].items()}
    return Compared(repaired, theirs["published"], ours, probe, other["one"], mini[1], rounded, notes)


def _run(python: Path, program: str, asked: dict[str, Any], threads: int) -> dict[str, Any]:
    """What a program of `model.benchmark.peers` writes. Raises BenchFailed."""
    import model.benchmark.peers

    path = Path(model.benchmark.peers.__path__[0]) / f"{program}.py"
    environ = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([python, "-W", "ignore", path, json.dumps(asked)], capture_output=True, env=environ)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise BenchFailed(f"{program} failed: {last}")
    found: dict[str, Any] = json.loads(done.stdout.decode().strip().rpartition("\n")[2])
    return found


def _import(files: Sequence[Path], out: Path, heads: int | None = None) -> None:
    settings = ["--set", f"heads={heads}"] if heads else []
    command = [sys.executable, "-m", "app", "import", *map(str, files), "--out", str(out), *settings]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise BenchFailed(f"the import failed: {done.stderr.decode(errors='replace').strip()}")


def _ours(
    weights: Path,
    images: Sequence[int],
    threads: int,
    seconds: float,
    notes: dict[str, str],
    who: str,
    probe: dict[str, Any] | None,
    dtype: str = "auto",
) -> tuple[dict[int, float], float]:
    """Seconds of so many pictures in the engine, pixels included, and how far the probe's logits are from theirs.

    notes: gets one for each figure that is not of whole pictures. dtype: as --dtype.
    """
    import torch

    from model.benchmark.steps import paint
    from model.checkpoints import load
    from model.inference.devices import pick_dtype
    from model.inference.engine import Engine
    from model.inference.requests import SamplingParams

    torch.set_num_threads(threads)
    checkpoint = load(weights)
    differ = 0.0
    if probe is not None:
        text, image = torch.tensor([probe["text"]]), torch.tensor([probe["image"]])
        logits = checkpoint.transformer.logits(text, image)[0, -1]
        first = checkpoint.transformer.config.text_columns
        differ = float((logits[first:][: len(probe["logits"])] - torch.tensor(probe["logits"])).abs().max())
    params = SamplingParams.of(checkpoint.config.sampling, seed=0)
    rows = 1 if params.guidance == 1.0 else 2
    engine = Engine(checkpoint, slots=max(2, rows * max(images)), dtype=pick_dtype(dtype, torch.device("cpu")))
    engine.warm_up()
    found = {}
    for count in images:
        painted = paint(engine, count, params, seconds, pixels=True, repeats=2)
        found[count] = painted.seconds
        if not painted.whole:
            key = f"ours {who or count}" + ("" if dtype == "auto" else f" {dtype}")
            notes[key] = f", cut short after {len(painted.steps)} of {painted.total} steps"
    return found, differ
