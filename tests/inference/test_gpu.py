"""The engine on a CUDA GPU, where there is one: the same promises as on a CPU, and the same numbers."""

from __future__ import annotations

import copy

import pytest
import torch

from model.checkpoints import Checkpoint
from model.inference.decoder import SlotDecoder
from model.inference.engine import Engine
from model.inference.graphed import GraphedDecoder
from model.inference.requests import GenerationRequest, SamplingParams
from tests.inference.conftest import CELLS, SIZE
from tests.inference.test_engine import painted, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
TYPES = (torch.float32, torch.bfloat16)


@pytest.fixture
def small_there(small: Checkpoint) -> Checkpoint:
    """A copy, since an engine moves the models of its checkpoint to its device."""
    return Checkpoint(
        small.config, small.tokenizer, copy.deepcopy(small.vae), copy.deepcopy(small.transformer), small.path
    )


def request(checkpoint: Checkpoint, name: str, prompt: str, images: int = 1, **params: float) -> GenerationRequest:
    sampling = SamplingParams(seed=1, **{"guidance": 3.0, "temperature": 0.5, **params})  # type: ignore[arg-type]
    return GenerationRequest(name, tuple(checkpoint.tokenizer.encode(prompt)), images, sampling)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_picture_is_the_same_alone_and_in_a_crowd(small_there: Checkpoint, dtype: torch.dtype) -> None:
    engine = Engine(small_there, slots=24, device="cuda", dtype=dtype)  # as many rows as get larger tiles
    engine.warm_up()
    mine = request(small_there, "mine", "a red apple")
    others = [
        request(small_there, "greedy", "a blue circle", temperature=0.0, guidance=1.0),
        request(small_there, "many", "two green apples", images=8),
        request(small_there, "opening", "", opening=1.5),
    ]
    alone = painted(run(engine, [mine]))["mine", 0]
    assert len(alone.rgb) == SIZE * SIZE * 3
    for at in (0, 1, 3):
        pictures = painted(run(engine, [*others[:at], mine, *others[at:]]))
        assert len(pictures) == 11
        assert (pictures["mine", 0].tokens, pictures["mine", 0].rgb) == (alone.tokens, alone.rgb)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_outside_strict_mode_every_picture_comes(small_there: Checkpoint, dtype: torch.dtype) -> None:
    engine = Engine(small_there, slots=12, device="cuda", dtype=dtype, strict=False)
    engine.warm_up()
    pictures = painted(run(engine, [request(small_there, "many", "a red apple", images=9)]))
    assert len(pictures) == 9
    assert all(len(picture.tokens) == 2 * CELLS for picture in pictures.values())


@pytest.mark.parametrize("native", [True, False], ids=["fused", "torch"])
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
def test_graphs_draw_what_the_plain_step_draws(small_there: Checkpoint, strict: bool, native: bool) -> None:
    asked = [
        request(small_there, "greedy", "a red apple", temperature=0.0),
        request(small_there, "three", "two green apples", images=3, top_k=20),
        request(small_there, "nucleus", "a blue circle", top_p=0.8, guidance=1.0),
    ]
    graphed = Engine(small_there, slots=12, device="cuda", strict=strict, native=native)
    assert isinstance(graphed.decoder, GraphedDecoder)
    assert (graphed.decoder.fused is not None) == native
    found = [painted(run(graphed, asked)) for _ in range(3)]  # plainly, captured, replayed
    plain = Engine(small_there, slots=12, device="cuda", strict=strict)
    null = tuple(small_there.tokenizer.null)
    plain._decoders[""] = SlotDecoder(small_there.transformer, null, 12, plain.device, strict)
    expected = {key: picture.tokens for key, picture in painted(run(plain, asked)).items()}
    drawn = [{key: picture.tokens for key, picture in each.items()} for each in found]
    assert drawn[1:] == drawn[:1] * 2
    if native:  # rounding may change a token, and with it all that follow
        assert sum(drawn[0][key] == expected[key] for key in expected) >= len(expected) - 1
    elif strict:  # otherwise the widths differ, and with them the rounding
        assert drawn[0] == expected


def test_logits_and_pictures_are_those_of_the_cpu(small: Checkpoint, small_there: Checkpoint) -> None:
    text = torch.tensor([small.tokenizer.encode("a red apple")])
    tokens = torch.randint(0, 512, (1, CELLS), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        here, there = (
            small.transformer.logits(text, tokens),
            small_there.transformer.cuda().logits(text.cuda(), tokens.cuda()),
        )
        seen = slice(None), slice(None), slice(small.config.transformer.text_vocab, None)
        torch.testing.assert_close(there[seen].cpu(), here[seen], rtol=1e-3, atol=1e-3)
        pictures = small.vae.decode(tokens), small_there.vae.cuda().decode(tokens.cuda()).cpu()
    torch.testing.assert_close(pictures[1], pictures[0], rtol=1e-2, atol=1e-2)
