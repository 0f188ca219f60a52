"""The engine on a real tiny model: a picture is the same in every company; what ends early hurts nobody else."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoints import Checkpoint
from model.errors import InvalidRequest
from model.inference import decoder as decoder_module
from model.inference.engine import Engine
from model.inference.events import (
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    NUMERICAL_ERROR,
    Cancelled,
    Event,
    Failed,
    Finished,
    Painted,
    Partial,
    Progress,
    Started,
)
from model.inference.requests import GenerationRequest, SamplingParams
from model.inference.sampling import RowParams, guide, sample
from tests.inference.conftest import CELLS, GRID, SIZE, STEPS

SAMPLING = ("seed", "temperature", "top_k", "top_p", "guidance", "opening")
MakeRequest = Callable[..., GenerationRequest]
Pictures = dict[tuple[str, int], Painted]


@pytest.fixture(scope="session")
def make(small: Checkpoint) -> MakeRequest:
    """make("id", "prompt", images=1, first_index=0, forced=..., seed=..., guidance=..., ...) -> GenerationRequest."""

    def request(name: str, prompt: str = "a red apple", images: int = 1, **more: object) -> GenerationRequest:
        sampling = {k: more.pop(k) for k in SAMPLING if k in more}
        params = SamplingParams(**{"seed": 1, "guidance": 3.0, **sampling})  # type: ignore[arg-type]
        text_ids = tuple(small.tokenizer.encode(prompt))
        return GenerationRequest(name, text_ids, images, params, **more)  # type: ignore[arg-type]

    return request


def run(
    engine: Engine, requests: Iterable[GenerationRequest] = (), late: dict[int, GenerationRequest] | None = None
) -> list[Event]:
    """Step until nothing is left; `late` requests join before the step of that number."""
    for request in requests:
        engine.add(request)
    events, step, later = [], 0, dict(late or {})
    while engine.has_work or later:
        if step in later:
            engine.add(later.pop(step))
        events += engine.step()
        step += 1
        assert step < 100 * STEPS
    return events


def painted(events: Iterable[Event]) -> Pictures:
    return {(e.request_id, e.index): e for e in events if isinstance(e, Painted)}


def ends(events: Iterable[Event]) -> dict[str, type[Event]]:
    """How each request ended; it ended once."""
    last = [e for e in events if isinstance(e, Finished | Failed | Cancelled)]
    assert len(last) == len({e.request_id for e in last})
    return {e.request_id: type(e) for e in last}


def same(one: Painted, other: Painted) -> bool:
    return one.tokens == other.tokens and one.rgb == other.rgb


def crowd(make: MakeRequest) -> list[GenerationRequest]:
    """Other prompts, lengths, parameters."""
    return [
        make("greedy", "a blue circle", temperature=0.0, guidance=1.0),
        make("cold", "two green apples above a blue square", temperature=0.3, top_p=0.5, seed=9),
        make("narrow", "", top_k=5, guidance=1.5),
        make("wild", "x" * 20, temperature=5.0, guidance=20.0, top_k=400, top_p=0.99),
        make("opening", "a red square", temperature=0.2, opening=1.5, seed=4),
        make("three", "a small cat", images=3, guidance=1.0, seed=5),
    ]


def test_the_engine_draws_from_the_uncached_logits(
    small: Checkpoint, make: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def spy(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        seen.append(logits.clone())
        return sample(logits, *others)

    monkeypatch.setattr(decoder_module, "sample", spy)
    request = make("a", guidance=2.5)
    events = run(Engine(small, slots=2, native=False), [request])
    cached = torch.cat(seen)  # (cells, vocab)
    tokens = torch.from_numpy(np.frombuffer(painted(events)["a", 0].tokens, "<i2").astype(np.int64))[None]
    vocab = small.config.transformer.text_vocab
    uncached = []
    for ids in (list(request.text_ids), small.tokenizer.null):
        logits = small.transformer.logits(torch.tensor([ids]), tokens)
        uncached.append(logits[0, len(ids) - 1 : -1, vocab:])
    params = RowParams.prepare([request.params] * CELLS, range(CELLS), 512, torch.device("cpu"))
    assert cached.shape == (CELLS, 512)
    torch.testing.assert_close(cached, guide(uncached[0], uncached[1], params), rtol=1e-4, atol=1e-3)


PARAMS = ({"guidance": 3.0}, {"guidance": 1.0}, {"top_k": 50, "top_p": 0.8}, {"temperature": 0.3, "opening": 1.0})


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_a_picture_is_the_same_alone_and_in_a_crowd(
    small: Checkpoint, make: MakeRequest, params: dict[str, float]
) -> None:
    mine = make("mine", **params)
    alone = painted(run(Engine(small, slots=4), [mine]))["mine", 0]
    engine = Engine(small, slots=9)
    for at in (0, 2, 4):  # another place in the queue, so another slot and other neighbours each time
        others = crowd(make)
        assert same(painted(run(engine, [*others[:at], mine, *others[at:]]))["mine", 0], alone)
    again = painted(run(engine, [mine]))["mine", 0]  # in slots that others have used
    assert same(again, alone)


def test_an_opening_ends_where_something_is_drawn(small: Checkpoint, make: MakeRequest) -> None:
    """A sheet is forced blank up to a cell in the middle, which is another token: from there on it is as without."""
    inked = 3 * GRID + 4  # row 3, column 4: away from the edges
    forced = [7] * inked + [9] + [-1] * (CELLS - inked - 1)
    given = {"forced": struct.pack(f"<{CELLS}h", *forced), "temperature": 0.3}
    engine = Engine(small, slots=4)
    without, drawn = (painted(run(engine, [make("a", **given, opening=heat)]))["a", 0] for heat in (0.0, 5.0))
    assert drawn.tokens == without.tokens
    blank = struct.pack(f"<{CELLS}h", *[7] * inked, *[-1] * (CELLS - inked))
    cold, hot = (
        painted(run(engine, [make("a", **{**given, "forced": blank}, opening=heat)]))["a", 0] for heat in (0.0, 5.0)
    )
    assert cold.tokens != hot.tokens
    greedy = [painted(run(engine, [make("a", temperature=0.0, opening=heat)]))["a", 0].tokens for heat in (0.0, 5.0)]
    assert greedy[0] == greedy[1]


def test_the_backgrounds_own_tokens_at_the_edges_are_nothing_drawn(small: Checkpoint, make: MakeRequest) -> None:
    edges = [7 if 2 <= i // GRID < GRID - 2 and 2 <= i % GRID < GRID - 2 else i % 5 for i in range(CELLS)]
    engine = Engine(small, slots=2)
    engine.add(make("a", guidance=1.0, opening=2.0, forced=struct.pack(f"<{CELLS}h", *edges)))
    for _ in range(STEPS - 1):
        engine.step()
    assert not bool(engine.decoder.state.begun[0])


def test_late_joiners_disturb_nobody_and_are_not_disturbed(small: Checkpoint, make: MakeRequest) -> None:
    requests = [make("mine"), *crowd(make)]
    alone = Engine(small, slots=4)
    apart = {key: picture for request in requests for key, picture in painted(run(alone, [request])).items()}
    late = {1 + 3 * i: request for i, request in enumerate(requests[1:])}
    together = painted(run(Engine(small, slots=16), requests[:1], late))
    assert together.keys() == apart.keys()
    for key, picture in together.items():
        assert same(picture, apart[key]), key


def test_images_of_one_request_equal_single_ones(small: Checkpoint, make: MakeRequest) -> None:
    engine = Engine(small, slots=8)
    four = painted(run(engine, [make("four", images=4)]))
    assert len({picture.tokens for picture in four.values()}) == 4
    for index in range(4):
        single = painted(run(engine, [make("one", first_index=index)]))["one", index]
        assert same(single, four["four", index])
    other_seed = painted(run(engine, [make("one", seed=2)]))["one", 0]
    assert other_seed.tokens != four["four", 0].tokens


def test_more_images_than_slots_start_as_slots_become_free(small: Checkpoint, make: MakeRequest) -> None:
    engine = Engine(small, slots=5)
    events = run(engine, [make("many", images=7, guidance=1.0), make("next", guidance=2.0)])
    assert len(painted(events)) == 8
    assert [type(e) for e in events if e.request_id == "next"][-2:] == [Painted, Finished]
    assert ends(events) == {"many": Finished, "next": Finished}
    assert engine.scheduler.in_flight == engine.stats().slots_busy == 0
    assert engine.stats().tokens == 8 * CELLS


def test_a_request_without_agreeing_widths_is_computed_row_by_row(small: Checkpoint, make: MakeRequest) -> None:
    engine = Engine(small, slots=4, native=False)
    engine.decoder.widths = {1: 1}
    mine = make("mine")
    apart = painted(run(engine, [mine]))["mine", 0]
    together = painted(run(engine, [make("other", "a blue circle", guidance=1.0), mine]))["mine", 0]
    assert same(apart, together)


def test_outside_strict_mode_pictures_still_come(small: Checkpoint, make: MakeRequest) -> None:
    events = run(Engine(small, slots=6, strict=False), crowd(make))
    assert len(painted(events)) == 8


def test_events_come_in_order(small: Checkpoint, make: MakeRequest) -> None:
    events = run(Engine(small, slots=4), [make("a", images=2, partial_rows=(2, 4))])
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    progress = [e.rows_done for e in events if isinstance(e, Progress)]
    assert progress == [(rows, rows) for rows in range(1, GRID + 1)]
    partial = [(e.index, e.rows_done) for e in events if isinstance(e, Partial)]
    assert sorted(partial) == [(0, 2), (0, 4), (1, 2), (1, 4)]
    for event in events:
        if isinstance(event, Painted | Partial):
            assert len(event.rgb) == SIZE * SIZE * 3
    kinds = [type(e) for e in events]
    assert kinds.count(Started) == kinds.count(Finished) == 1


def test_an_unfinished_picture_is_calm_where_nothing_is_painted(small: Checkpoint, make: MakeRequest) -> None:
    events = run(Engine(small, slots=2), [make("a", partial_rows=(4,))])
    partial = next(e for e in events if isinstance(e, Partial))
    final = painted(events)["a", 0]
    pixels = np.frombuffer(partial.rgb, np.uint8).reshape(SIZE, SIZE, 3)
    done = SIZE * 4 // GRID
    assert np.ptp(pixels[done:]) == 0
    assert 200 < pixels[-1, -1, 0] < 255
    whole = np.frombuffer(final.rgb, np.uint8).reshape(SIZE, SIZE, 3)
    top = slice(0, SIZE // GRID)  # far from the grey, which the decoder sees a little of
    assert np.abs(pixels[top].astype(int) - whole[top]).mean() < 5


def test_forced_tokens_overrule_the_sampler(small: Checkpoint, make: MakeRequest) -> None:
    engine = Engine(small, slots=4)
    free = painted(run(engine, [make("a")]))["a", 0]
    tokens = list(struct.unpack(f"<{CELLS}h", free.tokens))
    forced = [(7 * i) % 512 if i % 3 == 0 else -1 for i in range(CELLS)]
    request = make("a", forced=struct.pack(f"<{CELLS}h", *forced), partial_rows=(1,))
    events = run(engine, [request, make("free", "a blue circle")])
    drawn = struct.unpack(f"<{CELLS}h", painted(events)["a", 0].tokens)
    assert all(d == f for d, f in zip(drawn, forced, strict=True) if f >= 0)
    # Forcing what would be drawn anyway changes nothing after it.
    half = tokens[: CELLS // 2] + [-1] * (CELLS // 2)
    again = painted(run(engine, [make("a", forced=struct.pack(f"<{CELLS}h", *half))]))["a", 0]
    assert same(again, free)
    partial = next(e for e in events if isinstance(e, Partial))
    pixels = np.frombuffer(partial.rgb, np.uint8).reshape(GRID, SIZE // GRID, GRID, SIZE // GRID, 3)
    spread = np.ptp(pixels, axis=(1, 3, 4)).flatten()  # of each cell
    assert all(spread[i] > 0 for i in range(GRID, CELLS) if forced[i] >= 0)
    assert all(spread[i] == 0 for i in range(GRID, CELLS) if forced[i] < 0)


def test_a_picture_to_keep_is_encoded(small: Checkpoint, make: MakeRequest) -> None:
    engine = Engine(small, slots=4)
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    keep = bytes([1] * (CELLS // 2) + [0] * (CELLS // 2))
    events = run(engine, [make("a", images=3, image=image.tobytes(), keep=keep)])
    ids = small.vae.encode(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255).flatten().tolist()
    for picture in painted(events).values():
        assert list(struct.unpack(f"<{CELLS}h", picture.tokens))[: CELLS // 2] == ids[: CELLS // 2]
    assert len({picture.tokens for picture in painted(events).values()}) == 3


def test_scores_do_not_change_the_picture_and_compare_prompts(small: Checkpoint, make: MakeRequest) -> None:
    engine = Engine(small, slots=4)
    plain = painted(run(engine, [make("a", guidance=1.0)]))["a", 0]
    scored = painted(run(engine, [make("a", guidance=1.0, score=True), make("b", score=True)]))
    assert plain.score is None
    assert scored["a", 0].tokens == plain.tokens
    guided, unguided = scored["b", 0].score, scored["a", 0].score
    assert guided is not None
    assert unguided is not None
    assert guided > unguided  # guidance favours what the prompt makes likelier
    tokens = struct.unpack(f"<{CELLS}h", plain.tokens)
    logs = []
    for ids in (small.tokenizer.encode("a red apple"), small.tokenizer.null):
        logits = small.transformer.logits(torch.tensor([ids]), torch.tensor([tokens]))[0, len(ids) - 1 : -1, 300:]
        logs.append(logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).mean())
    assert unguided == pytest.approx(float(logs[0] - logs[1]), abs=1e-4)


def test_cancel_frees_the_slots_at_once_and_neighbours_stay_the_same(small: Checkpoint, make: MakeRequest) -> None:
    engine = Engine(small, slots=4)
    undisturbed = painted(run(engine, [make("mine")]))["mine", 0]
    engine.add(make("leaves", "a blue circle"))
    engine.add(make("mine"))
    engine.add(make("waits"))
    engine.add(make("goes too"))
    events = [event for _ in range(3) for event in engine.step()]
    assert engine.cancel("leaves")
    assert engine.cancel("goes too")
    assert not engine.cancel("leaves")
    assert engine.stats().slots_busy == 2
    step = engine.step()
    assert [e.request_id for e in step if isinstance(e, Cancelled)] == ["leaves", "goes too"]
    assert [e.request_id for e in step if isinstance(e, Started)] == ["waits"]
    events += run(engine)
    assert same(painted(events)["mine", 0], undisturbed)
    assert painted(events).keys() == {("mine", 0), ("waits", 0)}
    assert ends([*events, *step])["leaves"] is ends([*events, *step])["goes too"] is Cancelled
    assert engine.scheduler.in_flight == 0


def test_a_deadline_ends_a_request_and_no_other(small: Checkpoint, make: MakeRequest) -> None:
    engine = Engine(small, slots=2)
    engine.add(make("runs", deadline=time.monotonic() + 3600))
    engine.add(make("late", deadline=time.monotonic() - 1))
    events = run(engine)
    failed = [e for e in events if isinstance(e, Failed)]
    assert [(e.request_id, e.code) for e in failed] == [("late", DEADLINE_EXCEEDED)]
    assert painted(events).keys() == {("runs", 0)}
    engine.add(make("too slow", deadline=time.monotonic() + 3600))
    engine.step()
    (entry,) = engine.scheduler.entries()
    entry.request = replace(entry.request, deadline=0.0)
    assert [type(e) for e in engine.step()] == [Failed]
    assert engine.stats().slots_busy == engine.scheduler.in_flight == 0


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_picture_without_finite_logits_fails_alone_and_leaves_no_trace(
    small: Checkpoint, make: MakeRequest, cancelled: bool
) -> None:
    engine = Engine(small, slots=4)
    apart = {name: painted(run(engine, [make(name)]))[name, 0] for name in ("mine", "after")}
    engine.add(make("poison", "a blue circle"))
    engine.add(make("mine"))
    events = engine.step()
    for slot in engine.scheduler.running[0].slots:
        engine.decoder.cache.k[:, slot] = float("nan")
    events += engine.step()  # the hidden state is now NaN, the next logits too
    events += engine.step()
    if cancelled:
        engine.cancel("poison")  # before the engine has noticed
    engine.add(make("after"))  # takes the same slots
    events += run(engine)
    failed = [(e.request_id, e.code) for e in events if isinstance(e, Failed)]
    assert failed == ([] if cancelled else [("poison", NUMERICAL_ERROR)])
    for name, picture in apart.items():
        assert same(painted(events)[name, 0], picture)
    assert engine.scheduler.in_flight == 0
    assert bool(engine.decoder.cache.k.isfinite().all())


def test_a_prompt_that_breaks_prefill_fails_alone(
    small: Checkpoint, make: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(small, slots=4)
    bad = make("bad", "a blue circle")
    prefill = engine.decoder.prefill

    def breaks(sequences: list[object], forced: Tensor | None) -> None:
        if sequences[0].request.id == "bad":  # type: ignore[attr-defined]
            raise RuntimeError("no")
        prefill(sequences, forced)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.decoder, "prefill", breaks)
    events = run(engine, [make("mine"), bad])
    assert [(e.request_id, e.code) for e in events if isinstance(e, Failed)] == [("bad", INTERNAL_ERROR)]
    assert painted(events).keys() == {("mine", 0)}


NAN = float("nan")


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("seed", {"seed": -1}, "seed must be an integer from 0 to 9223372036854775807, got -1"),
        ("seed", {"seed": 2**63}, "got 9223372036854775808"),
        ("temperature", {"temperature": 5.1}, "temperature must be a number from 0 to 5, got 5.1"),
        ("temperature", {"temperature": NAN}, "temperature must be .*, got nan"),
        ("top_k", {"top_k": 513}, "top_k must be an integer from 0 to 512, got 513"),
        ("top_p", {"top_p": 0.0}, "top_p must be above 0 and up to 1, got 0.0"),
        ("guidance", {"guidance": 20.5}, "guidance must be a number from 0 to 20, got 20.5"),
        ("num_images", {"images": 0}, "num_images must be an integer from 1 to 64, got 0"),
        ("first_index", {"first_index": -1}, "first_index must be .*, got -1"),
        (
            "partial_rows",
            {"partial_rows": (3, 2)},
            "partial_rows must be ascending numbers from 1 to 7, got \\[3, 2\\]",
        ),
        ("partial_rows", {"partial_rows": (8,)}, "from 1 to 7"),
        ("forced", {"forced": b"12"}, "forced must be 128 bytes, got 2 bytes"),
        ("forced", {"forced": struct.pack("<64h", *[512] * 64)}, "forced must be tokens from -1 to 511, got"),
        ("forced", {"forced": bytes(128), "keep": bytes(64)}, "forced must be left out where"),
        ("image", {"keep": bytes(64)}, "image must be 12288 bytes, got nothing"),
        ("keep", {"image": bytes(12288)}, "keep must be 64 bytes, got nothing"),
    ],
)
def test_requests_that_cannot_be_honoured_are_refused_by_name(
    small: Checkpoint, make: MakeRequest, field: str, change: dict[str, object], message: str
) -> None:
    engine = Engine(small, slots=4, strict=False)
    with pytest.raises(InvalidRequest, match=message) as error:
        engine.add(make("a", **change))
    assert error.value.field == field
    assert not engine.has_work


@pytest.mark.parametrize("text_ids", [(), (0,), (0, 300, 1), (0, -1, 1), (0,) * 50 + (1,), (1, 0), (0, 5)])
def test_text_that_the_model_cannot_read_is_refused(small: Checkpoint, text_ids: tuple[int, ...]) -> None:
    engine = Engine(small, slots=4, strict=False)
    with pytest.raises(InvalidRequest, match="text_ids must .*, got") as error:
        engine.add(GenerationRequest("a", text_ids, 1, SamplingParams(seed=1)))
    assert error.value.field == "text_ids"


def test_warm_up_measures_and_leaves_no_trace(small: Checkpoint, make: MakeRequest) -> None:
    cold, warm = Engine(small, slots=5), Engine(small, slots=5)
    warm.warm_up()
    stats = warm.stats()
    assert stats.seconds_per_step > 0.0
    assert stats.tokens == stats.slots_busy == 0
    assert not warm.has_work
    assert same(painted(run(warm, [make("a")]))["a", 0], painted(run(cold, [make("a")]))["a", 0])


def test_too_few_slots_are_refused(small: Checkpoint) -> None:
    with pytest.raises(InvalidRequest, match="slots must be 2 or more"):
        Engine(small, slots=1)
