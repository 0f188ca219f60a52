"""The step as graphs, as far as a CPU can tell: the plain step's tokens, and nothing that a graph cannot hold.

Without CUDA the work of a graph runs plainly. Here each piece of it is recorded: it may not wait for the device, and it
has to be the same operations, on the same shapes and numbers, whenever it is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.checkpoints import Checkpoint
from model.inference.engine import Engine
from model.inference.events import Event
from model.inference.graphed import GraphedDecoder, Graphs
from model.inference.requests import GenerationRequest, SamplingParams
from model.inference.side_stream import SidePainter
from tests.inference.test_engine import painted, run

WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "lift_fresh", "item", "equal")


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation. Raises AssertionError for one that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.told: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1]
        assert name not in WAITS, f"{func} waits for the device, or brings a tensor from the host"
        if name.startswith("index"):
            for index in args[1] if isinstance(args[1], (list, tuple)) else []:
                assert index is None or index.dtype != torch.bool, f"{func} counts a mask, which waits for the device"
        self.told.append((str(func), *map(described, args), *map(described, (kwargs or {}).items())))
        return func(*args, **(kwargs or {}))


def described(value: Any) -> Any:
    """A tensor by its shape, strides and type, anything else as it is."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(described, value))
    return value


class Strictest(Graphs):
    """Runs the work plainly, and compares it with the last time that it was done."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.recorded: dict[Hashable, list[tuple[Any, ...]]] = {}
        self.repeated = 0

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        if key not in self.recorded:  # the first time libraries and the model may make what they keep
            work()
            self.recorded[key] = []
            return
        with Recorder() as recorder:
            work()
        if before := self.recorded[key]:
            assert recorder.told == before
            self.repeated += 1
        self.recorded[key] = recorder.told


@pytest.mark.parametrize("waits", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.nonzero(), torch.tensor])
def test_the_recorder_refuses_what_waits(waits: Any) -> None:
    value = torch.ones(3)
    with pytest.raises(AssertionError, match="device"), Recorder():
        waits(value if waits is not torch.tensor else [1.0])


def engine_of(small: Checkpoint, strict: bool) -> tuple[Engine, Strictest]:
    """An engine with a GraphedDecoder, as on a GPU."""
    engine = Engine(small, slots=8, strict=strict)
    decoder = GraphedDecoder(small.transformer, tuple(small.tokenizer.null), 8, engine.device, strict)
    engine._decoders[""] = decoder
    engine.finished.side_painter = SidePainter(engine.image_codec)
    graphs = decoder._graphs = Strictest()
    return engine, graphs


def request(small: Checkpoint, name: str, prompt: str, images: int = 1, **params: Any) -> GenerationRequest:
    more = {key: params.pop(key) for key in ("forced", "score", "partial_rows") if key in params}
    text_ids = tuple(small.tokenizer.encode(prompt))
    return GenerationRequest(name, text_ids, images, SamplingParams(**{"seed": 1, "guidance": 3.0, **params}), **more)


def crowd(small: Checkpoint) -> list[GenerationRequest]:
    forced = b"".join((5 if i % 7 == 0 else -1).to_bytes(2, "little", signed=True) for i in range(64))
    return [
        request(small, "plain", "a red apple", guidance=1.0),
        request(small, "guided", "a blue circle", 2),
        request(small, "greedy", "a red apple", temperature=0.0),
        request(small, "opening", "", opening=1.5, temperature=0.4),
        request(small, "few", "a blue circle", top_k=5),
        request(small, "nucleus", "a red apple", top_k=50, top_p=0.7, seed=4),
        request(small, "edit", "a red apple", forced=forced, guidance=1.0),
        request(small, "long", "a red apple a blue circle a red apple", seed=2),
    ]


def tokens(events: list[Event]) -> dict[tuple[str, int], bytes]:
    return {key: picture.tokens for key, picture in painted(events).items()}


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
def test_graphs_draw_what_the_plain_step_draws(small: Checkpoint, strict: bool) -> None:
    engine, graphs = engine_of(small, strict)
    late = {3: request(small, "late", "a blue circle", 2, top_k=3, seed=9)}
    events = run(engine, crowd(small), late)
    found, pictures = tokens(events), {key: picture.rgb for key, picture in painted(events).items()}
    plain = run(Engine(small, slots=8, strict=strict), crowd(small), late)
    assert found == tokens(plain)
    if strict:
        assert pictures == {key: picture.rgb for key, picture in painted(plain).items()}
    assert len(found) == 11
    assert graphs.repeated > 20
    # Another crowd in the same slots, with other numbers, is the same work.
    known = len(graphs.recorded)
    again = [request(small, name, "a blue circle", top_k=7, guidance=2.0, seed=ord(name)) for name in "abcd"]
    assert tokens(run(engine, again)) == tokens(run(Engine(small, slots=8, strict=strict), again))
    assert len(graphs.recorded) <= known + 4


def test_a_slot_that_is_left_early_disturbs_nobody(small: Checkpoint) -> None:
    engine, _ = engine_of(small, strict=True)
    stays = request(small, "stays", "a red apple", seed=3)
    for item in (request(small, "leaves", "a blue circle", 2), stays):
        engine.add(item)
    events: list[Event] = []
    for _ in range(5):
        events += engine.step()
    engine.cancel("leaves")
    events += run(engine, [request(small, "joins", "a blue circle", seed=5)])
    alone = tokens(run(Engine(small, slots=8), [stays, request(small, "joins", "a blue circle", seed=5)]))
    assert tokens(events) == alone


def test_a_score_takes_the_plain_step(small: Checkpoint) -> None:
    engine, graphs = engine_of(small, strict=True)
    asked = [request(small, "scored", "a red apple", 2, score=True)]
    scores = [picture.score for picture in painted(run(engine, asked)).values()]
    plain = [picture.score for picture in painted(run(Engine(small, slots=8), asked)).values()]
    assert scores == pytest.approx(plain, abs=1e-4)  # the native kernels add in another order
    assert {key[0] for key in graphs.recorded if isinstance(key, tuple)} == {"prefill"}


def test_a_slot_without_finite_logits_fails_alone(small: Checkpoint) -> None:
    engine, _ = engine_of(small, strict=True)
    good = request(small, "good", "a red apple", seed=3)
    for item in (request(small, "bad", "a blue circle", guidance=1.0), good):
        engine.add(item)
    engine.step()
    engine.decoder.state.hidden[engine.scheduler.running[0].slots[0]] = float("nan")
    events = run(engine)
    assert tokens(events) == tokens(run(Engine(small, slots=8), [good]))
    assert any(event.request_id == "bad" and getattr(event, "code", "") == "numerical_error" for event in events)
