"""The native step against PyTorch's: the same numbers, and the same bits alone and in company."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import TransformerConfig, from_preset
from model.inference.requests import SamplingParams
from model.inference.sampling import RowParams, guide, sample
from model.kernels import NativeStep, Picture, SlotTensors, step_of
from model.kernels import library as library_module
from model.transformer import KVCache, Transformer
from tests.conftest import randomise
from tests.kernels.rounding import round_linears, rounded
from tests.kernels.slots import drawn_within, new_slots, picture

SLOTS = 37
FLOAT, SHORT, TINY = torch.float32, torch.bfloat16, torch.int8
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"group": 1, "heads": 4, "kv_heads": 2, "local_depth": 0, "code_levels": (), "image_vocab": 272},
    {"group": 8, "heads": 6, "kv_heads": 2, "dim": 80, "head_dim": 48, "code_dim": 48, "local_dim": 112},
    {"group": 2, "heads": 7, "kv_heads": 1, "head_dim": 16, "depth": 3, "code_levels": (2, 3, 48, 1)},
)


@dataclass
class Scene:
    """A transformer with a native step, and random state in all slots."""

    transformer: Transformer
    cache: KVCache
    slots: SlotTensors
    native: NativeStep

    def decode(self, rows: Sequence[int], sources: Sequence[int]) -> Tensor:
        self.native.arrange(rows, sources, [])
        self.native.decode()
        return self.slots.hidden[list(rows)].clone()

    def sample(self, rows: Sequence[int], sources: Sequence[int], pictures: Sequence[Picture]) -> None:
        self.native.arrange(rows, sources, pictures)
        self.native.sample()


def scene(narrow: bool = True, dtype: torch.dtype = FLOAT, **changes: Any) -> Scene:
    """Always the same for the same arguments. narrow: the weights are bfloat16 numbers. dtype: of the arithmetic, or
    int8, of the matrices."""
    sizes = {"grid": 8, "text_vocab": 100, "text_tokens": 20, "image_vocab": 288, "code_levels": (8, 6, 6), "heads": 3}
    config = from_preset(TransformerConfig, "tiny", **{**sizes, "kv_heads": 1, "head_dim": 32, **changes})
    transformer = Transformer(config).eval()
    randomise(transformer, seed=1)
    if narrow:
        with torch.no_grad():
            for parameter in transformer.parameters():
                parameter.copy_(parameter.bfloat16().float())
    native = step_of(transformer, dtype)
    if native is None or native.products != dtype:
        pytest.skip(f"the native kernels for {dtype} are not built here, or not for this processor")
    source = torch.Generator().manual_seed(2)
    cache, tokens = transformer.new_cache(SLOTS, native.dtype), config.image_tokens
    for buffer in (cache.k, cache.v, cache.caption):
        buffer.copy_(torch.randn(buffer.shape, generator=source))
    text = torch.randint(2, config.max_text, (SLOTS,), generator=source)
    cache.step.copy_(torch.randint(0, config.steps - 1, (SLOTS,), generator=source))
    cache.length.copy_(text + cache.step)
    cache.tokens.copy_(torch.randint(0, config.image_vocab, (SLOTS, tokens), generator=source))
    hidden = torch.randn(SLOTS, config.group * config.local_dim, generator=source)
    drawn = torch.randint(0, config.image_vocab, (SLOTS, config.group), generator=source)
    slots = new_slots(hidden, drawn, cache.step * config.group, tokens, source)
    native.bind(cache, slots)
    return Scene(transformer, cache, slots, native)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("narrow", "dtype", "close"), [(True, FLOAT, 1e-4), (False, FLOAT, 1e-4), (True, SHORT, 0.03)])
def test_decode_agrees_with_torch(shape: dict[str, Any], narrow: bool, dtype: torch.dtype, close: float) -> None:
    ours, theirs = scene(narrow, dtype, **shape), scene(narrow, dtype, **shape)
    rows = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(5))[:30]
    sources = rows.flip(0)
    found = ours.decode(rows.tolist(), sources.tolist())
    expected = theirs.transformer.decode(theirs.cache, rows, theirs.slots.drawn[sources])
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    for name in ("k", "v"):
        torch.testing.assert_close(getattr(ours.cache, name), getattr(theirs.cache, name), rtol=close, atol=close)
    for name in ("length", "step", "tokens"):
        assert torch.equal(getattr(ours.cache, name), getattr(theirs.cache, name))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_with_int8_agrees_with_torch_s_of_rounded_weights(shape: dict[str, Any]) -> None:
    ours, theirs = scene(False, TINY, **shape), scene(False, TINY, **shape)
    round_linears(theirs.transformer)
    assert ours.native.weight_bytes == 1
    everyone = list(range(SLOTS))
    rows = torch.arange(SLOTS)
    found = ours.decode(everyone, everyone)
    expected = theirs.transformer.decode(theirs.cache, rows, theirs.slots.drawn)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.cache.k, theirs.cache.k, rtol=1e-4, atol=1e-4)
    local = theirs.transformer.local
    with torch.no_grad():
        table = local.codes() - local.codes.own + rounded(local.codes.own)  # the codes that are read stay as they are
    local.logits = lambda x: F.linear(local.refine(x), table, local.bias)  # type: ignore[method-assign]
    noise = ours.slots.noise[rows, ours.slots.position + ours.transformer.config.group - 1]
    ours.sample(everyone, everyone, [picture(slot, slot) for slot in everyone])
    drawn = ours.slots.drawn
    assert drawn_within(theirs.transformer.image_logits(found, drawn[:, :-1]), drawn[:, -1:], noise, 1e-5)


PARAMS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.3, "top_k": 100},
    {"temperature": 2.0, "top_k": 3},
    {"top_p": 0.7},
    {"top_k": 40, "top_p": 0.9},
    {"temperature": 1e-9, "top_k": 17},
    {"guidance": 3.0, "top_k": 9},
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sample_draws_the_tokens_that_torch_draws(shape: dict[str, Any]) -> None:
    ours = scene(**shape)
    config, slots = ours.transformer.config, ours.slots
    hidden, at = slots.hidden.clone(), slots.position.clone()
    pictures = [picture(2 * i, 2 * i, 2 * i + 1, **how) for i, how in enumerate(PARAMS)]
    rows = list(range(2 * len(PARAMS)))
    ours.sample(rows, [row // 2 * 2 for row in rows], pictures)
    images = torch.arange(0, len(rows), 2)
    how = [SamplingParams(**{"seed": 0, "guidance": 1.0, "temperature": 1.0, "top_k": 0, **p}) for p in PARAMS]
    params = RowParams.prepare(
        how, [i for i, p in enumerate(how) if p.guidance != 1.0], config.image_vocab, torch.device("cpu")
    )
    for j in range(config.group):
        drawn = slots.drawn[images, :j].repeat_interleave(2, 0)
        logits = ours.transformer.image_logits(hidden[: len(rows)], drawn)
        mixed = guide(logits[0::2], logits[1::2][params.guided], params)
        expected, _ = sample(mixed, params, slots.noise[images, at[images] + j])
        assert torch.equal(slots.drawn[images, j], expected), f"token {j} of the group"
    assert torch.equal(slots.position[images], at[images] + config.group)
    for slot, begin in zip(images.tolist(), at[images].tolist(), strict=True):
        assert torch.equal(slots.tokens[slot, begin : begin + config.group], slots.drawn[slot])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_bfloat16_a_draw_is_where_torch_puts_it(shape: dict[str, Any]) -> None:
    ours = scene(dtype=SHORT, **shape)
    hidden, rows = ours.slots.hidden.clone(), range(SLOTS)
    noise = ours.slots.noise[torch.arange(SLOTS), ours.slots.position + ours.transformer.config.group - 1]
    ours.sample(rows, rows, [picture(slot, slot) for slot in rows])
    drawn = ours.slots.drawn
    assert drawn_within(ours.transformer.image_logits(hidden, drawn[:, :-1]), drawn[:, -1:], noise, 0.02)
    assert len(set(drawn[:, -1].tolist())) > 10


def test_weights_that_are_not_bfloat16_are_not_rounded() -> None:
    assert scene(narrow=False).native.dtype == FLOAT
    config = from_preset(TransformerConfig, "tiny", text_vocab=100)
    transformer = Transformer(config)
    randomise(transformer, seed=1)
    step = step_of(transformer)
    assert step is None or step.dtype == FLOAT


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [FLOAT, SHORT, TINY])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_has_the_same_bits_alone_and_in_company(shape: dict[str, Any], dtype: torch.dtype) -> None:
    alone, crowd = scene(dtype=dtype, **shape), scene(dtype=dtype, **shape)
    everyone = list(range(SLOTS))
    pictures = [picture(slot, slot, top_k=20, temperature=0.5) for slot in everyone]
    crowd.sample(everyone, everyone, pictures)
    together = crowd.decode(everyone, everyone)
    torch.set_num_threads(1)
    for slot in (0, 11, 36):
        alone.sample([slot], [slot], [picture(slot, 0, top_k=20, temperature=0.5)])
        assert torch.equal(alone.decode([slot], [slot])[0], together[slot])
        assert torch.equal(alone.slots.drawn[slot], crowd.slots.drawn[slot])
        assert torch.equal(alone.cache.k[:, slot], crowd.cache.k[:, slot])


@pytest.mark.parametrize("dtype", [FLOAT, TINY])
def test_libraries_for_other_registers_give_the_same_bits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for path in library_module.built():
        library = library_module.declared(ctypes.CDLL(str(path)))
        monkeypatch.setattr("model.kernels.step.load", lambda library=library: library)
        one = scene(dtype=dtype)
        one.sample(range(9), range(9), [picture(slot, slot, top_k=20) for slot in range(9)])
        found.append(torch.cat([one.decode(range(9), range(9)), one.slots.drawn[:9].float()], dim=1))
    assert all(torch.equal(one, found[0]) for one in found)


def test_forced_tokens_replace_drawn_ones_and_are_not_scored() -> None:
    ours = scene()
    at = int(ours.slots.position[0])
    ours.slots.forced[0, at : at + 4] = torch.tensor([7, 3, 7, 250])
    ours.sample([0, 1, 2, 3], [0, 0, 2, 2], [picture(0, 0, 1, scored=True), picture(2, 2, 3, scored=True)])
    assert ours.slots.drawn[0].tolist() == [7, 3, 7, 250]
    assert ours.slots.score[0] == 0.0
    assert ours.slots.score[2] != 0.0


def test_a_score_is_the_likelihood_with_the_prompt_over_that_without() -> None:
    ours = scene(group=1)
    hidden = ours.slots.hidden[:2].clone()
    ours.sample([0, 1], [0, 0], [picture(0, 0, 1, scored=True, guidance=2.0)])
    logits = ours.transformer.image_logits(hidden, torch.empty(2, 0, dtype=torch.int64)).log_softmax(-1)
    token = int(ours.slots.drawn[0, 0])
    assert float(ours.slots.score[0]) == pytest.approx(float(logits[0, token] - logits[1, token]), abs=1e-4)


def test_rows_without_finite_logits_are_marked_and_harm_nobody() -> None:
    ours, theirs = scene(), scene()
    ours.slots.hidden[1] = float("nan")
    ours.cache.k[0, 2, 0, 1] = float("nan")  # one of the positions that slot 2 attends to
    pictures = [picture(slot, slot) for slot in range(3)]
    for one in (ours, theirs):
        one.sample(range(3), range(3), pictures)
    assert ours.slots.bad[:3].tolist() == [False, True, False]
    assert torch.equal(ours.slots.drawn[[0, 2]], theirs.slots.drawn[[0, 2]])
    found, expected = (one.decode(range(3), range(3)) for one in (ours, theirs))
    assert torch.equal(found[0], expected[0])
    assert bool(found[2].isnan().all())


def test_other_types_and_sizes_are_left_to_torch() -> None:
    config = from_preset(TransformerConfig, "tiny", text_vocab=100)
    assert step_of(Transformer(config).double()) is None
    assert step_of(torch.nn.Linear(2, 2)) is None


def test_a_transformer_in_bfloat16_gives_the_bits_of_its_weights_in_float32() -> None:
    ours = scene(dtype=SHORT)
    short = scene(dtype=SHORT)
    step = step_of(short.transformer.bfloat16())
    assert step is not None
    step.bind(short.cache, short.slots)
    short.native = step
    for one in (ours, short):
        one.sample(range(9), range(9), [picture(slot, slot) for slot in range(9)])
    assert torch.equal(ours.slots.drawn, short.slots.drawn)
    assert torch.equal(ours.decode(range(9), range(9)), short.decode(range(9), range(9)))
