"""config.json: whatever a hostile one says is refused by one line that names the key and what is allowed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.checkpoint import ServedCheckpoint
from model import config as configs
from model.checkpoints import load, sums
from model.config import CheckpointConfig, ReviserConfig, SamplingDefaults, from_preset
from model.config_file import from_dict, from_json, to_dict
from model.errors import CheckpointError, InvalidRequest
from model.inference.requests import SamplingParams
from model.training.options import ExportOptions
from tests.checkpoints.refused import holds, put, refusal, values_of

SECTIONS: dict[str, Any] = {
    "": CheckpointConfig,
    "vae": configs.VAEConfig,
    "transformer": configs.TransformerConfig,
    "sampling": SamplingDefaults,
    "clip": configs.ClipConfig,
    "reviser": configs.ReviserConfig,
    "fit": configs.FitConfig,
}
FIELDS = [(section, field.name) for section, cls in SECTIONS.items() for field in dataclasses.fields(cls)]
LISTS = ("levels", "code_levels")
FREE = (
    *SECTIONS,
    "provenance",
    "format_version",
    "completes",
    "styles",
    "tokenizer",
)  # of other kinds than numbers and texts
NUMBERS = [
    (section, name) for section, name in FIELDS if name not in (*LISTS, *FREE, "name", "licence", "version", "unknown")
]


@pytest.mark.parametrize(("section", "name"), NUMBERS)
def test_a_number_out_of_its_limits_is_named_with_them(whole: Path, section: str, name: str) -> None:
    wrong: list[object] = [
        1 if section == "fit" else -1,
        10**18,
        10**4000,
        True,
        False,
        None,
        "64",
        [64],
        {},
        math.nan,
        math.inf,
        1e300,
    ]
    cls: Any = SECTIONS[section]
    whole_number = isinstance(next(f.default for f in dataclasses.fields(cls) if f.name == name), int)
    wrong += [64.0, 0.5] if whole_number else []
    for value in wrong:
        with pytest.raises(CheckpointError) as caught:
            from_dict(put(values_of(whole), section, name, value))
        key = f"{section}.{name}" if section else name
        kind = "an integer" if whole_number else "a number"
        allowed = r"(from \S+ to \S+|above \S+, up to \S+|of 8)"
        assert re.fullmatch(rf"config\.json: {key} must be {kind} {allowed}, got .{{1,100}}", str(caught.value))


@pytest.mark.parametrize(("section", "name"), [(s, n) for s, n in FIELDS if n in LISTS])
def test_a_list_of_levels_has_limits(whole: Path, section: str, name: str) -> None:
    for value in ([0], [1], [-4, 4], [4] * 10**6, [4.0], [True], ["4"], [[4]], [10**9], 16, None, "44", {"4": 4}):
        line = f"config.json: {section}.{name} must be a list of "
        with pytest.raises(CheckpointError, match=re.escape(line)):
            from_dict(put(values_of(whole), section, name, value))
    if name == "levels":
        with pytest.raises(CheckpointError, match="must be a list of 1 to 16 integers from 2 to 32768, got \\[\\]"):
            from_dict(put(values_of(whole), section, name, []))
    if section != "clip":  # whose levels must be the VAE's
        with pytest.raises(CheckpointError, match=rf"config\.json: {section}: "):
            from_dict(put(values_of(whole), section, name, [2048] * 16))


@pytest.mark.parametrize("name", ["name", "licence"])
def test_a_text_that_would_end_a_line_or_drive_a_terminal_is_refused(whole: Path, name: str) -> None:
    for value in ("", "  ", "a\nb", "a\r\nX: 1", "\x1b[2J", "a\x00", "\x7f", "\x85", "\u2028", "a\u202eb", "\ud800",
                  "x" * 10**6, 7, None, ["x"], True):  # fmt: skip
        with pytest.raises(CheckpointError) as caught:
            from_dict(put(values_of(whole), "", name, value))
        assert re.match(rf"config\.json: {name} must be a text of 1 to \d+ printable characters, not blank, got ",
                        str(caught.value))  # fmt: skip
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 250
    assert from_dict(put(values_of(whole), "", name, "Bäume 木 (v2)"))


@pytest.mark.parametrize("section", [section for section in SECTIONS if section])
def test_a_section_is_an_object_of_known_keys(whole: Path, section: str) -> None:
    wrong: list[Any] = [7, "x", [], True, [[]] * 10]
    for value in wrong:
        with pytest.raises(CheckpointError, match=rf"config\.json: {section} must be an object, got "):
            from_dict({**values_of(whole), section: value})
    with pytest.raises(CheckpointError) as caught:
        from_dict(put(values_of(whole), section, "\x1b[2J" + "x" * 10**6, 1))
    assert f"config.json: {section}: unknown key '\\x1b[2Jxx" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_other_kinds_of_fields_have_limits_too(whole: Path) -> None:
    deep: Any = "x"
    for _ in range(50):
        deep = [deep]
    for name, value, line in (
        ("completes", 1, "completes must be true or false, got 1"),
        ("provenance", {"data": "x" * 10**5}, "provenance must be an object of at most 65,536 bytes of JSON"),
        ("provenance", {"data": deep}, "8 levels deep, got an object"),
        ("provenance", None, "provenance must be an object"),
        ("format_version", True, "format_version is true"),
        ("format_version", 1.0, "format_version is 1.0"),
        ("format_version", [1], "format_version is [1]"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(line)):
            from_dict({**values_of(whole), name: value})


def test_what_a_checkpoint_may_not_be_called_is_refused_before_it_is_trained() -> None:
    assert ExportOptions(name="Bäume 木", data_note="one line\nand another")
    for name, value in (("name", "a\nb"), ("licence", ""), ("data_note", "x" * 2**17)):
        with pytest.raises(InvalidRequest, match=rf"^{'provenance' if name == 'data_note' else name} must be "):
            dataclasses.replace(ExportOptions(), **{name: value})  # type: ignore[arg-type]


def test_relations_between_fields_hold(copy: Path, whole: Path) -> None:
    for section, name, value, line in (
        ("vae", "image_size", 60, "vae: image_size: 60 is no multiple of factor 8"),
        ("transformer", "kv_heads", 3, "transformer: heads: 4 is no multiple of kv_heads 3"),
        ("transformer", "head_dim", 4, "transformer: head_dim: 4 is no multiple of 8"),
        ("transformer", "mlp_ratio", 0.001, "transformer: mlp_ratio: 0.001 leaves nothing of dim 64"),
        ("transformer", "group", 3, "transformer: group: 3 does not divide"),
        ("sampling", "top_k", 17, "sampling.top_k must be from 0 to 16, the transformer's image_vocab, got 17"),
    ):
        (copy / "config.json").write_text(json.dumps(put(values_of(whole), section, name, value)))
        sums.write(copy)
        assert line in refusal(copy)


def test_presets_and_large_models_are_within_the_limits() -> None:
    for transformer in configs.TRANSFORMER_PRESETS:
        for vae in configs.VAE_PRESETS:
            config = CheckpointConfig(
                "any",
                "any",
                configs.from_preset(configs.VAEConfig, vae),
                configs.from_preset(configs.TransformerConfig, transformer),
                clip=configs.from_preset(configs.ClipConfig, "default"),
                reviser=from_preset(ReviserConfig, "default"),
            )
            assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    large = configs.from_preset(
        configs.TransformerConfig,
        "default",
        dim=16384,
        depth=256,
        heads=256,
        kv_heads=8,
        text_vocab=2**20,
        grid=128,
        text_tokens=4096,
    )
    config = CheckpointConfig("any", "any", configs.from_preset(configs.VAEConfig, "default", image_size=1024), large)
    assert from_dict(to_dict(config)) == config


def test_a_checkpoints_sampling_has_the_limits_of_a_request() -> None:
    base = CheckpointConfig("a", "b", configs.VAEConfig(), configs.TransformerConfig())
    hints = {name: getattr(configs, kind) for name, kind in (
        ("temperature", "Temperature"), ("top_k", "TopK"), ("top_p", "TopP"), ("guidance", "Guidance"),
        ("opening", "Temperature"),
    )}  # fmt: skip
    for name, hint in hints.items():
        for value in (-1, -0.01, 0, 0.01, 1, 5, 5.01, 20, 20.01, 32768, 32769, math.nan, math.inf):
            number: Any = int(value) if name == "top_k" and math.isfinite(value) else value
            values = put(to_dict(base), "sampling", name, number)
            found = holds(InvalidRequest, SamplingParams(0, **{name: number}).check, 32768)
            assert (name, value, found) == (name, value, holds(CheckpointError, from_dict, values))
            wire = holds(ValidationError, TypeAdapter(hint).validate_python, number)
            assert wire == found or not math.isfinite(value)  # which the schema as a whole refuses


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "not JSON: Expecting value"),
        (b"\xff\xfe{}", "not JSON: 'utf-8' codec can't decode"),
        (b"\xef\xbb\xbf{}", "not JSON: Unexpected UTF-8 BOM"),
        ("{}".encode("utf-16"), "not JSON: 'utf-8' codec can't decode"),
        (b"[" * 10**5, "not JSON that is read here: it nests too deep"),
        (b'{"a":' * 10**5, "not JSON that is read here: it nests too deep"),
        (b"[]", " must be an object, got []"),
        (b"null", " must be an object, got null"),
        (b'"\\u001b[2J"', " must be an object, got '\\x1b[2J'"),
        (b'{"format_version": 1, "created": NaN}', "not JSON: 'NaN' is no finite number"),
        (b'{"format_version": 1, "created": -Infinity}', "not JSON: '-Infinity' is no finite number"),
        (b'{"format_version": 1, "created": 1e999}', "not JSON: '1e999' is no finite number"),
        (b'{"created": 1' + b"0" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b'{"name": "a", "name": "b"}', "not JSON: the key 'name' stands in one object twice"),
        (b'{"vae": {"\\n": 1, "\\n": 2}}', "not JSON: the key '\\n' stands in one object twice"),
        (b'{"name": "a\nb"}', "not JSON: Invalid control character"),
        (b'{"format_version": 1}', "the key 'name' is missing"),
    ],
)
def test_a_file_that_is_no_config_is_refused(data: bytes, line: str, copy: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_json(data)
    assert f"config.json{'' if line[0] == ' ' else ': '}{line}" in str(caught.value)
    (copy / "config.json").write_bytes(data)
    sums.write(copy)
    assert line in refusal(copy)
    assert line in refusal(copy, ServedCheckpoint.read)


HOSTILE = (
    st.integers(-2, 70)
    | st.sampled_from([2**15, 2**20, 2**31, 2**63, 10**30, 0.0, -0.0, 0.5, 1.0, 1e-300, 1e300, True, False, None])
    | st.text(max_size=20)
    | st.lists(st.integers(-1, 300), max_size=5)
    | st.dictionaries(st.text(max_size=5), st.integers(), max_size=2)
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FIELDS), HOSTILE)
def test_any_value_in_any_place_is_refused_or_loads(
    whole: Path, copy: Path, place: tuple[str, str], value: Any
) -> None:
    config = json.dumps(put(values_of(whole), *place, value)).encode()
    listed = (whole / "SHA256SUMS").read_text()
    was, now = (hashlib.sha256(data).hexdigest() for data in ((whole / "config.json").read_bytes(), config))
    (copy / "config.json").write_bytes(config)
    (copy / "SHA256SUMS").write_text(listed.replace(was, now))
    if not holds(CheckpointError, load, copy):
        assert refusal(copy).startswith(str(copy))
        return
    found = load(copy)
    assert from_dict(json.loads(json.dumps(to_dict(found.config)))) == found.config
    assert ServedCheckpoint.read(copy).config == found.config
    found.transformer.logits(torch.tensor([found.tokenizer.null]), torch.zeros(1, 4, dtype=torch.int64))
