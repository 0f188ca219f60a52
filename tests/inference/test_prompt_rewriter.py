"""Text completion: only text, the same by the same seed, ended by the model itself; and painted by the engine."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from model.checkpoints import Checkpoint
from model.errors import DalleError, InvalidRequest
from model.inference.engine import Engine
from model.inference.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Painted,
    Revised,
    Started,
)
from model.inference.prompt_rewriter import PromptRewriter
from model.inference.requests import Completion, GenerationRequest, SamplingParams
from model.inference.sampling import IMAGE, TEXT, uniforms
from model.tokenizer import Tokenizer
from model.transformer import Transformer

CPU = torch.device("cpu")
LONG = Completion(temperature=1.0, top_k=0, tokens=256)


@pytest.fixture(scope="module")
def rewriter(small: Checkpoint) -> PromptRewriter:
    return PromptRewriter(small, CPU)


@pytest.fixture(scope="module")
def taught(small: Checkpoint) -> Checkpoint:
    """The small checkpoint after it has learnt one caption by heart."""
    torch.manual_seed(0)
    model = Transformer(small.own().transformer.config)
    ids = torch.tensor([small.tokenizer.encode("a red apple")])
    lengths, image = torch.tensor([ids.shape[1]]), torch.zeros(1, small.config.transformer.image_tokens).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        text, _ = model.states(ids, lengths, image)
        loss = torch.nn.functional.cross_entropy(model.text_logits(text[0, :-1]), ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return dataclasses.replace(small, transformer=model.eval())


def test_reading_bit_by_bit_gives_the_logits_of_reading_at_once(small: Checkpoint) -> None:
    ids = torch.tensor([small.tokenizer.encode("a red apple on a blue circle")])
    vocabulary = small.config.transformer.text_vocab
    expected = small.transformer.logits(ids, torch.zeros(1, 0, dtype=torch.int64))[0, :, :vocabulary]
    logits, state = small.own().transformer.read_text(ids[:, :3])
    assert torch.allclose(logits[0], expected[2], atol=1e-4)
    for at in range(3, ids.shape[1] - 1):
        logits, state = small.own().transformer.read_text(ids[:, at : at + 1], state)
        assert torch.allclose(logits[0], expected[at], atol=1e-4)


def test_what_was_learnt_is_completed_and_ended(taught: Checkpoint) -> None:
    rewriter = PromptRewriter(taught, CPU)
    for begun in ("", "a", "a red", "a red apple"):
        ids = taught.tokenizer.encode(begun)
        assert rewriter.complete(ids, Completion(temperature=0.0), seed=1) == "a red apple"
        assert rewriter.complete(ids, Completion(temperature=0.1, tokens=256), seed=1) == "a red apple"


def test_a_completion_is_a_function_of_seed_and_index(small: Checkpoint, rewriter: PromptRewriter) -> None:
    ids = small.tokenizer.encode("a red")
    texts = [rewriter.complete(ids, Completion(), seed, index) for seed, index in ((1, 0), (1, 1), (2, 0))]
    assert len(set(texts)) == 3
    assert [rewriter.complete(ids, Completion(), seed, index) for seed, index in ((1, 0), (1, 1), (2, 0))] == texts
    assert all(text.startswith("a red") for text in texts)
    assert not set(uniforms(1, 0, 64, TEXT)) & set(uniforms(1, 0, 64, IMAGE))


def test_it_writes_as_many_tokens_as_there_is_room_for(small: Checkpoint, rewriter: PromptRewriter) -> None:
    tokenizer, limit = small.tokenizer, small.config.transformer.text_tokens
    full = tokenizer.encode("é" * limit, truncate=True)
    assert rewriter.complete(full, LONG, seed=1) == tokenizer.decode(full)
    few = [rewriter.complete(tokenizer.encode("a red"), Completion(tokens=3), seed) for seed in range(8)]
    assert max(tokenizer.count(text) - tokenizer.count("a red") for text in few) <= 3


def test_only_text_is_drawn_and_it_is_sound_unicode(small: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    read = small.own().transformer.read_text

    def spy(text_ids: torch.Tensor, past: object = None) -> object:
        drawn.extend(text_ids.flatten().tolist() if past else [])
        return read(text_ids, past)  # type: ignore[arg-type]

    monkeypatch.setattr(small.transformer, "read_text", spy)
    texts = [PromptRewriter(small, CPU).complete(small.tokenizer.encode("a"), LONG, seed) for seed in range(4)]
    assert len(drawn) > 50
    assert set(drawn) <= set(range(Tokenizer.pad + 1, small.tokenizer.vocab_size))
    for text in texts:
        assert "\ufffd" not in text
        assert text.encode().decode() == text


def test_a_model_without_a_text_head_says_so(small: Checkpoint) -> None:
    mute = dataclasses.replace(small, config=dataclasses.replace(small.config, completes=False))
    with pytest.raises(
        InvalidRequest, match="^complete cannot be done: small was not trained to continue texts"
    ) as caught:
        PromptRewriter(mute, CPU).complete(small.tokenizer.null, Completion(), seed=1)
    assert caught.value.field == "complete"
    engine = Engine(mute, slots=2)
    with pytest.raises(InvalidRequest, match="^complete cannot be done"):
        engine.add(request(small, "a"))
    assert not engine.has_work


def test_nan_is_an_error_and_no_text(small: Checkpoint) -> None:
    broken = Transformer(small.own().transformer.config)
    with torch.no_grad():
        broken.text_table.weight.fill_(math.nan)
    checkpoint = dataclasses.replace(small, transformer=broken)
    with pytest.raises(DalleError, match="no finite probabilities"):
        PromptRewriter(checkpoint, CPU).complete(small.tokenizer.null, Completion(), 1)


def request(checkpoint: Checkpoint, name: str, prompt: str = "a red", **more: object) -> GenerationRequest:
    values: dict[str, object] = {"complete": Completion(), **more}
    ids = tuple(checkpoint.tokenizer.encode(prompt))
    return GenerationRequest(name, ids, 3, SamplingParams(seed=1, guidance=2.0), **values)  # type: ignore[arg-type]


def run(engine: Engine, *requests: GenerationRequest) -> list[Event]:
    for one in requests:
        engine.add(one)
    events = []
    while engine.has_work:
        events += engine.step()
    return events


def tokens(events: list[Event], name: str) -> list[bytes]:
    painted = [event for event in events if isinstance(event, Painted) and event.request_id == name]
    return [event.tokens for event in sorted(painted, key=lambda event: event.index)]


def test_the_engine_paints_the_completed_prompt_and_tells_it_first(small: Checkpoint, rewriter: PromptRewriter) -> None:
    engine = Engine(small, slots=4)  # fewer than the pictures need: the last one joins later
    events = run(engine, request(small, "a"), request(small, "plain", complete=None))
    (revised,) = [event for event in events if isinstance(event, Revised)]
    text = rewriter.complete(small.tokenizer.encode("a red"), Completion(), seed=1)
    assert revised == Revised("a", text, small.tokenizer.count(text) - small.tokenizer.count("a red"))
    kinds = [type(event) for event in events if event.request_id == "a"]
    assert kinds.index(Revised) < kinds.index(Started)
    written_out = run(engine, request(small, "b", revised.text, complete=None))
    assert tokens(events, "a") == tokens(written_out, "b")
    assert tokens(events, "a") != tokens(events, "plain")
    assert sum(isinstance(event, Finished) for event in [*events, *written_out]) == 3
    assert engine.scheduler.in_flight == 0


def test_a_completion_that_fails_ends_its_own_request_only(small: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise DalleError("no finite probabilities")

    engine = Engine(small, slots=4)
    monkeypatch.setattr(engine.rewriter, "complete", fail)
    events = run(engine, request(small, "a"), request(small, "b", complete=None))
    assert [event.request_id for event in events if isinstance(event, Failed)] == ["a"]
    assert len(tokens(events, "b")) == 3
    engine.add(request(small, "c"))
    assert engine.cancel("c")
    assert [type(event) for event in engine.step()] == [Cancelled]


def test_a_completion_out_of_range_is_named(small: Checkpoint) -> None:
    engine = Engine(small, slots=2)
    for values, field in (({"temperature": -1.0}, "temperature"), ({"top_k": 301}, "top_k"), ({"tokens": 0}, "tokens")):
        with pytest.raises(InvalidRequest, match=f"^{field} must "):
            engine.add(request(small, "a", complete=Completion(**values)))
