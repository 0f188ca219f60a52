"""The text-to-image transformer computes what LlamaGen's code and transformers' T5 compute, cached or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoints.networks import network
from model.families.llamagen.config import LlamaGenTextConfig, T5Config
from model.families.llamagen.t5 import T5Encoder, buckets
from model.families.llamagen.text import LlamaGenTextTransformer
from model.families.llamagen.transformer import turns
from model.importing import llamagen, t5
from model.importing.files import Given, Text, Weights
from model.inference.decoder import SlotDecoder
from model.inference.requests import Entry, GenerationRequest, SamplingParams, Sequence
from tests.conftest import randomise
from tests.families.llamagen.text_originals import CONFIG, GRID, HEADS, LENGTHS, arrays, encoder_files, transformer_file
from tests.families.places import check_rows_at_different_places

NONE = torch.zeros(1, 0, dtype=torch.int64)


def given() -> Given:
    first, second = (Weights(Path(f"{i}.bin"), "torch zip", content) for i, content in enumerate(encoder_files()))
    config = Text(Path("config.json"), "t5 config", CONFIG)
    return Given({"t5": first, "t5, file 2": second}, {"t5 config": config})


@pytest.fixture(scope="module")
def transformer() -> LlamaGenTextTransformer:
    weights = Weights(Path("t2i.pt"), "torch zip", transformer_file())
    part = llamagen.read_transformer(weights, HEADS, GRID, t5.read_encoder(given()))
    made = LlamaGenTextTransformer(part.config)
    made.load_state_dict({key: tensor.float() for key, tensor in part.state.items()})
    return made.eval()


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_the_encoder_is_that_of_transformers(transformer: LlamaGenTextTransformer) -> None:
    golden, encoder = arrays(), transformer.encoder
    for ids, want, length in zip(golden["text_ids"], golden["encoded"], LENGTHS, strict=True):
        close(encoder(ids[None, :length])[0], want[:length])
    close(encoder(golden["long_ids"]), golden["long_encoded"])
    usual = T5Config(vocab=9, dim=8, depth=1, heads=1, head_dim=8, hidden=8)
    assert torch.equal(buckets(usual, 120, torch.device("cpu")), golden["buckets"].long())


def test_logits_are_those_of_the_original(transformer: LlamaGenTextTransformer) -> None:
    golden, last = arrays(), transformer.config.max_text - 1
    text, image, want = golden["text_ids"], golden["image_ids"], golden["logits"]
    got = transformer.logits(text, image)
    assert got.shape == (3, 12 + 64, 50)
    close(got[:, last:-1], want)
    assert bool((got[:, :last] == float("-inf")).all() and (got[:, -1] == float("-inf")).all())
    close(transformer.logits(text[1:2, :4], image[1:2, :9])[:, last:], want[1:2, :10])


def test_the_null_prompt_is_as_long_as_the_text(transformer: LlamaGenTextTransformer) -> None:
    golden, config = arrays(), transformer.config
    for text, image, want in zip(golden["text_ids"], golden["image_ids"], golden["null_logits"], strict=True):
        null = torch.tensor([config.null_of([config.pad], text.tolist())])
        close(transformer.logits(null, image[None])[0, 11:-1], want)
    lengths = [len(config.null_of([0], ids)) for ids in golden["text_ids"].tolist()]
    assert lengths == list(LENGTHS)
    assert config.null_of([0], [0, 0, 0]) == (0, 0, 0)
    assert config.null_of([0], [5, 0, 7, 0]) == (0, 0, 0)


def test_cached_equals_uncached_with_rows_at_different_places(transformer: LlamaGenTextTransformer) -> None:
    golden = arrays()
    text, image, want = golden["text_ids"], golden["image_ids"], golden["logits"]
    cache = transformer.new_cache(4)
    transformer.prefill(cache, torch.tensor([2, 0]), text[:2])
    assert cache.length.tolist() == [4, 0, 8, 0]
    check_rows_at_different_places(transformer, text[:2], image, want, ids=8, ahead=17, turns=46, room=9)


def test_a_text_is_read_once(transformer: LlamaGenTextTransformer) -> None:
    text, read = arrays()["text_ids"], []
    encoder = transformer.encoder
    hook = encoder.register_forward_hook(lambda *_: read.append(1))
    transformer._kept.clear()
    cache = transformer.new_cache(2)
    for _ in range(3):
        transformer.prefill(cache, torch.tensor([0, 1]), text[:2])
    hook.remove()
    assert len(read) == 2
    for i in range(20):
        transformer.prefill(cache, torch.tensor([0]), torch.tensor([[i + 3, 1]]))
    assert len(transformer._kept) == 16


def test_a_text_is_not_turned_but_zero(transformer: LlamaGenTextTransformer) -> None:
    for table in turns(transformer.config):
        assert table.shape == (12 + 64, 8)
        assert not bool(table[:12].any())


SIZES: dict[str, Any] = {
    "grid": 4,
    "dim": 32,
    "depth": 2,
    "image_vocab": 48,
    "heads": 2,
    "hidden": 40,
    "text_tokens": 8,
}


def decoder(native: bool) -> SlotDecoder:
    encoder = T5Config(vocab=40, dim=24, depth=1, heads=2, head_dim=8, hidden=20)
    made: Any = network(LlamaGenTextConfig(**SIZES, encoder=encoder)).eval()
    randomise(made, seed=1)
    return SlotDecoder(made, [0], 6, torch.device("cpu"), native=native)


def sequence(slot: int, ids: tuple[int, ...]) -> Sequence:
    params = SamplingParams(seed=slot, temperature=0.0, guidance=4.0)
    return Sequence(Entry(GenerationRequest(str(slot), ids, 1, params)), 0, (slot, slot + 1))


def drawn(one: SlotDecoder, at: dict[int, list[Sequence]]) -> list[list[int]]:
    """The tokens of sequences that begin at some steps, whose null prompts have other lengths."""
    running: list[Sequence] = []
    for step in range(26):
        if step in at:
            one.prefill(at[step], None)
            running += at[step]
        batch = one.batch([s for s in running if s.step < 16])
        one.sample(batch)
        for s in batch.sequences:
            s.step += 1
        if going := [s for s in running if s.step < 16]:
            one.decode(one.batch(going))
    return [one.tokens(s.slots[0]).tolist() for s in running]


def test_null_prompts_of_several_lengths_stand_side_by_side() -> None:
    """With the native kernels, which share texts between slots, and with PyTorch: as each text alone."""
    texts = [(5, 6, 7, 1), (9, 1), (1,)]
    begin = {0: [sequence(0, texts[0])], 3: [sequence(2, texts[1])], 10: [sequence(4, texts[2])]}
    native = decoder(native=True)
    if native._native is None:
        pytest.skip("the native kernels are not built here, or not for this processor")
    together = drawn(native, begin)
    for s in (s for group in begin.values() for s in group):
        s.step = 0
    assert drawn(decoder(native=False), begin) == together
    transformer: Any = native.transformer
    for ids, tokens in zip(texts, together, strict=True):
        for place in (0, 7, 15):
            image = torch.tensor([tokens[:place]], dtype=torch.int64)
            own, null = (transformer.logits(torch.tensor([t]), image)[0, 8 + place] for t in (ids, (0,) * len(ids)))
            assert int((null + 4.0 * (own - null)).argmax()) == tokens[place]


def test_the_encoder_alone_is_a_network_of_its_config() -> None:
    part = t5.read_encoder(given())
    assert part is not None
    T5Encoder(part.config).load_state_dict({key: tensor.float() for key, tensor in part.state.items()})
    assert (part.config.distance, part.config.buckets) == (20, 8)
