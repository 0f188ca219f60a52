"""The fused kernels for a GPU against PyTorch's operations: the same numbers, and the same bits alone and in company.

Where there is a GPU they run on it. Elsewhere Triton's interpreter runs them, on request, because it is no dependency
without a GPU (290 MB): pip install triton; TRITON_INTERPRET=1 python -m pytest tests/kernels/test_fused.py
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from model.checkpoints import Checkpoint
from model.config import TransformerConfig, from_preset
from model.inference.engine import Engine
from model.inference.events import Event, Painted
from model.inference.graphed import GraphedDecoder
from model.inference.requests import GenerationRequest, SamplingParams
from model.inference.sampling import RowParams, guide, sample
from model.kernels import SlotTensors
from model.kernels.gpu import Column, can_fuse, fused_step
from model.transformer import KVCache, Transformer
from tests.conftest import randomise
from tests.inference.conftest import small
from tests.inference.test_graphed import Recorder

if TYPE_CHECKING:
    from model.kernels.gpu.step import FusedStep

__all__ = ["small"]  # a fixture

THERE = torch.cuda.is_available()
DEVICE = torch.device("cuda" if THERE else "cpu")
NARROW = torch.bfloat16 if THERE else torch.float16  # the interpreter multiplies no bfloat16
INSTALLED = find_spec("triton") is not None
needs_triton = pytest.mark.skipif(
    not INSTALLED or not (THERE or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="there is no CUDA GPU, and no Triton with TRITON_INTERPRET=1",
)

SLOTS = 7
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"group": 1, "heads": 4, "kv_heads": 2, "local_depth": 0, "code_levels": (), "image_vocab": 272},
    {"group": 8, "heads": 6, "kv_heads": 2, "dim": 80, "head_dim": 64, "code_dim": 48, "local_dim": 112},
    {"group": 2, "heads": 7, "kv_heads": 1, "head_dim": 16, "depth": 3, "code_levels": (2, 3, 48, 1)},
)
PARAMS: tuple[dict[str, Any], ...] = (
    {"top_k": 40, "top_p": 0.9, "guidance": 2.0},
    {"temperature": 0.0},
    {"temperature": 2.0, "top_k": 3},
    {"top_p": 0.7},
    {"temperature": 1e-9, "top_k": 17},
    {},
)


@dataclass
class Scene:
    """A transformer with random state in all slots, on DEVICE. Rows 0 to SLOTS - 1 are computed; null slots are odd."""

    transformer: Transformer
    cache: KVCache
    slots: SlotTensors
    table: Tensor

    def step(self, strict: bool = True) -> FusedStep:
        """The kernels over this state, in small pieces, so that several are joined."""
        from model.kernels.gpu.step import FusedStep

        return FusedStep(self.transformer, self.cache, self.slots, self.table, strict, piece=16)

    def tell(self, column: Column, values: list[float]) -> None:
        """Write a column of the table, from slot 0 on."""
        self.table[column, : len(values)] = torch.tensor(values, dtype=torch.float64, device=DEVICE)


def scene(dtype: torch.dtype = torch.float32, **changes: Any) -> Scene:
    """Always the same for the same arguments. All rows are held, and read their own tokens."""
    sizes = {"grid": 8, "text_vocab": 100, "text_tokens": 20, "image_vocab": 288, "code_levels": (8, 6, 6), "heads": 3}
    config = from_preset(TransformerConfig, "tiny", **{**sizes, "kv_heads": 1, "head_dim": 32, **changes})
    transformer = Transformer(config).eval()
    randomise(transformer, seed=1)
    source = torch.Generator().manual_seed(2)
    cache, cells = KVCache(config, SLOTS + 1, torch.device("cpu"), dtype), config.image_tokens
    for buffer in (cache.k, cache.v, cache.caption):
        buffer.copy_(torch.randn(buffer.shape, generator=source))
    text = torch.randint(2, config.max_text, (SLOTS + 1,), generator=source)
    cache.step.copy_(torch.randint(0, config.steps - 1, (SLOTS + 1,), generator=source))
    cache.length.copy_(text + cache.step)
    cache.tokens.copy_(torch.randint(0, config.image_vocab, (SLOTS + 1, cells), generator=source))
    slots = SlotTensors(
        hidden=torch.randn(SLOTS, config.group * config.local_dim, generator=source).to(dtype),
        tokens=torch.randint(0, config.image_vocab, (SLOTS, cells), generator=source),
        drawn=torch.randint(0, config.image_vocab, (SLOTS, config.group), generator=source),
        forced=torch.full((SLOTS, cells), -1),
        noise=torch.rand(SLOTS, cells, generator=source, dtype=torch.float64),
        position=cache.step[:SLOTS] * config.group,
        begun=torch.zeros(SLOTS, dtype=torch.bool),
        bad=torch.zeros(SLOTS, dtype=torch.bool),
        score=torch.zeros(SLOTS, dtype=torch.float64),
    )
    for name, value in vars(cache).items():
        setattr(cache, name, value.to(DEVICE))
    there = SlotTensors(*(tensor.to(DEVICE) for tensor in slots))
    table = torch.zeros(len(Column), SLOTS, dtype=torch.float64, device=DEVICE)
    found = Scene(transformer.to(DEVICE, dtype), cache, there, table)
    found.tell(Column.HELD, [1] * SLOTS)
    found.tell(Column.SOURCE, list(range(SLOTS)))
    return found


def tell_images(one: Scene, params: list[SamplingParams]) -> None:
    """Image i is in slot i; where it is guided, its null slot is the last one."""
    vocab = one.transformer.config.image_vocab
    one.tell(Column.IMAGE, [1] * len(params))
    one.tell(Column.NULL, [i if p.guidance == 1.0 else SLOTS - 1 for i, p in enumerate(params)])
    one.tell(Column.GUIDANCE, [p.guidance for p in params])
    one.tell(Column.TEMPERATURE, [max(p.temperature, 1e-6) or 1.0 for p in params])
    one.tell(Column.OPENING, [max(p.temperature, p.opening, 1e-6) for p in params])
    one.tell(Column.GREEDY, [float(p.temperature == 0.0) for p in params])
    one.tell(Column.TOP_K, [p.top_k or vocab for p in params])
    one.tell(Column.TOP_P, [p.top_p for p in params])


@needs_triton
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_decode_agrees_with_torch(shape: dict[str, Any]) -> None:
    ours, theirs = scene(**shape), scene(**shape)
    ours.tell(Column.SOURCE, [0, 0, 2, 2, 4, 5, 6])
    ours.tell(Column.HELD, [1, 1, 1, 1, 0, 1, 1])
    rows = torch.tensor([0, 1, 2, 3, 5, 6], device=DEVICE)
    before = theirs.cache.k.clone()
    ours.step().decode(SLOTS)
    sources = torch.tensor([0, 0, 2, 2, 5, 6], device=DEVICE)
    expected = theirs.transformer.decode(theirs.cache, rows, theirs.slots.drawn[sources])
    torch.testing.assert_close(ours.slots.hidden[rows], expected, rtol=1e-4, atol=1e-4)
    for name in ("k", "v"):
        torch.testing.assert_close(getattr(ours.cache, name), getattr(theirs.cache, name), rtol=1e-4, atol=1e-4)
    for name in ("length", "step", "tokens"):
        assert torch.equal(getattr(ours.cache, name), getattr(theirs.cache, name))
    assert torch.equal(ours.cache.k[:, [4, SLOTS]], before[:, [4, SLOTS]])  # nobody holds these


@needs_triton
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_sample_draws_the_tokens_that_torch_draws(shape: dict[str, Any]) -> None:
    ours = scene(**shape)
    config, slots = ours.transformer.config, ours.slots
    how = [SamplingParams(**{"seed": 0, "guidance": 1.0, "temperature": 1.0, "top_k": 0, **p}) for p in PARAMS]
    tell_images(ours, how)
    ours.tell(Column.SOURCE, [*range(SLOTS - 1), 0])  # image 0 alone is guided
    hidden, at, count = slots.hidden.clone(), slots.position.clone(), len(how)
    ours.step().sample(SLOTS)
    params = RowParams.prepare(how, [0], config.image_vocab, DEVICE)
    images = torch.arange(count, device=DEVICE)
    for j in range(config.group):
        drawn = slots.drawn[[*range(SLOTS - 1), 0], :j]
        logits = ours.transformer.image_logits(hidden, drawn)
        mixed = guide(logits[:count], logits[SLOTS - 1 :], params)
        expected, _ = sample(mixed, params, slots.noise[images, at[:count] + j])
        assert torch.equal(slots.drawn[:count, j], expected), f"token {j} of the group"
    assert torch.equal(slots.position[:count], at[:count] + config.group)
    assert torch.equal(slots.position[count:], at[count:])
    for slot, begin in enumerate(at[:count].tolist()):
        assert torch.equal(slots.tokens[slot, begin : begin + config.group], slots.drawn[slot])
    assert not slots.bad.any()


@needs_triton
@torch.inference_mode()
def test_forced_tokens_scores_and_the_opening() -> None:
    ours = scene(group=1)
    slots = ours.slots
    tell_images(ours, [SamplingParams(0, guidance=2.0, temperature=1e-9, top_k=0, opening=50.0) for _ in range(4)])
    ours.tell(Column.SCORED, [1] * 4)
    slots.forced[1] = 7
    slots.begun[2] = True
    slots.position[:] = torch.tensor([27, 27, 27, 1, 0, 0, 0], device=DEVICE)  # column 3 of row 3, and an edge
    slots.hidden[3] = slots.hidden[0]
    slots.noise[3, 1] = slots.noise[0, 27]
    logits = ours.transformer.image_logits(slots.hidden, slots.drawn[:, :0])
    ours.step().sample(SLOTS)
    mixed = logits[6] + 2.0 * (logits - logits[6])
    assert slots.drawn[1, 0] == 7
    assert slots.drawn[2, 0] == mixed[2].argmax()  # the opening is over, and it is cold
    assert slots.drawn[0, 0] == slots.drawn[3, 0] != mixed[0].argmax()
    assert slots.begun.tolist()[:4] == [True, True, True, False]
    likely = logits.log_softmax(-1)
    for slot, token in ((0, slots.drawn[0, 0]), (2, slots.drawn[2, 0])):
        assert float(slots.score[slot]) == pytest.approx(float(likely[slot, token] - likely[6, token]), abs=1e-4)
    assert slots.score[1] == 0.0


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, NARROW], ids=str)
@torch.inference_mode()
def test_a_row_has_the_same_bits_alone_and_in_company(dtype: torch.dtype) -> None:
    crowd, alone = scene(dtype), scene(dtype)
    params = [SamplingParams(0, guidance=1.0, temperature=0.5, top_k=20)] * SLOTS
    for one, rows in ((crowd, SLOTS), (alone, 2)):
        tell_images(one, params)
        one.step().sample(rows)
        one.step().decode(rows)
    for name in ("hidden", "drawn", "tokens"):
        assert torch.equal(getattr(crowd.slots, name)[:2], getattr(alone.slots, name)[:2])
    assert torch.equal(crowd.cache.k[:, :2], alone.cache.k[:, :2])
    exact = scene(torch.float32)
    tell_images(exact, params)
    exact.slots.drawn[:] = crowd.slots.drawn
    exact.step().decode(SLOTS)
    torch.testing.assert_close(crowd.slots.hidden.float(), exact.slots.hidden, rtol=0.02, atol=0.1)


@needs_triton
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:All-NaN:RuntimeWarning")  # its interpreter
@torch.inference_mode()
def test_rows_without_finite_logits_are_marked_and_harm_nobody() -> None:
    ours, theirs = scene(), scene()
    ours.slots.hidden[1] = float("nan")
    ours.slots.hidden[3] = float("inf")
    ours.cache.k[0, 2, 0, 1] = float("nan")  # one of the positions that slot 2 attends to
    ours.cache.k[0, 4, 0, -1] = float("nan")  # behind all positions
    for one in (ours, theirs):
        tell_images(one, [SamplingParams(0, guidance=1.0, temperature=1.0, top_k=9)] * SLOTS)
        one.step().sample(SLOTS)
    assert ours.slots.bad.tolist() == [False, True, False, True, False, False, False]
    unharmed = [0, 2, 4, 5, 6]
    assert torch.equal(ours.slots.drawn[unharmed], theirs.slots.drawn[unharmed])
    assert int(ours.slots.drawn.min()) >= 0
    assert int(ours.slots.drawn.max()) < ours.transformer.config.image_vocab
    for one in (ours, theirs):
        one.step().decode(SLOTS)
    unharmed.remove(2)
    assert torch.equal(ours.slots.hidden[unharmed], theirs.slots.hidden[unharmed])
    assert bool(ours.slots.hidden[2].isnan().all())


@needs_triton
@torch.inference_mode()
def test_larger_tiles_for_many_rows_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from model.kernels.gpu import step as step_module

    strict, loose = scene(), scene()
    strict.step().decode(SLOTS)
    monkeypatch.setattr(step_module, "_LEAST", 1)
    loose.step().decode(SLOTS)
    torch.testing.assert_close(loose.slots.hidden, strict.slots.hidden, rtol=1e-4, atol=1e-4)


@needs_triton
@torch.inference_mode()
def test_a_step_is_always_the_same_launches() -> None:
    """So a graph can hold it: the same arguments at the same addresses, and no operation that makes the host wait."""
    from model.kernels.gpu.step import FusedStep

    noted: list[tuple[Any, ...]] = []

    def note(kernel: Any, programs: tuple[int, ...], *args: object, **constants: object) -> None:
        places = tuple((x.data_ptr(), tuple(x.shape)) if isinstance(x, Tensor) else x for x in args)
        noted.append((kernel.__name__, programs, places, tuple(constants.items())))

    one = scene()
    step = FusedStep(one.transformer, one.cache, one.slots, one.table, strict=True, launch=note)
    step.sample(4)
    step.decode(4)  # the first time it makes what it keeps
    noted.clear()
    with Recorder() as recorder:
        step.sample(4)
        step.decode(4)
    first = noted.copy()
    noted.clear()
    one.table.zero_()
    step.sample(4)
    step.decode(4)
    assert noted == first
    config = one.transformer.config
    assert len(first) == config.group * (4 + 3 * config.local_depth) + 3 + 8 * config.depth
    assert {name for name, *_ in recorder.told} <= {"aten.view.dtype", "aten.select.int"}


def drawn(small: Checkpoint, asked: list[GenerationRequest], native: bool) -> dict[str, Painted]:
    """What an engine paints whose steps are graphs, with the fused kernels (native) or without."""
    mine = replace(small, vae=deepcopy(small.vae), transformer=deepcopy(small.transformer))
    engine = Engine(mine, slots=6, device=DEVICE)
    null = tuple(small.tokenizer.null)
    engine._decoders[""] = decoder = GraphedDecoder(mine.transformer, null, 6, DEVICE, native=native)
    assert (decoder.fused is not None) == native
    for item in asked:
        engine.add(item)
    found: list[Event] = []
    while engine.has_work:
        found += engine.step()
    return {event.request_id: event for event in found if isinstance(event, Painted)}


@needs_triton
@pytest.mark.slow
def test_an_engine_paints_what_it_paints_with_torch(small: Checkpoint) -> None:
    """Rounding changes no token of these."""
    text_ids = tuple(small.tokenizer.encode("a red apple"))
    asked = [
        GenerationRequest("greedy", text_ids, 1, SamplingParams(1, guidance=3.0, temperature=0.0, top_k=0)),
        GenerationRequest("few", text_ids, 1, SamplingParams(2, guidance=1.0, temperature=0.7, top_k=5)),
        GenerationRequest("scored", text_ids, 1, SamplingParams(3, guidance=2.0, top_k=0, top_p=0.8), score=True),
    ]
    ours, theirs = drawn(small, asked, native=True), drawn(small, asked, native=False)
    assert {name: one.tokens for name, one in ours.items()} == {name: one.tokens for name, one in theirs.items()}
    assert len(ours) == len(asked)
    assert ours["scored"].score == pytest.approx(theirs["scored"].score, abs=1e-3)


@pytest.mark.skipif(not INSTALLED, reason="triton is not installed")
@pytest.mark.slow
def test_every_kernel_compiles_for_an_h100() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.ahead", "tiny"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("draw") == 1  # its logits are always float32


def test_without_triton_the_step_is_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [name for name in sys.modules if name.startswith("model.kernels.gpu.")]:
        if not name.endswith(".table"):
            monkeypatch.delitem(sys.modules, name)
    one = scene()
    with caplog.at_level(logging.WARNING):
        assert fused_step(one.transformer, one.cache, one.slots, one.table, strict=True) is None
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the fused kernels are left out, so steps are slower"
    ]
    assert "triton" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("changes", "fits"),
    [({}, True), ({"head_dim": 48}, False), ({"dim": 72}, False), ({"local_dim": 40}, False)],
    ids=str,
)
def test_sizes_that_tiles_do_not_fit_are_left_to_torch(
    changes: dict[str, Any], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    transformer = scene(**changes).transformer
    assert can_fuse(transformer) == fits
    monkeypatch.delenv("TRITON_INTERPRET")
    assert can_fuse(transformer.cpu()) is False
    assert can_fuse(torch.nn.Linear(2, 2)) is False
