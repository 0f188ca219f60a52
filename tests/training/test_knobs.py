"""Knobs: the help and defaults of a field, the values that it takes, and those that it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError, InvalidRequest
from model.training.knobs import build, check, group, knob, knobs, parse, parse_settings, share
from model.training.options import (
    ClipOptions,
    ExportOptions,
    LoopOptions,
    ReviserOptions,
    SamplingChanges,
    TransformerOptions,
    VAEOptions,
)
from model.training.selection import Selection


@dataclass(frozen=True)
class Inner:
    """A group."""

    steps: int = field(metadata=knob("Steps.", ge=1))
    rate: float = field(default=0.5, metadata=share("A rate.", with_start=0.1))
    fast: bool | None = field(default=None, metadata=knob("Faster.", shown="on a GPU"))


@dataclass(frozen=True)
class Outer:
    """Knobs of every kind."""

    data: str
    inner: Inner = field(metadata=group(steps=7, with_start={"steps": 3}))
    names: tuple[str, ...] = field(default=(), metadata=knob("Names."))
    kind: str = field(default="a", metadata=knob("A kind.", choices=("a", "b")))
    path: Path | None = field(default=None, metadata=knob("A path."))
    most: float = field(default=1.0, metadata=knob("The most.", le=2))


@pytest.mark.parametrize(("name", "text", "value"), [
    ("steps", "12", 12), ("rate", "1", 1.0), ("rate", "1e-3", 1e-3), ("fast", "true", True), ("fast", "False", False),
    ("names", "a b, c,", ("a b", "c")), ("kind", "b", "b"), ("path", "x/y", Path("x/y")), ("most", "-3", -3.0),
])  # fmt: skip
def test_a_text_becomes_a_value_of_the_fields_type(name: str, text: str, value: Any) -> None:
    found = parse(knobs(Outer)[name], text)
    assert found == value
    assert type(found) is type(value) or isinstance(found, Path)


@pytest.mark.parametrize(("name", "text", "allowed"), [
    ("steps", "0", "an integer of 1 or more"), ("steps", "1.5", "an integer of 1 or more"),
    ("rate", "3", "a number from 0 to 1"), ("rate", "-0.1", "a number from 0 to 1"), ("rate", "nan", "a number from 0"),
    ("rate", "", "a number from 0 to 1"), ("fast", "maybe", "true or false"), ("kind", "c", "one of a, b"),
    ("most", "2.5", "a number of at most 2"), ("most", "inf", "a number of at most 2"),
])  # fmt: skip
def test_a_refused_value_is_named_with_the_values_that_are_allowed(name: str, text: str, allowed: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(knobs(Outer)[name], text)
    assert str(refused.value).startswith(f"{name} must be {allowed}")
    assert str(refused.value).endswith(f", got {text}")


def test_a_group_is_built_with_its_own_defaults_and_those_of_a_start() -> None:
    assert build(Outer, {}, data="x") == Outer("x", Inner(7))
    assert build(Outer, {}, going_on=True, data="x") == Outer("x", Inner(3, 0.1))
    assert build(Outer, {"rate": 0.2, "kind": "b"}, going_on=True, data="x") == Outer("x", Inner(3, 0.2), kind="b")
    with pytest.raises(InvalidRequest, match="rate must be a number from 0 to 1, got 3"):
        build(Outer, {"rate": 3}, data="x")
    shown = {name: knob.default_text for name, knob in knobs(Outer).items()}
    assert (shown["steps"], shown["rate"], shown["fast"]) == ("7; with --start 3", "0.5; with --start 0.1", "on a GPU")
    assert "data" not in shown


def test_a_setting_must_name_a_knob_once() -> None:
    known = knobs(Outer)
    assert parse_settings(["names=a=b", "steps=2"], known) == {"names": ("a=b",), "steps": 2}
    for texts, told in (
        (["steps"], "set must be NAME=VALUE"), (["step=2"], "got step; the nearest is steps"),
        (["steps=2", "steps=3"], "steps must be set once, got 2 and 3"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match=told):
            parse_settings(texts, known)
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        parse_settings(["concepts=@gone.txt"], knobs(Selection))


def test_a_knob_has_the_default_of_its_field_or_of_its_stage() -> None:
    loop = build(VAEOptions, {}, data=()).loop
    assert loop == LoopOptions(Path("runs/vae"), 20_000, 16)
    assert (loop.warmup_steps, LoopOptions(Path("runs"), 10, 16).warmup_steps) == (100, 1)
    on = build(VAEOptions, {"batch": 3}, going_on=True, data=())
    assert (on.loop.steps, on.loop.batch, on.muon_lr, on.adam_lr) == (1000, 3, 0.005, 5e-4)
    reviser = build(ReviserOptions, {}, going_on=True, data=())
    assert (reviser.loop.steps, reviser.loop.batch, reviser.muon_lr) == (5000, 128, 0.003)
    assert build(TransformerOptions, {}, data=()) == TransformerOptions(
        (), LoopOptions(Path("runs/transformer"), 20_000, 32)
    )
    assert build(ClipOptions, {}, data=()) == ClipOptions((), LoopOptions(Path("runs/clip"), 3000, 128))


def test_concepts_sources_and_kinds_have_weights(tmp_path: Path) -> None:
    listed = tmp_path / "concepts.txt"
    listed.write_text("cat\nbus 3\n")
    texts = [f"concepts=@{listed},dog:0.5,x*", "sources=twemoji:3,noto", "mix=single:0.6,pair:0.4"]
    given = parse_settings(texts, knobs(Selection))
    assert build(Selection, given) == Selection(
        {"cat": 1.0, "bus": 3.0, "dog": 0.5, "x*": 1.0}, {"twemoji": 3.0, "noto": 1.0}, {"single": 0.6, "pair": 0.4}
    )


def test_every_knob_has_a_default_that_it_allows_and_a_plain_help() -> None:
    stages = (VAEOptions, TransformerOptions, ClipOptions, ReviserOptions, ExportOptions, SamplingChanges, Selection)
    for one in (one for stage in stages for one in knobs(stage).values()):
        assert check(one, one.default) == one.default
        if one.with_start is not None:
            assert check(one, one.with_start) == one.with_start
        assert one.help[0].isupper()
        assert one.help.endswith((".", "..."))
        if one.kind in (int, float) and one.default is not None:
            assert parse(one, str(one.default)) == one.default
