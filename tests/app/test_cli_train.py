"""Both stages from raw pictures to a checkpoint that paints, by the command line, at the smallest size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

import model
from app import cli
from model.checkpoints import load

TINY = ("--preset", "tiny", "--steps", "2", "--batch", "2", "--device", "cpu", "--cache", "prepared")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of eight captioned pictures, in the folder that the commands run in."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)  # what `main` would set, and leave behind
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, colour in enumerate(("red", "green", "blue", "black", "white", "gray", "cyan", "pink")):
        picture = Image.new("RGB", (256, 256), colour)
        picture.paste("orange", (90, 90, 160, 160))
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"an orange square on {colour}")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dalle-server", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code if isinstance(stop.value.code, int) else 0


def test_both_stages_make_a_checkpoint_that_paints(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "vae", str(data), *TINY) == 0
    named = ("--name", "mine", "--licence", "MIT", "--prompt", "an orange square on red")
    assert run(monkeypatch, "train", "transformer", str(data), *named, *TINY) == 0
    path = tmp_path / "runs" / "transformer" / "checkpoint"
    assert capsys.readouterr().out.split()[-1] == str(path.relative_to(tmp_path))
    config = load(path).config
    assert (config.name, config.licence) == ("mine", "MIT")
    assert config.provenance["figures"]["step"] == 2
    assert run(monkeypatch, "export", "runs/transformer", "--out", "mine", "--guidance", "5") == 0
    assert load(tmp_path / "mine").config.sampling.guidance == 5
    assert model.load(path, "cpu").generate("an orange square on red", seed=1)[0].size == (256, 256)


def test_what_cannot_be_trained_is_one_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ("train", "vae", "nowhere", *TINY),
        ("train", "transformer", str(data), "--vae", "nowhere", *TINY),
        ("export", "nowhere", "--out", "mine", "--vae", "nowhere"),
    ):
        assert run(monkeypatch, *arguments) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert "nowhere" in lines[0]
    assert run(monkeypatch, "train", "vae", str(data), "--preset", "huge") == 2
    assert run(monkeypatch, "train", "vae", str(data), "--precision", "f16") == 2
    assert run(monkeypatch, "train", "transformer", str(data), "--mix", "single") == 2
