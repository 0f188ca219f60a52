"""The benchmark: its floors against sums made by hand, its ratios, and a real run of a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from app.cli import app
from app.commands.bench import numbers
from app.commands.bench.clients import Load, quantile
from app.commands.bench.peers import Compared, Shape, compare, folder
from app.commands.bench.report import Row, Serving, as_json
from model.benchmark.floor import Demand, Sizes, counted_operations, demand, prefill_seconds
from model.benchmark.machine import BLOCKS, Machine, measure_machine
from model.benchmark.measure import measure
from model.benchmark.steps import Pictures, in_turns, paint
from model.checkpoints import load
from model.config import TransformerConfig
from model.errors import InvalidRequest
from model.families.dalle_pytorch.config import DallePytorchConfig
from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.families.llamagen.config import LlamaGenTextConfig, T5Config
from model.families.llamagen.text import LlamaGenTextTransformer
from model.families.min_dalle.config import MinDalleConfig
from model.families.min_dalle.transformer import MinDalleTransformer
from model.families.rudalle.config import RuDalleConfig
from model.families.rudalle.transformer import RuDalleTransformer
from model.inference.engine import Engine
from model.inference.requests import SamplingParams
from model.kernels.library import built
from model.transformer import Transformer

SLOW = Machine("a processor", 2, 2, "cpu", "2", "3", (), "float32", read=1e6, multiply=1e15)
KEYS = ("machine", "decode", "peers", "http", "stream_cost", "ready_s", "rss_mib")


def test_the_demand_of_our_own_step() -> None:
    config = TransformerConfig(
        text_vocab=32, text_tokens=6, image_vocab=16, grid=4, group=2, dim=8, depth=2, heads=2, kv_heads=1, head_dim=8,
        mlp_ratio=2.0, code_dim=4, code_levels=(), local_dim=6, local_depth=1,
    )  # fmt: skip
    found = demand(Transformer(config), ids=5, step=3)
    # A block: two norms 8 + 8, gains 2, qkv 8 x (2 + 2) heads of 8, out 16 x 8, w1 and w2 of 8 x 16.
    block = 8 + 8 + 2 + 8 * 32 + 16 * 8 + 2 * 8 * 16
    # The body's norm, group_in 2 codes of 4 to 8, from_body 8 to 2 x 6, from_left 3 codes to 6, from_above 5 to 6.
    once = 2 * block + 8 + 8 * 8 + 8 * 12 + 12 * 6 + 20 * 6
    # A token: the local block with its norm, to_code, the table of 16 codes, their biases.
    each = 6 + 6 * 12 + 12 * 6 + 6 * 4 + 16 * 4 + 16
    assert found == Demand(once + each, cached=2 * 2 * 1 * 8 * (5 + 3 + 1), uses=2, again=each)


def test_three_by_three_convolutions_count_half_where_winograds_method_serves() -> None:
    three, strided = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
    one, wide = nn.Conv2d(4, 8, 1), nn.ConvTranspose2d(4, 8, 3, padding=1)
    x = torch.zeros(1, 4, 6, 6)
    direct = 2 * 4 * 8 * 6 * 6
    found = [counted_operations(lambda layer=layer: layer(x)) for layer in (three, strided, one, wide)]
    assert found == [direct * 9 / 2, direct * 9 / 4, direct, direct * 9]


def test_the_demand_of_other_families() -> None:
    dalle = DallePytorchConfig(
        text_vocab=20, text_tokens=4, image_vocab=16, grid=4, dim=8, depth=2, heads=2, head_dim=4,
        attention=("full",) * 2,
    )  # fmt: skip
    layer = 8 * 24 + 8 * 8 + 8 + 8 * 64 + 64 + 32 * 8 + 8 + 4 * 8 + 2 * 8  # qkv, out, w1, w2, two norms, two scales
    assert demand(DallePytorchTransformer(dalle), ids=3, step=7) == Demand(
        2 * layer + 16 + (8 * 16 + 16), cached=2 * 2 * 8 * (5 + 7 + 1), uses=1
    )
    mini = MinDalleConfig(text_vocab=20, dim=8, depth=1, heads=2, hidden=12, text_tokens=4, image_vocab=16, grid=4)
    read = 6 * 64 + 3 * 8 * 12 + 2 * 12 + 5 * 2 * 8  # q, k, v, out and q, out; the gated feed-forward; norms
    assert demand(MinDalleTransformer(mini), ids=3, step=7) == Demand(
        read + 2 * 16 + 8 * 16, cached=2 * 8 * (8 + 1 + 3), uses=1
    )
    russian = RuDalleConfig(text_vocab=20, image_vocab=16, dim=8, depth=1, heads=2, text_tokens=4, grid=4)
    layer = 8 * 24 + 24 + 8 * 8 + 8 + 8 * 32 + 32 + 32 * 8 + 8 + 4 * 16
    assert demand(RuDalleTransformer(russian), ids=3, step=1) == Demand(
        layer + 2 * 16 + 8 * 16 + 16, cached=2 * 8 * (6 + 2), uses=1
    )
    encoder = T5Config(vocab=20, dim=4, depth=1, heads=1, head_dim=4, hidden=4)
    text = LlamaGenTextConfig(image_vocab=16, dim=8, depth=2, heads=2, hidden=12, grid=4, encoder=encoder)
    layer = 4 * 64 + 3 * 8 * 12 + 2 * 8
    assert demand(LlamaGenTextTransformer(text), ids=3, step=1) == Demand(
        2 * layer + 8 + 8 * 16, cached=2 * 2 * 8 * (3 + 2), uses=1
    )


def test_the_floor_is_the_larger_of_reading_and_computing() -> None:
    step, wide = Demand(weights=1000, cached=50.0, uses=4, again=300), Sizes(4, 4)
    assert step.bytes(rows=4, sizes=Sizes(2, 4)) == 2 * 1000 + 4 * 200
    assert step.operations(rows=4) == 2 * 4 * 1500
    assert step.seconds(SLOW, rows=4, sizes=wide) == 4 * 1200 / 1e6
    assert step.seconds(SLOW, rows=4, sizes=Sizes(2, 4)) == 2800 / 1e6
    assert step.seconds(replace(SLOW, narrow="bfloat16"), rows=4, sizes=wide) == 2 * 1200 / 1e6
    assert step.seconds(replace(SLOW, read=1e15, multiply=1e6), rows=4, sizes=wide) == 2 * 4 * 1500 / 1e6
    assert step.mbu(SLOW, rows=4, sizes=wide, seconds=4 * 1200 / 1e6 * 2) == 0.5
    cached = replace(SLOW, near=((2400, 3e6), (7200, 2e6)))
    assert step.seconds(cached, rows=4, sizes=wide) == 4800 / 2.5e6
    assert step.mbu(cached, rows=4, sizes=wide, seconds=0.00192) == pytest.approx(2.5)  # caches are quicker
    assert cached.reading(1e12) == SLOW.read
    reading = 4 * 8 * 2 * 8 * 3
    config = TransformerConfig(
        dim=8, depth=1, heads=1, kv_heads=1, head_dim=8, mlp_ratio=2.0, local_dim=8, code_levels=()
    )
    parameters = sum(p.numel() for p in Transformer(config).blocks.parameters())
    assert reading < 4 * parameters
    assert prefill_seconds(Transformer(config), SLOW, ids=9) == 4 * parameters / 1e6


def test_this_machine_is_measured() -> None:
    machine = measure_machine(torch.device("cpu"))
    assert machine.read > 1e7
    assert machine.multiply > 1e7
    assert machine.number_bytes == (2 if machine.narrow == "bfloat16" else 4)
    assert [size for size, _ in machine.near] == sorted(BLOCKS)
    assert machine.reading(1.0) == machine.near[0][1]


def test_windows_of_a_picture() -> None:
    steps = (9.0, *(float(i) for i in range(1, 99)), 50.0)
    whole = Pictures(images=1, rows=2, ids=5, sizes=Sizes(2, 4), total=100, steps=steps, runs=1)
    assert whole.step == sum(range(1, 99)) / 98
    assert whole.part(0.0) == (4.5, 4.5)
    assert whole.part(1.0) == (94.5, 94.5)
    assert whole.seconds == sum(steps)
    cut = replace(whole, steps=steps[:40])
    assert not cut.whole
    assert cut.part(0.5) is None
    assert cut.seconds == pytest.approx(sum(steps[:40]) + 60 * cut.step)
    assert replace(cut, unpainted=3.0).seconds == pytest.approx(cut.seconds + 3)


def test_a_run_that_is_cut_short_counts_the_decoder_all_the_same(tiny_checkpoint: Path) -> None:
    engine = Engine(load(tiny_checkpoint), slots=4)
    cut, drawn, whole = (
        paint(engine, 2, SamplingParams(seed=1), seconds, pixels=pixels)
        for seconds, pixels in ((1e-9, True), (1e-9, False), (3600.0, True))
    )
    assert not cut.whole
    assert cut.unpainted > 0
    assert drawn.unpainted == whole.unpainted == 0
    assert whole.whole


def test_engines_are_compared_over_the_same_steps(tiny_checkpoint: Path) -> None:
    engines = [Engine(load(tiny_checkpoint), slots=4, strict=strict) for strict in (True, False)]
    one, other = in_turns(engines, 2, SamplingParams(seed=1), 3600.0)
    assert one.whole
    assert len(one.steps) == len(other.steps)
    assert one.runs == 3
    brief, also = in_turns(engines, 2, SamplingParams(seed=1), 1e-9)
    assert 1 <= len(brief.steps) == len(also.steps) < one.total


def test_shares_and_ratios() -> None:
    assert Row("a", 4.0, 1.0, "s").share == 0.25
    assert Row("a", 4.0, 16.0, "/min", faster=True).share == 0.25
    assert Row("a", 4.0, None, "s").share is None
    assert [quantile(range(1, 101), share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert quantile([7.0], 0.99) == 7.0
    assert Serving(1, 1, {}, 1, plain=4.0, live=5.0).stream_cost == pytest.approx(0.2)
    rounded = {"int8": {1: 1.0, 16: 4.5}}
    compared = Compared({1: 30.0, 16: 90.0}, 300.0, {1: 2.0, 16: 9.0}, 1e-6, 8.0, 4.0, rounded)
    found = compared.to_json()
    assert found["dalle_pytorch"]["one_image"] == 15
    assert found["dalle_pytorch"]["sixteen_images"] == 10
    assert found["dalle_pytorch"]["published_one_image"] == 150
    assert found["dalle_pytorch"]["int8"] == {"one_image": 30, "sixteen_images": 20}
    assert found["min_dalle"]["one_image"] == 2
    assert [round(row.found) for row in compared.rows()] == [15, 30, 10, 20, 150, 2]


def test_a_real_run_has_a_row_and_a_key_for_everything(tiny_checkpoint: Path) -> None:
    said: list[str] = []
    result = measure(
        load(tiny_checkpoint), torch.device("cpu"), rows=(1, 3), images=(20,), seconds=0.01, on_progress=said.append
    )
    assert [result.steps[rows].rows for rows in (1, 3)] == [1, 3]
    assert [result.pictures[images].rows for images in (1, 16, 20)] == [2, 32, 40]  # guided: the checkpoint's strength
    assert "decoding 3 rows" in said
    loads = [Load(clients, 2.0, 1.6, (1.0, 2.0, 3.0)) for clients in (1, 8, 32)]
    serving = Serving(5.0, 2.0, {"rss": 600.0, "pss": 500.0}, 200.0, (1.0, 2.0, 3.0), loads, 4.0, 5.0)
    made = json.loads(json.dumps(as_json(result, serving, [], {}, seed=7)))
    assert all(key in made for key in KEYS)
    assert {"mbu_1", "mbu_3"} <= set(made["decode"])
    assert made["decode"]["pictures_per_s"]["20"] == pytest.approx(20 / result.pictures[20].seconds)
    assert made["http"]["p50_s"] == {"1": 2.0, "8": 2.0, "32": 2.0}
    assert made["http"]["images_per_min"]["8"] == 120
    alone = result.steps[1]
    demanded = demand(result.transformer, alone.ids, len(alone.steps) / 2)
    size = demanded.bytes(1, Sizes(*(min(part, result.machine.number_bytes) for part in alone.sizes)))
    expected = size / (alone.step * result.machine.read)
    assert made["decode"]["mbu_1"] == pytest.approx(expected)


def test_the_command(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plot = tmp_path / "bench.png"
    asked = ["bench", "--weights", tiny_checkpoint, "--rows", 1, "--seconds", 0.1, "--threads", 1, "--plot", plot]
    told = CliRunner().invoke(app, [str(word) for word in asked])
    assert told.exit_code == 0, told.output
    last = json.loads(told.stdout.splitlines()[-1])
    assert all(key in last for key in KEYS)
    assert set(last["http"]["images_per_min"]) == {"1", "8", "32"}
    assert last["ready_s"] > 0
    with Image.open(plot) as image:
        assert image.format == "PNG"


def test_a_bad_list_of_rows() -> None:
    assert numbers("4,1,4") == (4, 1)
    for text, said in (("1,x", "got '1,x'"), ("0", "from 1 to 1024, got 0"), ("3000", "from 1 to 1024, got 3000")):
        with pytest.raises(InvalidRequest, match=said):
            numbers(text)


@pytest.mark.skipif(not (folder() / "installed").exists(), reason="`dalle-server bench --peers` has not run here")
def test_peers_of_a_tiny_shape() -> None:
    hparams: dict[str, Any] = {
        "num_text_tokens": 49408, "text_seq_len": 8, "dim": 32, "depth": 2, "heads": 2, "dim_head": 16
    }  # fmt: skip
    vae = {"image_size": 32, "num_layers": 2, "num_tokens": 64, "codebook_dim": 16, "hidden_dim": 8}
    mini = {"layers": 1, "heads": 2, "width": 32, "hidden": 40, "text_vocab": 64}
    found = compare(1, 0, 0.1, shape=Shape(hparams, vae, mini, (1, 2)), positions=2, repeats=1)
    assert found.probe < 1e-4
    assert min(*found.repaired.values(), found.published, *found.ours.values(), found.min_dalle) > 0
    assert set(found.rounded) == ({"bfloat16", "int8"} if built() else {"bfloat16"})
