"""Pickles are read without running anything, and in bounded time and memory."""

from __future__ import annotations

import collections
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import CheckpointError
from model.importing.calls import Inert
from model.importing.pickles import Machine


def load(data: bytes) -> Any:
    def nothing(*_: Any) -> Any:
        raise AssertionError("no tensors here")

    return Machine(data, "x.pt", nothing, nothing).load()[0]


def refused(data: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(data)
    message = str(caught.value)
    assert message.startswith("x.pt: ")
    assert "\n" not in message
    return message


class Call:
    """Pickles as a call of `what`."""

    def __init__(self, what: Any, *args: Any) -> None:
        self.what, self.args = what, args

    def __reduce__(self) -> Any:
        return self.what, self.args


class Plain:
    """An instance of a class that nobody here knows."""

    def __init__(self) -> None:
        self.a = 1


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(protocol: int) -> None:
    value = {
        "text": "a ü\n\\u0041 漢", "bytes": b"ab", "no bytes": b"",
        "numbers": [0, 1, 255, 256, -1, 2**40, -(2**70), 1.5, True, False, None],
        "tuple": (), "tuples": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "set": {1, 2},
        "ordered": collections.OrderedDict([("b", 1), ("a", [2])]), 7: "seven", "empty": {},
    }  # fmt: skip
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_what_training_keeps_beside_the_weights_is_read(protocol: int) -> None:
    """Types are named in the settings of Lightning and OmegaConf, under other names below protocol 3."""
    counted = collections.Counter({30: 1})
    types = [int, str, float, list, object, type(None)]
    more = {"range": range(3), "complex": 1j, "bytes": bytearray(b"a"), "array": np.zeros(3), "rest": ...}
    found = load(pickle.dumps({"milestones": counted, "types": types, **more}, protocol))
    assert found["milestones"] == {30: 1}
    names = [value.name.rpartition(".")[2] for value in found["types"]]
    assert names[2:] == ["float", "list", "object", "NoneType"]
    assert names[:2] == (["int", "str"] if protocol > 2 else ["long", "unicode"])
    assert isinstance(found["range"], Inert)


@pytest.mark.parametrize("protocol", range(6))
def test_a_number_of_numpy_is_a_number(protocol: int) -> None:
    numbers = [np.int64(-3), np.float32(0.5), np.float64(0.1), np.uint8(200), np.bool_(True), np.float16(2)]
    assert load(pickle.dumps(numbers, protocol)) == [-3, 0.5, 0.1, 200, True, 2]
    assert isinstance(load(pickle.dumps(np.str_("a"), protocol)), Inert)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_an_instance_of_an_unknown_class_is_inert(protocol: int) -> None:
    found = load(pickle.dumps({"callback": Plain(), Plain: 3}, protocol))
    name = f"{Plain.__module__}.Plain"
    assert isinstance(found["callback"], Inert)
    assert (found["callback"].name, found["callback"].state) == (name, {"a": 1})


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("what", "args", "name"),
    [
        (os.system, ("true",), "system"),
        (eval, ("1",), "eval"),
        (getattr, (1, "real"), "getattr"),
        (collections.deque, ((1,),), "deque"),
    ],
)
def test_a_call_is_refused_by_name(protocol: int, what: Any, args: Any, name: str) -> None:
    assert name in refused(pickle.dumps({"a": Call(what, *args)}, protocol))


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Call(type, "Made", (), {})),
        pickle.dumps(Call(bytearray, 10**10)),
        pickle.dumps(Call(bytes, 10**10), 2),
        pickle.dumps(Call(range, 10**10)),
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",  # named, not called
        b"\x80\x02ctorch.hub\nload\n(X\x01\x00\x00\x00atR.",
        b"\x80\x02cbuiltins\nexec\n.",
    ],
)
def test_every_way_to_a_program_is_refused(data: bytes) -> None:
    assert "nothing was run" in refused(data)


def test_a_call_within_a_call_ends() -> None:
    again = (
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x01)" + b"q\x02(h\x01Nh\x02Nt" * 5000 + b"q\x03h\x01h\x03R."
    )
    assert "must not call itself" in refused(again)


def test_a_function_of_torch_is_not_allowed_for_its_name() -> None:
    message = refused(b"\x80\x02ctorch.nn.functional\nsoftmax\n(K\x01tR.")
    assert "torch.nn.functional.softmax" in message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}",
        b"\x80\x02X\xff\xff\xff\x7fabc.",  # a text of 2 GB
        b"\x80\x04\x96" + struct.pack("<Q", 2**40) + b".",  # a bytearray of 1 TB
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo of 2**31 places
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of 2 GB
        b"I" + b"9" * 5000 + b"\n.",
        b"\x80\x02h\x05.",
        b"\x80\x02R.",
        b"\x80\x02(t((((.",
        b"\x80\x02\xff.",
        b"\x80\x02NK\x01s.",
        b"\x80\x02NNR.",
        b"\x80\x02(u.",
        b"\x80\x02}}K\x01s.",  # a dict as a key
    ],
)
def test_damage_is_refused(data: bytes) -> None:
    assert refused(data)


def test_values_that_hold_each_other_a_billion_times_are_never_walked() -> None:
    laughs: Any = [0] * 10
    for _ in range(40):
        laughs = [laughs] * 10
    assert len(load(pickle.dumps({"attn_types": laughs}))["attn_types"]) == 10
    nested: Any = (1, 2)
    for _ in range(100):
        nested = (nested, nested)
    assert "key of a dict" in refused(pickle.dumps([nested], 4)[:-2] + b"}\x94K\x01K\x02" + b"s0" + b"}h\x00K\x01s.")


def test_work_is_bounded() -> None:
    assert "opcodes" in refused(b"\x80\x02" + b"N0" * 800_000 + b"N.")
    many = pickle.dumps(dict.fromkeys(range(20000)), 2)[2:-1]
    copies = b"ccollections\nOrderedDict\nh\x00\x85R0" * 200
    assert "bytes" in refused(b"\x80\x02" + many + b"q\x00" + copies + b".")


def test_nothing_is_left_by_a_payload(tmp_path: Path) -> None:
    for protocol in range(6):
        refused(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran")), protocol))
    assert not (tmp_path / "ran").exists()
