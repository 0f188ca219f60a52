"""The benchmark: its arithmetic against sums made by hand, and a real run of a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from app.cli import app
from model.benchmark import benchmark, describe_machine, floor_seconds, step_bytes, step_operations
from model.checkpoints import load
from model.config import TransformerConfig, from_preset
from model.errors import InvalidRequest
from model.transformer import Transformer


def test_bytes_and_operations_of_a_step() -> None:
    transformer = Transformer(from_preset(TransformerConfig, "tiny", text_vocab=512))
    config = transformer.config
    weights = step_bytes(transformer, rows=0, context=0)
    read = dict(transformer.named_parameters())
    per_token = [
        name for name in read if name.startswith(("local.blocks", "local.to_code", "local.codes.own", "local.bias"))
    ]
    unread = ("text_table", "places", "caption_in", "local.codes.shared", "local.norm")
    once = [name for name in read if name not in per_token and not name.startswith(unread)]
    count = sum(read[n].numel() for n in once) + config.group * sum(read[n].numel() for n in per_token)
    assert weights == 4 * count
    a_position = 2 * config.depth * config.kv_heads * config.head_dim * 4
    assert step_bytes(transformer, rows=3, context=99) == weights + 3 * 100 * a_position
    assert step_operations(transformer, rows=2, context=0) == 2 * 2 * count
    assert step_bytes(transformer.to(torch.bfloat16), rows=0, context=0) == weights // 2


def test_the_floor_is_the_larger_of_reading_and_computing() -> None:
    transformer = Transformer(from_preset(TransformerConfig, "tiny", text_vocab=512))
    machine = describe_machine(torch.device("cpu"), torch.float32)
    assert machine.bandwidth > 1e8
    assert machine.speed > 1e8
    context = 5 + transformer.config.steps / 2
    slow_memory = replace(machine, bandwidth=1e3, speed=1e15)
    slow_cores = replace(machine, bandwidth=1e15, speed=1e3)
    assert floor_seconds(transformer, slow_memory, 4, 5) == step_bytes(transformer, 4, context) / 1e3
    assert floor_seconds(transformer, slow_cores, 4, 5) == step_operations(transformer, 4, context) / 1e3


def test_a_real_run(tiny_checkpoint: Path) -> None:
    said: list[str] = []
    result = benchmark(load(tiny_checkpoint), crowds=(1, 3), guidance=1.0, repeats=2, on_progress=said.append)
    alone, three = result.crowds
    assert (alone.images, alone.rows, three.images, three.rows) == (1, 1, 3, 3)
    for crowd in result.crowds:
        assert 0 < crowd.first_token < crowd.fastest <= crowd.seconds <= crowd.slowest
        assert crowd.images_per_second == pytest.approx(crowd.images / crowd.seconds)
    assert "3 at once, run 2 of 2" in said
    assert json.loads(json.dumps(result.to_json()))["crowds"][1]["images"] == 3


def test_the_command(tiny_checkpoint: Path) -> None:
    told = CliRunner().invoke(app, ["bench", "--weights", str(tiny_checkpoint), "--images", "1", "--repeats", "1"])
    assert told.exit_code == 0, told.output
    last = json.loads(told.stdout.splitlines()[-1])
    assert last["crowds"][0]["rows"] == 2  # guided: the checkpoint's strength


@pytest.mark.parametrize(
    ("images", "said"), [("1,x", "got '1,x'"), ("0", "from 1 to 256, got 0"), ("300", "from 1 to 256, got 300")]
)
def test_a_bad_list_of_crowds(images: str, said: str, tiny_checkpoint: Path) -> None:
    told = CliRunner().invoke(app, ["bench", "--weights", str(tiny_checkpoint), "--images", images])
    assert isinstance(told.exception, InvalidRequest)
    assert said in str(told.exception)
