"""The native format: a saved checkpoint loads unchanged, and every damage gives one line that names the file."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from model.checkpoints import Checkpoint, load, save, shards, sums
from model.errors import CheckpointError


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> Checkpoint:
    return load(tiny_checkpoint)


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def save_as(path: Path, checkpoint: Checkpoint, **changes: Any) -> None:
    save(path, checkpoint.config, checkpoint.tokenizer, checkpoint.vae, checkpoint.transformer, **changes)


def same(a: torch.nn.Module, b: torch.nn.Module, dtype: torch.dtype = torch.float32) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k].to(dtype).float(), right[k]) for k in left)


def test_what_is_loaded_is_ready_to_use(loaded: Checkpoint, tiny_checkpoint: Path) -> None:
    assert loaded.path == tiny_checkpoint
    assert loaded.config.name == "tiny"
    assert loaded.tokenizer.max_tokens == loaded.config.transformer.text_tokens
    for module in (loaded.vae, loaded.transformer):
        assert not module.training
        tensors = [*module.parameters(), *module.buffers()]
        assert {t.device.type for t in tensors} == {"cpu"}
        assert {t.dtype for t in module.parameters()} == {torch.float32}


def test_float32_comes_back_bit_for_bit(loaded: Checkpoint, tmp_path: Path) -> None:
    save_as(tmp_path / "again", loaded, dtype=torch.float32)
    again = load(tmp_path / "again")
    assert again.config == loaded.config
    assert again.tokenizer.to_bytes() == loaded.tokenizer.to_bytes()
    assert same(loaded.vae, again.vae)
    assert same(loaded.transformer, again.transformer)


def test_bfloat16_is_the_default_and_halves_the_files(
    loaded: Checkpoint, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    save_as(tmp_path / "half", loaded)
    again = load(tmp_path / "half")
    assert same(loaded.transformer, again.transformer, torch.bfloat16)

    def size(path: Path) -> int:
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))

    assert size(tmp_path / "half") < 0.6 * size(tiny_checkpoint)


def test_the_sums_are_those_of_sha256sum(copy: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=copy, check=True, capture_output=True)


def test_shards_are_bounded_and_hold_everything(
    loaded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 100_000
    monkeypatch.setattr(shards, "SHARD_BYTES", limit)
    save_as(tmp_path / "many", loaded)
    files = sorted((tmp_path / "many").glob("transformer-*.safetensors"))
    assert len(files) > 2
    for file in files:
        assert file.stat().st_size < limit + 16_000 or len(safetensors.torch.load_file(file)) == 1
    assert same(loaded.transformer, load(tmp_path / "many").transformer, torch.bfloat16)


def test_a_shard_is_under_15_mib(tmp_path: Path) -> None:
    state = {f"tensor.{i}": torch.zeros(1000, 512) for i in range(40)}
    shards.write(tmp_path, "vae", state, torch.bfloat16)
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 3
    assert max(sizes) < 15 * 2**20


def test_documents_travel_with_the_weights(loaded: Checkpoint, tmp_path: Path) -> None:
    save_as(tmp_path / "card", loaded, documents={"MODEL_CARD.md": "# Tiny\n", "samples.png": b"\x89PNG"})
    assert (tmp_path / "card" / "MODEL_CARD.md").read_text() == "# Tiny\n"
    load(tmp_path / "card")
    (tmp_path / "card" / "MODEL_CARD.md").write_text("# Another\n")
    with pytest.raises(CheckpointError, match="MODEL_CARD.md: altered"):
        load(tmp_path / "card")


def test_saving_replaces_a_checkpoint_and_leaves_nothing_beside(loaded: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "model"
    save_as(path, loaded, documents={"old.md": "old"})
    save_as(path, loaded)
    assert not (path / "old.md").exists()
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_and_what_it_leads_to_is_replaced(loaded: Checkpoint, tmp_path: Path) -> None:
    """The folder may be a link to another disk, where there is room."""
    (tmp_path / "disk" / "model").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    for _ in range(2):
        save_as(tmp_path / "link", loaded)
        assert (tmp_path / "link").is_symlink()
        assert list((tmp_path / "disk").iterdir()) == [tmp_path / "disk" / "model"]
        load(tmp_path / "disk" / "model")


def test_a_mounted_disk_is_not_replaced(loaded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "disk")  # only root can mount one
    with pytest.raises(CheckpointError, match="a disk is mounted there, so it cannot be replaced; name a new folder"):
        save_as(tmp_path / "disk", loaded)
    save_as(tmp_path / "disk" / "model", loaded)


def test_saving_never_replaces_what_is_no_checkpoint(loaded: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="exists and is no checkpoint"):
        save_as(tmp_path, loaded)
    assert (tmp_path / "thesis.txt").exists()


def test_a_failed_save_leaves_the_old_checkpoint(
    loaded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_as(tmp_path / "model", loaded)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_as(tmp_path / "model", loaded)
    assert caught.value.filename == str(tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    load(tmp_path / "model")


def shard(path: Path) -> Path:
    return next(path.glob("transformer-*.safetensors"))


def cut_short(path: Path) -> None:
    data = shard(path).read_bytes()
    shard(path).write_bytes(data[: len(data) // 2])


def alter_one_bit(path: Path) -> None:
    data = bytearray(shard(path).read_bytes())
    data[-1] ^= 1
    shard(path).write_bytes(data)


def edit_config(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((path / "config.json").read_text())
    change(values)
    (path / "config.json").write_text(json.dumps(values))
    sums.write(path)


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = safetensors.torch.load_file(shard(path))
    change(tensors)
    shard(path).write_bytes(safetensors.torch.save(tensors))
    sums.write(path)


def reshape_first(tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(tensors))
    tensors[name] = torch.zeros(3)


def write_garbage(path: Path) -> None:
    shard(path).write_bytes(b"\xff" * 100)
    sums.write(path)


def duplicate_tensor(path: Path) -> None:
    shutil.copy(shard(path), path / "transformer-9-of-9.safetensors")
    sums.write(path)


def unlist_config(path: Path) -> None:
    kept = [line for line in (path / "SHA256SUMS").read_text().splitlines(True) if "config.json" not in line]
    (path / "SHA256SUMS").write_text("".join(kept))


def lower_case_tokenizer(path: Path) -> None:
    values = json.loads((path / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Lowercase"}
    (path / "tokenizer.json").write_text(json.dumps(values))
    sums.write(path)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"copy: no such folder"),
    "no sums": (lambda p: (p / "SHA256SUMS").unlink(), r"SHA256SUMS: no such file"),
    "no config": (lambda p: (p / "config.json").unlink(), r"config.json: no such file"),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), r"tokenizer.json: no such file"),
    "no shard": (lambda p: shard(p).unlink(), r"transformer-1-of-\d+.safetensors: no such file"),
    "shard cut short": (cut_short, r"transformer-1-of-\d+.safetensors: altered or cut short \([\d,]+ bytes"),
    "one bit altered": (alter_one_bit, r"transformer-1-of-\d+.safetensors: altered"),
    "config altered": (lambda p: (p / "config.json").write_text("{}"), r"config.json: altered"),
    "sums are no sums": (
        lambda p: (p / "SHA256SUMS").write_text("hello\n"),
        r"SHA256SUMS: line 1 must be a SHA-256 sum and the name",
    ),
    "sums are binary": (lambda p: (p / "SHA256SUMS").write_bytes(b"\xff\xfe"), r"SHA256SUMS: not a list"),
    "sums of a path": (
        lambda p: (p / "SHA256SUMS").write_text(f"{'0' * 64}  ../secret\n"),
        r"SHA256SUMS: line 1 must be a SHA-256 sum and the name",
    ),
    "config not listed": (unlist_config, r"config.json: not listed in SHA256SUMS"),
    "unknown version": (
        lambda p: edit_config(p, lambda c: c.update(format_version=99)),
        r"config.json: format_version is 99, and this program reads 1",
    ),
    "unknown key": (lambda p: edit_config(p, lambda c: c.update(flavour=1)), r"config.json: unknown key 'flavour'"),
    "missing key": (lambda p: edit_config(p, lambda c: c.pop("name")), r"config.json: .*'name'"),
    "another depth": (
        lambda p: edit_config(p, lambda c: c["transformer"].update(depth=3)),
        r"transformer-.*is missing",
    ),
    "another width": (lambda p: edit_config(p, lambda c: c["transformer"].update(dim=32)), r"transformer-.*the shape"),
    "a width of text": (lambda p: edit_config(p, lambda c: c["transformer"].update(dim="64")), r"config.json: "),
    "parts disagree": (
        lambda p: edit_config(p, lambda c: c["vae"].update(levels=[8, 8])),
        r"config.json: the VAE has 64 codes, the transformer 8192",
    ),
    "parts disagree on levels": (
        lambda p: edit_config(p, lambda c: c["vae"].update(levels=[16, 8, 8, 8])),
        r"config.json: the VAE's levels are \(16, 8, 8, 8\), the transformer's \(8, 8, 8, 16\)",
    ),
    "small table": (
        lambda p: edit_config(p, lambda c: c["transformer"].update(text_vocab=260)),
        r"tokenizer.json: \d+ tokens, and the transformer's table has 260",
    ),
    "unknown tensor": (
        lambda p: edit_tensors(p, lambda t: t.update(ghost=torch.zeros(1))),
        r"transformer-1-of-\d+.safetensors: unknown tensor 'ghost'",
    ),
    "tensor missing": (lambda p: edit_tensors(p, lambda t: t.popitem()), r"transformer-.*is missing"),
    "another shape": (lambda p: edit_tensors(p, reshape_first), r"transformer-.*has the shape \(3,\)"),
    "integers": (
        lambda p: edit_tensors(p, lambda t: t.update(ghost=torch.zeros(1, dtype=torch.int8))),
        r"transformer-1-of-\d+.safetensors: 'ghost' is 'I8', not BF16, F16 or F32",
    ),
    "no safetensors": (write_garbage, r"transformer-1-of-\d+.safetensors: not a safetensors file"),
    "tensor twice": (duplicate_tensor, r"transformer-9-of-9.safetensors: .* stands in another shard too"),
    "lossy tokenizer": (lower_case_tokenizer, r"tokenizer.json: normalizer must be null, got an object"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_one_line_naming_the_file(copy: Path, damage: str) -> None:
    act, message = DAMAGES[damage]
    act(copy)
    with pytest.raises(CheckpointError) as caught:
        load(copy)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_a_model_with_parts_that_disagree_is_not_saved(loaded: Checkpoint, tmp_path: Path) -> None:
    wrong = dataclasses.replace(loaded.config, vae=dataclasses.replace(loaded.own().vae.config, levels=(8, 8)))
    with pytest.raises(CheckpointError, match="the VAE has 64 codes, the transformer 8192"):
        save(tmp_path / "wrong", wrong, loaded.tokenizer, loaded.vae, loaded.transformer)
    with pytest.raises(ValueError, match=r"torch\.float16 is neither"):
        save_as(tmp_path / "wrong", loaded, dtype=torch.float16)
    assert not (tmp_path / "wrong").exists()
