"""All stages from raw pictures to a checkpoint that paints, by the command line, at the smallest size."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import model
from app import cli
from model.checkpoints import load
from model.config import SamplingDefaults
from model.tokenizer import Tokenizer
from model.training import carry_over, rehearsal, train_reviser, train_transformer, train_vae

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


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What a refusal says, out of its box."""
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_stages_make_a_checkpoint_that_paints_and_judges(
    data: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    weights = tiny_checkpoint
    monkeypatch.setattr(rehearsal, "NUMBER", 50)  # an untrained reviser takes long to answer
    monkeypatch.setattr(train_reviser, "MEASURED", 16)
    assert run(monkeypatch, "train", "vae", str(data), *TINY) == 0
    named = ("--name", "mine", "--licence", "MIT", "--prompt", "an orange square on red")
    assert run(monkeypatch, "train", "transformer", str(data), *named, *TINY) == 0
    path = tmp_path / "runs" / "transformer" / "checkpoint"
    assert capsys.readouterr().out.split()[-1] == str(path.relative_to(tmp_path))
    config = load(path).config
    assert (config.name, config.licence) == ("mine", "MIT")
    assert config.provenance["figures"]["step"] == 2
    assert run(monkeypatch, "train", "clip", str(data), *TINY) == 0
    export = ("export", "runs/transformer", "--out", "mine")
    assert run(monkeypatch, *export, "--set", "guidance=5", "--clip", "runs/clip") == 0
    exported = load(tmp_path / "mine")
    assert exported.config.sampling.guidance == 5
    assert exported.clip is not None
    painter = model.load(path, "cpu")
    picture = painter.generate("an orange square on red", seed=1)[0]
    assert picture.size == (256, 256)
    assert -1 <= model.Painter(exported).clip.score([picture], "an orange square on red")[0] <= 1
    (tmp_path / "runs" / "clip" / "tokenizer.json").write_bytes((weights / "tokenizer.json").read_bytes())
    capsys.readouterr()
    assert run(monkeypatch, *export, "--clip", "runs/clip") == 1
    assert "reads the tokens of another tokenizer" in capsys.readouterr().err
    assert run(monkeypatch, *export, "--clip", str(weights)) == 1
    assert "this checkpoint has no CLIP" in capsys.readouterr().err
    assert run(monkeypatch, "train", "reviser", str(data), *TINY) == 0
    assert run(monkeypatch, *export, "--reviser", "runs/reviser") == 0
    assert load(tmp_path / "mine").reviser is not None
    few = ("--steps", "2", "--batch", "2", "--device", "cpu", "--cache", "prepared", "--out", "again")
    assert run(monkeypatch, "train", "reviser", str(data), "--start", "mine", *few) == 0
    assert run(monkeypatch, *export, "--reviser", "again") == 0
    assert load(tmp_path / "mine").reviser is not None
    assert run(monkeypatch, "train", "reviser", str(data), "--start", "mine", "--preset", "tiny", *few) == 2
    assert run(monkeypatch, "train", "reviser", str(data), "--start", str(weights), *few) == 1
    assert "this checkpoint has no reviser" in capsys.readouterr().err
    assert run(monkeypatch, *export, "--reviser", "mine", "--clip", "mine") == 1  # its CLIP was not exported
    assert "this checkpoint has no CLIP" in capsys.readouterr().err
    assert run(monkeypatch, *export, "--reviser", str(weights)) == 1
    assert "this checkpoint has no reviser" in capsys.readouterr().err
    (tmp_path / "runs" / "reviser" / "tokenizer.json").write_bytes((weights / "tokenizer.json").read_bytes())
    assert run(monkeypatch, *export, "--reviser", "runs/reviser") == 1
    assert "this reviser reads the tokens of another tokenizer" in capsys.readouterr().err


def test_an_export_may_be_the_mean_of_runs(
    data: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--steps", "2", "--batch", "2", "--device", "cpu", "--cache", "prepared", "--prompt", "a blue circle")
    start = ("--start", str(tiny_checkpoint), "--set", "muon_lr=0.1")
    assert run(monkeypatch, "train", "transformer", str(data), *start, *few, "--out", "mine") == 0
    export = ("export", "mine", "--vae", str(tiny_checkpoint))
    kept = load(tiny_checkpoint).config.sampling
    assert run(monkeypatch, *export, "--out", "cooler", "--set", "temperature=0.25") == 0
    assert load(data.parent / "cooler").config.sampling == dataclasses.replace(kept, temperature=0.25)
    assert kept.guidance != SamplingDefaults().guidance
    assert run(monkeypatch, *export, "--out", "mean", "--mean", f"{tiny_checkpoint}=0.75") == 0
    own = train_transformer.load(data.parent / "mine").state_dict()
    before, mean = (load(path).transformer.state_dict() for path in (tiny_checkpoint, data.parent / "mean"))
    for name, found in mean.items():
        torch.testing.assert_close(found, 0.75 * before[name] + 0.25 * own[name], rtol=0.01, atol=1e-4)
    assert not torch.allclose(own["blocks.0.w1.weight"], before["blocks.0.w1.weight"], rtol=0.1)
    for shares in (("mine=0.5", f"{tiny_checkpoint}=0.5"), ("mine=0",)):
        flags = [text for share in shares for text in ("--mean", share)]
        assert run(monkeypatch, *export, "--out", "other", *flags) == 1
        assert "shares above 0 that sum to less than 1" in capsys.readouterr().err
    assert run(monkeypatch, *export, "--out", "other", "--mean", "mine") == 2
    assert run(monkeypatch, "train", "vae", str(data), *TINY) == 0
    assert (
        run(monkeypatch, "export", "mine", "--vae", "runs/vae", "--out", "x", "--mean", f"{tiny_checkpoint}=0.5") == 1
    )
    assert "draws the codes of another VAE" in capsys.readouterr().err
    (data.parent / "mine" / "tokenizer.json").write_bytes(Tokenizer.train(["ab"] * 2, 300).to_bytes())
    assert run(monkeypatch, *export, "--out", "other", "--mean", f"{tiny_checkpoint}=0.5") == 1
    assert "reads the tokens of another tokenizer" in capsys.readouterr().err


def test_fine_tuning_keeps_the_checkpoints_tokenizer_vae_and_sampling(
    data: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("--start", str(tiny_checkpoint))
    few = ("--steps", "2", "--batch", "2", "--device", "cpu", "--cache", "prepared", "--prompt", "a blue circle")
    assert run(monkeypatch, "train", "transformer", str(data), *start, *few, "--out", "mine") == 0
    before, after = load(tiny_checkpoint), load(data.parent / "mine" / "checkpoint")
    assert (before.path / "tokenizer.json").read_bytes() == (after.path / "tokenizer.json").read_bytes()
    assert after.config.sampling == before.config.sampling
    for part, kept in (("vae", True), ("transformer", False)):
        old, new = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        same = [
            torch.equal(old[name].bfloat16().float(), new[name]) for name in old
        ]  # a checkpoint is stored in bfloat16
        assert all(same) == kept
    capsys.readouterr()
    for flag, value, name in (("--preset", "small", "preset"), ("--set", "vocabulary=300", "vocabulary")):
        assert run(monkeypatch, "train", "transformer", str(data), *start, *few, flag, value) == 2
        assert f"{name} must be left out beside --start" in said(capsys)


def test_a_start_is_carried_over_to_another_vae(
    data: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(carry_over, "PICTURES", 4)
    few = ("--steps", "1", "--batch", "2", "--device", "cpu", "--cache", "prepared")
    assert run(monkeypatch, "train", "vae", str(data), *few, "--preset", "tiny", "--out", "vae") == 0
    start = ("--start", str(tiny_checkpoint), "--prompt", "a blue circle")
    with caplog.at_level("INFO", "model"):
        assert run(monkeypatch, "train", "transformer", str(data), *start, *few, "--out", "mine", "--vae", "vae") == 0
        assert "transferring the transformer" in caplog.text
        caplog.clear()
        same = ("--out", "other", "--vae", str(tiny_checkpoint))
        assert run(monkeypatch, "train", "transformer", str(data), *start, *few, *same) == 0
        assert "transferring the transformer" not in caplog.text
    painted = model.load(data.parent / "mine" / "checkpoint", "cpu").generate("a blue circle", seed=1)
    assert painted[0].size == (256, 256)


def test_a_signal_ends_training_and_what_is_damaged_is_told_in_one_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = train_vae.Crops.__call__

    def stopped(self: train_vae.Crops, step: int, first: int, end: int) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return crops(self, step, first, end)

    with monkeypatch.context() as during:
        during.setattr(train_vae.Crops, "__call__", stopped)
        assert run(monkeypatch, "train", "vae", str(data), *TINY) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.splitlines()[-1].startswith("dalle-server: stopped after step 1; its state is saved")
    state, config = data.parent / "runs/vae/state.pt", data.parent / "runs/vae/config.json"
    assert torch.load(state, weights_only=True)["step"] == 1
    for path, content, told in (
        (state, state.read_bytes()[:-100], "runs/vae/state.pt: cut short or damaged; remove it"),
        (state, b"", "runs/vae/state.pt: cut short or damaged; remove it"),
        (config, b"{", "runs/vae/config.json: not JSON"),
    ):
        whole = path.read_bytes()
        path.write_bytes(content)
        for command in (("vae",), ("transformer", "--vae", "runs/vae")):
            capsys.readouterr()
            assert run(monkeypatch, "train", command[0], str(data), *command[1:], *TINY) == 1
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dalle-server: ")]
            assert len(lines) == 1
            assert told in lines[0]
        path.write_bytes(whole)
    assert run(monkeypatch, "train", "vae", str(data), *TINY) == 0
    assert torch.load(state, weights_only=True)["step"] == 2


def test_wrong_arguments_are_refused_in_one_line(
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
    for setting in ("sources=twemoji:often", "sources=twemoji:-1", "sources=:3", "mix=pair:nan", "mix=single",
                    "mix=a:1,a:2", "ema=3", "ema=nan", "glimpses=1.5", "fused=perhaps"):  # fmt: skip
        capsys.readouterr()
        assert run(monkeypatch, "train", "transformer", str(data), "--set", setting) == 2
        name, _, value = setting.partition("=")
        told = said(capsys)
        assert f"{name} must be " in told
        assert f"got {value}" in told
    for flags, told in (
        (("--batch", "0"), "batch must be an integer of 1 or more, got 0"),
        (("--clutter", "3"), "clutter must be a number from 0 to 1, got 3"),
        (("--adam-lr", "1"), "--adam-lr is not a flag; say --set adam_lr=VALUE"),
        (("--workers=2",), "--workers is not a flag; say --set workers=VALUE"),
        (("--set", "ema"), "set must be NAME=VALUE"),
        (("--set", "warmupp=3"), "got warmupp; the nearest is warmup"),
        (("--set", "muon-lr=3"), "got muon-lr; the nearest is muon_lr"),
        (("--set", "batch=3"), "batch has a flag of its own: --batch"),
        (("--set", "prompts=a cat"), "prompts has a flag of its own: --prompt"),
        (("--set", "ema=0.5", "--set", "ema=0.6"), "ema must be set once, got 0.5 and 0.6"),
    ):
        assert run(monkeypatch, "train", "transformer", str(data), *flags) == 2
        assert told in said(capsys)
    assert run(monkeypatch, "train", "transformer", str(data), "--set", "concepts=@gone.txt") == 1
    assert "gone.txt: cannot be read" in capsys.readouterr().err


def test_set_help_prints_every_knob_that_has_no_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "transformer", "--set", "help") == 0
    shown = capsys.readouterr().out
    assert "ema: a number from 0 to 1 [default: 0.999]\n    Decay of the averaged weights." in shown
    assert "muon_lr: a number of 0 or more [default: 0.02; with --start 0.003]" in shown
    named = set(re.findall(r"^(\w+): ", shown, re.MULTILINE))
    assert {"glimpses", "contradict", "mix", "sources", "concepts", "report_every", "data_note"} <= named
    assert not {"batch", "clutter", "english", "prompts"} & named
