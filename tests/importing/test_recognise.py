"""Files are told apart by what they hold; what is no checkpoint is refused with what it is."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from model.errors import CheckpointError
from model.importing.archives import Shape
from model.importing.files import Text, Weights
from model.importing.recognise import read
from model.importing.tensors import Tensors

STATE = {
    "a": torch.arange(12.0).view(3, 4),
    "half": torch.ones(5, dtype=torch.float16),
    "turned": torch.arange(6.0).view(2, 3).t(),
    "bf16": torch.ones(3, dtype=torch.bfloat16),
    "numbers": torch.arange(3),
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def saved(content: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def read_bytes(tmp_path: Path, data: bytes, **more: Any) -> Weights | Text:
    path = tmp_path / "any.name"
    path.write_bytes(data)
    return read(path, **more)


def refused(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_bytes(tmp_path, data, compare=True)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'any.name'}: ")
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path / 'any.name'}: ")


def test_a_whole_network_of_before_1_6_is_inert(tmp_path: Path) -> None:
    """torch wrote the source text of its class beside it, as OpenAI's encoder.pkl and decoder.pkl of then have it."""
    found = read_bytes(tmp_path, saved(torch.nn.Linear(2, 3), legacy=True), make=Tensors().make)
    assert isinstance(found, Weights)
    assert found.content.name == "torch.nn.modules.linear.Linear"
    assert found.content.state["_parameters"]["weight"].shape == (3, 2)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saved_comes_back(tmp_path: Path, legacy: bool) -> None:
    found = read_bytes(tmp_path, saved({"weights": STATE, "hparams": {"dim": 4}}, legacy), make=Tensors().make)
    assert isinstance(found, Weights)
    assert found.content["hparams"] == {"dim": 4}
    assert found.content["weights"].keys() == STATE.keys()
    for key, tensor in STATE.items():
        back = found.content["weights"][key]
        assert back.dtype == tensor.dtype
        assert torch.equal(back, tensor)


def test_safetensors_come_back(tmp_path: Path) -> None:
    state = {key: tensor.detach().contiguous() for key, tensor in STATE.items()}
    found = read_bytes(tmp_path, safetensors.torch.save(state), make=Tensors().make)
    assert isinstance(found, Weights)
    assert all(torch.equal(found.content[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("length", [ord("<"), 0x280, 0x2020])
def test_a_length_that_looks_like_another_format_is_a_length(tmp_path: Path, length: int) -> None:
    """A header of 60 bytes begins as XML does, one of 640 as a pickle."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    found = read_bytes(tmp_path, struct.pack("<Q", length) + header + bytes(4))
    assert isinstance(found, Weights)
    assert (found.container, list(found.content)) == ("safetensors", ["a"])


def test_a_type_that_is_not_read_is_named_with_its_key(tmp_path: Path) -> None:
    small = torch.zeros(3).to(torch.float8_e4m3fn)
    for content in ({"k.w": small}, {"k.w": torch.nn.Parameter(small, requires_grad=False)}):
        told = "k.w is of the type torch.float8_e4m3fn, which is not read"
        assert refused(tmp_path, saved(content)) == told
        assert refused(tmp_path, saved(content, legacy=True)) == told
    assert (
        refused(tmp_path, safetensors.torch.save({"k.w": small})) == "'k.w' is of the type F8_E4M3, which is not read"
    )


def test_a_first_look_makes_no_tensors(tmp_path: Path) -> None:
    found = read_bytes(tmp_path, saved(STATE))
    assert isinstance(found, Weights)
    assert found.content["a"] == Shape("float32", (3, 4))


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    found = read_bytes(tmp_path, saved({"a": torch.zeros(1000), "b": torch.zeros(10)}), make=Tensors().make)
    tensors: list[Tensor] = list(found.content.values())
    assert tensors[0].untyped_storage().data_ptr() == tensors[1].untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"model:\n  target: taming.models.vqgan.VQModel\n", "yaml"),
        (json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}}}).encode(), "tokenizer json"),
        (b'{"<s>": 0, "a": 1}', "vocab json"),
        (b"#version: 0.2\na b\nab c\n", "merges"),
        (b"2 1\n97 5\n98 6\n5 6 7\n0 1 2 3\n", "youtokentome"),
        (b"\n\x0e\n\x05<pad>\x15\0\0\0\0\x18\x03", "sentencepiece"),
        (b'{"model_type": "t5"}', "t5 config"),
        (b'{"weight_map": {"a": "b"}}', "shard list"),
    ],
)
def test_texts_are_told_apart(tmp_path: Path, data: bytes, kind: str) -> None:
    found = read_bytes(tmp_path, data)
    assert isinstance(found, Text)
    assert found.kind == kind


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (bytes(5000), "zeros"),
        (b"<!DOCTYPE html><html>sign in</html>", "an HTML page"),
        (b"\n\n  <HTML>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
        (b'{"error": "Repository not found"}', "a server's answer"),
        (b"Not Found", "no weights, tokenizer or config"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b"GGUF\x03", "GGUF"),
        (b"\x00\x01\x02binary", "no weights, tokenizer or config that is known here"),
        (tar(), "tar"),
        (b'{"weight_map": 3}', "neither a tokenizer nor a vocabulary"),
        (b"a: &a [1]\nb: [*a, *a]\n", "refers back"),
        (b"model: !!python/object/apply:os.system ['true']\n", "no yaml that is read here"),
        (b"a: " + b"[" * 3000, "no yaml that is read here"),
        (b"a: 1\nb: 2\na: 3\n", "the key 'a' stands in one object twice"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    assert says in refused(tmp_path, data)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("pipe", "a pipe"), (".", "a folder"), ("none", "no such file")):
        with pytest.raises(CheckpointError, match=says):
            read(tmp_path / name)
    with pytest.raises(CheckpointError, match="a device"):
        read(Path("/dev/zero"))


def test_a_file_that_is_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole, old = saved(STATE), saved(STATE, legacy=True)
    for part in (0.1, 0.5, 0.9, 0.999):
        assert refused(tmp_path, whole[: int(len(whole) * part)])
        assert refused(tmp_path, old[: int(len(old) * part)])
    assert refused(tmp_path, safetensors.torch.save({"a": torch.zeros(9)})[:-1])
    assert "follow" in refused(tmp_path, old + b"x")


def test_a_damaged_byte_is_refused(tmp_path: Path) -> None:
    data = bytearray(saved({"a": torch.full((64,), 1.5)}))
    at = data.index(struct.pack("<f", 1.5) * 8)
    data[at] ^= 1
    assert "not what its sum says" in refused(tmp_path, bytes(data))


def test_other_zips_are_refused(tmp_path: Path) -> None:
    pickled = pickle.dumps({"a": 1}, 2)
    assert "no data.pkl" in refused(tmp_path, zipped({"word/document.xml": b"x"}))
    assert "compressed" in refused(tmp_path, zipped({"a/data.pkl": pickled + bytes(2**20)}, zipfile.ZIP_DEFLATED))
    assert "one data.pkl, got 2" in refused(tmp_path, zipped({"a/data.pkl": pickled, "b/data.pkl": pickled}))
    assert "TorchScript" in refused(tmp_path, zipped({"a/data.pkl": pickled, "a/code/__torch__.py": b"x = 1"}))
    assert "big-endian" in refused(tmp_path, zipped({"a/data.pkl": pickled, "a/byteorder": b"big"}))
    npz = io.BytesIO()
    np.savez(npz, a=np.zeros(2))
    assert "NumPy" in refused(tmp_path, npz.getvalue())
    assert read_bytes(tmp_path, zipped({"a/data.pkl": pickled, "../../a": b"out"})).content == {
        "a": 1
    }  # nothing unpacked


def test_places_in_a_file_that_overlap_are_refused(tmp_path: Path) -> None:
    def safe(*places: tuple[int, int], data: int = 32) -> bytes:
        entries = [{"dtype": "F32", "shape": [4], "data_offsets": list(place)} for place in places]
        header = json.dumps(dict(zip("abc", entries, strict=False))).encode()
        return struct.pack("<Q", len(header)) + header + bytes(data)

    assert read_bytes(tmp_path, safe((16, 32), (0, 16))).content.keys() == {"a", "b"}
    assert "'b' begins at 8" in refused(tmp_path, safe((0, 16), (8, 24), data=24))
    assert "'b' begins at 20" in refused(tmp_path, safe((0, 16), (20, 36), data=36))
    assert "4 bytes follow" in refused(tmp_path, safe((0, 16), data=20))
    data = bytearray(zipped({"a/data.pkl": pickle.dumps({}, 2), "a/data/0": b"1234", "a/data/1": b"1234"}))
    first, last = data.find(b"a/data/0", data.find(b"PK\1\2")), data.rfind(b"a/data/1")
    data[last - 4 : last] = data[first - 4 : first]  # where its bytes begin
    assert "overlaps the entry before it" in refused(tmp_path, bytes(data))


@pytest.mark.parametrize("word", ["module.", "_orig_mod.", "_orig_mod.module.", "module.module."])
def test_what_a_wrapper_puts_before_the_keys_is_taken_off(tmp_path: Path, word: str) -> None:
    wrapped = {f"{word}{key}": tensor for key, tensor in STATE.items()}
    assert read_bytes(tmp_path, saved({"state_dict": wrapped})).content["state_dict"].keys() == STATE.keys()
    averaged = {"n_averaged": torch.tensor(7), **{f"module.{key}": tensor for key, tensor in wrapped.items()}}
    assert read_bytes(tmp_path, saved(averaged)).content.keys() == STATE.keys()
    mixed = {**wrapped, "other": torch.zeros(1)}
    assert read_bytes(tmp_path, saved(mixed)).content.keys() == mixed.keys()


def claiming(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, data: int = 64) -> bytes:
    """A zip of torch.save whose tensor claims a storage of so many float32, with `data` bytes there."""

    def number(n: int) -> bytes:
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + number(count) + b"tQ"
    )
    shape = b"(" + b"".join(map(number, size)) + b"t(" + b"".join(map(number, stride)) + b"t"
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + shape
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )
    return zipped({"a/data.pkl": b"\x80\x02}X\x01\x00\x00\x00a" + call + b"s.", "a/data/0": bytes(data)})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (claiming(2_500_000_000, (50000, 50000), (50000, 1)), "must have 10,000,000,000 bytes, got 64"),
        (claiming(-1, (1,), (1,)), "0 or more"),
        (claiming(16, (17,), (1,)), "needs more than the 16 elements"),
        (claiming(16, (4,), (1,), offset=13), "needs more than the 16 elements"),
        (claiming(16, (10**9,), (0,)), "needs more than the 16 elements"),
        (claiming(16, (2, 2), (1,)), "sizes"),
        (claiming(16, (-2,), (1,)), "sizes"),
        (claiming(16, (0, 2**62), (1, 1)), "shape"),
        (claiming(0, (2**31, 2**31), (1, 1), data=0), "needs more than the 0 elements"),
    ],
)
def test_a_size_is_compared_with_the_file(tmp_path: Path, data: bytes, says: str) -> None:
    assert says in refused(tmp_path, data)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**40, 2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "X", "shape": [2], "data_offsets": [0, 8]}},
        {"a": []},
        [],
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    assert refused(tmp_path, struct.pack("<Q", len(text)) + text + bytes(8))
