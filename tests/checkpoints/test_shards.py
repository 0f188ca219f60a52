"""Safetensors: headers and tensors that are refused."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.checkpoints import Checkpoint, load, save, shards, sums
from model.checkpoints.describe import describe
from model.errors import CheckpointError
from tests.checkpoints.refused import holds, refusal, values_of

Act = Callable[[Path], object]


def shard(path: Path) -> Path:
    return path / "transformer-1-of-1.safetensors"


def raw(header: object, payload: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + payload


def whole_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = shard(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    shard(path).write_bytes(raw(header, data[8 + length :]))
    sums.write(path)


def tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    found = safetensors.torch.load_file(shard(path))
    change(found)
    shard(path).write_bytes(safetensors.torch.save(found))
    sums.write(path)


def content(path: Path, data: bytes) -> None:
    shard(path).write_bytes(data)
    sums.write(path)


def spoil(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda found: found["local.bias"].__setitem__(3, value)


def overlap(header: dict[str, Any]) -> None:
    first, second = (header[key] for key in header if key in ("norm.weight", "local.norm.weight"))
    second["data_offsets"] = first["data_offsets"]


def entry(dtype: object = "F32", shape: object = None, offsets: object = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": offsets or [0, 4]}


SHARDS: dict[str, tuple[Act, str]] = {
    "empty": (lambda p: content(p, b""), "not a safetensors file: too short"),
    "a header of 2**63 bytes": (
        lambda p: content(p, raw(b"{}", length=2**63)),
        "not a safetensors file: its header must be at most 4,194,304 bytes, got 9,223,372,036,854,775,808",
    ),
    "a header beyond the end": (lambda p: content(p, raw(b"{}", length=1000)), "altered or cut short"),
    "a header that is deep": (lambda p: content(p, raw(b"[" * 10**6)), "header: not JSON that is read here"),
    "a header that is a list": (lambda p: content(p, raw([])), "header must be an object, got []"),
    "a tensor twice in a header": (
        lambda p: content(p, raw(b'{"a": 1, "a": 2}')), "header: not JSON: the key 'a' stands in one object twice",
    ),
    "an entry of another form": (lambda p: content(p, raw({"a": 7})), "the header's entry 'a' is none of a tensor"),
    "a name for the terminal": (
        lambda p: content(p, raw({"\x1b[2J": entry()}, bytes(4))), r"unknown tensor '\x1b[2J'",
    ),
    "a negative shape": (lambda p: content(p, raw({"a": entry(shape=[-1])}, bytes(4))), "'a' has the shape [-1]"),
    "a shape of text": (lambda p: content(p, raw({"a": entry(shape=["1"])}, bytes(4))), "'a' has the shape "),
    "a type that is none": (lambda p: content(p, raw({"a": entry("X" * 200)}, bytes(4))), "200 characters, not BF16"),
    "double precision": (
        lambda p: tensors(p, lambda t: t.update({"norm.weight": t["norm.weight"].double()})),
        "'norm.weight' is 'F64', not BF16, F16 or F32",
    ),
    "offsets that overlap": (lambda p: whole_header(p, overlap), " must stand at "),
    "offsets beyond the end": (
        lambda p: whole_header(p, lambda h: h["norm.weight"].update(data_offsets=[0, 2**60])), "weight' must stand",
    ),
    "offsets that go back": (
        lambda p: whole_header(p, lambda h: h["norm.weight"].update(data_offsets=[8, 4])), "'norm.weight' must stand",
    ),
    "not a number": (lambda p: tensors(p, spoil(math.nan)), "'local.bias' must be finite numbers, got nan to nan"),
    "infinite": (lambda p: tensors(p, spoil(math.inf)), "'local.bias' must be finite numbers"),
    "infinite, below": (lambda p: tensors(p, spoil(-math.inf)), "'local.bias' must be finite numbers, got -inf"),
    "a tensor of nothing": (
        lambda p: tensors(p, lambda t: t.update({"norm.weight": torch.zeros(0)})), "norm.weight has the shape (0,)",
    ),
    "a tensor too many": (
        lambda p: tensors(p, lambda t: t.update(ghost=torch.zeros(0))), "unknown tensor 'ghost'; the config's",
    ),
    "a tensor too few": (lambda p: tensors(p, lambda t: t.pop("norm.weight")), "the tensor norm.weight is missing"),
}  # fmt: skip


@pytest.mark.parametrize("damage", SHARDS)
def test_a_malformed_shard_is_refused(copy: Path, damage: str) -> None:
    act, line = SHARDS[damage]
    act(copy)
    refused = refusal(copy)
    assert f"{copy}/transformer-" in refused
    assert line in refused
    assert refused in describe(copy).problems


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.binary(max_size=12) | st.sampled_from([b"[", b"{", b"1e9", b"-1", b"null", b'"F16"', b"9" * 30]))
def test_a_header_with_any_bytes_in_any_place_is_refused_or_loads(
    whole: Path, copy: Path, data: st.DataObject, put_in: bytes
) -> None:
    good = shard(whole).read_bytes()
    length = int.from_bytes(good[:8], "little")
    at = data.draw(st.integers(0, length))
    header = good[8 : 8 + at] + put_in + good[8 + at + data.draw(st.integers(0, 12)) : 8 + length]
    content(copy, raw(header, good[8 + length :]))
    if not holds(CheckpointError, load, copy):
        assert refusal(copy).startswith(f"{copy}/transformer-")


def test_sizes_that_the_files_do_not_have_cost_no_memory(copy: Path) -> None:
    values = values_of(copy)
    values["transformer"].update(dim=16384, depth=256, heads=256, kv_heads=256, head_dim=1024, local_dim=16384)
    (copy / "config.json").write_text(json.dumps(values))
    sums.write(copy)
    tracemalloc.start()
    try:
        assert re.search(r"transformer-\*\.safetensors: \S+ has the shape .*, and the config asks for ", refusal(copy))
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_weights_beyond_the_machines_memory_are_not_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "machine_memory", lambda: 100_000)
    shard(copy).write_bytes(shard(copy).read_bytes()[:-1] + b"?")  # not what the sum says, if it were read
    needed = 4 * sum(tensor.numel() for tensor in safetensors.torch.load_file(copy / "vae-1-of-1.safetensors").values())
    assert needed <= 100_000
    assert re.search(
        r"transformer-\*.safetensors: needs [\d,]+ bytes of memory, and this machine has 100,000", refusal(copy)
    )


def test_weights_that_would_be_refused_are_not_saved(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = load(whole)

    def keep(checkpoint: Checkpoint, documents: dict[str, str] | None = None) -> None:
        save(
            tmp_path / "new", checkpoint.config, checkpoint.tokenizer, checkpoint.vae, checkpoint.transformer,
            clip=checkpoint.clip, reviser=checkpoint.reviser, documents=documents, styles=checkpoint.styles,
        )  # fmt: skip

    with pytest.raises(CheckpointError, match=r"config\.json: name must be a text of 1 to 128 printable"):
        keep(dataclasses.replace(good, config=dataclasses.replace(good.config, name="a\nb")))
    for documents, line in (
        ({"a\nb.md": "x"}, "SHA256SUMS: line 2 must be"),
        ({"a.md": "x" * 600}, "new: documents must be at most 600 bytes, got "),
    ):
        monkeypatch.setattr("model.checkpoints.native.DOCUMENT_BYTES", 600)  # a style's things count too
        with pytest.raises(CheckpointError, match=line):
            keep(good, documents)
    with torch.no_grad():
        good.own().transformer.norm.weight[0] = math.nan
    with pytest.raises(CheckpointError, match=r"transformer-\*\.safetensors: 'norm.weight' must be finite numbers"):
        keep(good)
    assert list(tmp_path.iterdir()) == []
