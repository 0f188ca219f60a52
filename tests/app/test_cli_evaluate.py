"""`dalle-server evaluate`: what a checkpoint is worth on pictures of one's own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import model
from app.cli import app
from model.errors import DataError
from model.training.prepare import prepare, to_tensor
from tests.training.zorbs import draw


@pytest.fixture
def zorbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "zorbs", 6)
    return tmp_path / "zorbs"


def run(data: Path, weights: Path, *options: str) -> Result:
    command = ["evaluate", str(data), "--weights", str(weights), "--device", "cpu", *options]
    return CliRunner().invoke(app, command)


def measured(data: Path, weights: Path, *options: str) -> dict[str, Any]:
    done = run(data, weights, "--json", *options)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def by_hand(data: Path, weights: Path, split: str) -> dict[str, Any]:
    """Each picture by itself, written out."""
    painter = model.load(weights, "cpu")
    prepared = prepare([data], Path("by-hand"))
    rows = prepared.indices(split).tolist() if split else range(len(prepared.lines))
    psnr, bits, codes = [], [], set()
    for row in rows:
        image = to_tensor(prepared.images[row : row + 1])
        ids = painter.vae.encode(image)
        codes |= set(ids.flatten().tolist())
        psnr.append(-10 * math.log10(float((painter.vae.decode(ids) - image).square().mean())))
        if captions := prepared.lines[row]["captions"]:
            text, tokens = painter.tokenizer.encode(captions[0][1]), ids.flatten(1)
            with torch.no_grad():
                logits = painter.transformer.logits(torch.tensor([text]), tokens)[0, len(text) - 1 : -1]
            told = logits[:, painter.transformer.config.text_vocab :].log_softmax(-1)
            bits.append(-float(told[torch.arange(1024), tokens[0]].mean()) / math.log(2))
    return {
        "pictures": len(psnr),
        "psnr": sum(psnr) / len(psnr),
        "image_bits": sum(bits) / len(bits) if bits else None,
        "codebook_usage": len(codes) / painter.vae.config.codes,
        "captioned": len(bits),
    }


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3)


def test_the_held_out_pictures_are_measured_or_all(zorbs: Path, tiny_checkpoint: Path) -> None:
    held_out = measured(zorbs, tiny_checkpoint)
    same(held_out, by_hand(zorbs, tiny_checkpoint, "val"))
    assert held_out["pictures"] == 1
    assert held_out["intervals"] == {}  # of one picture
    every = measured(zorbs, tiny_checkpoint, "--all")
    same(every, by_hand(zorbs, tiny_checkpoint, ""))
    low, high = every["intervals"]["psnr"]
    assert low < every["psnr"] < high
    assert 0 < every["ssim"] <= 1
    assert 1 <= every["codebook_perplexity"] <= 8192 * every["codebook_usage"]
    assert measured(zorbs, tiny_checkpoint, "--all", "--pictures", "2")["pictures"] == 2


def test_pictures_without_captions_measure_the_vae_alone(zorbs: Path, tiny_checkpoint: Path) -> None:
    for caption in zorbs.glob("*.txt"):
        caption.unlink()
    found = measured(zorbs, tiny_checkpoint, "--all")
    assert (found["pictures"], found["captioned"], found["image_bits"]) == (6, 0, None)
    shown = run(zorbs, tiny_checkpoint, "--all")
    assert shown.exit_code == 0
    for text in ("PSNR of the VAE 6", "SSIM of the VAE 6", "codes used 6", "not measured: no picture has a caption"):
        assert text in " ".join(shown.stdout.split())


def test_what_cannot_be_measured_is_said(zorbs: Path, tiny_checkpoint: Path) -> None:
    for picture in zorbs.glob("*.png"):
        picture.with_suffix(".txt").unlink()
        picture.with_suffix(".json").write_text('{"caption": "a zorb", "split": "train"}')
    refused = run(zorbs, tiny_checkpoint)
    assert isinstance(refused.exception, DataError)
    assert "none of its 6 pictures is held out" in str(refused.exception)
    assert "nowhere: no such file or folder" in str(run(Path("nowhere"), tiny_checkpoint).exception)
