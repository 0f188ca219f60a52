"""Background images beside images that somebody waits for: they leave slots free, rest, and are the same pictures."""

from __future__ import annotations

import pytest

from model.checkpoints import Checkpoint
from model.inference.engine import Engine
from model.inference.events import Finished, Painted
from model.inference.requests import GenerationRequest, SamplingParams
from model.inference.scheduler import KEPT, TURN, Scheduler
from tests.inference.conftest import STEPS


def request(name: str, images: int, background: bool = False, guidance: float = 1.0) -> GenerationRequest:
    return GenerationRequest(name, (0, 1), images, SamplingParams(seed=3, guidance=guidance), background=background)


def rests(scheduler: Scheduler, steps: int) -> list[bool]:
    return [scheduler.rest() for _ in range(steps)]


def test_the_last_slots_are_for_images_that_somebody_waits_for() -> None:
    scheduler = Scheduler(2 * KEPT)
    scheduler.add(request("overnight", 50, background=True))
    assert len(scheduler.admit()) == 2 * KEPT - 2
    scheduler.add(request("now", 1, guidance=2.0))
    assert [sequence.request.id for sequence in scheduler.admit()] == ["now"]
    assert scheduler.free_slots == []


def test_few_slots_are_all_used() -> None:
    scheduler = Scheduler(KEPT - 1)
    scheduler.add(request("overnight", 50, background=True))
    assert len(scheduler.admit()) == KEPT - 1


def test_background_images_rest_but_for_their_turns() -> None:
    scheduler = Scheduler(16)
    scheduler.add(request("overnight", 2, background=True))
    scheduler.admit()
    assert rests(scheduler, 3) == [False] * 3, "nobody else is there"
    scheduler.add(request("now", 1))
    scheduler.admit()
    assert rests(scheduler, 2 * TURN) == 2 * [*[True] * (TURN - 1), False]
    scheduler.drawn(scheduler.running[-1])
    assert rests(scheduler, 3) == [False] * 3


def test_nothing_rests_whose_slots_others_wait_for() -> None:
    scheduler = Scheduler(16)
    scheduler.add(request("overnight", 14, background=True))
    scheduler.admit()
    scheduler.add(request("now", 3))
    assert len(scheduler.admit()) == 2
    assert rests(scheduler, TURN) == [False] * TURN
    scheduler.drawn(scheduler.running[0])
    assert len(scheduler.admit()) == 1
    assert scheduler.rest()


def steps_of(engine: Engine, *requests: GenerationRequest) -> tuple[dict[tuple[str, int], bytes], dict[str, int]]:
    """The tokens of every picture, and the steps until each request was finished. The last joins after three steps."""
    *first, last = requests
    for one in first:
        engine.add(one)
    pictures, finished = {}, {}
    for step in range(100 * STEPS):
        if step == 3:
            engine.add(last)
        for event in engine.step():
            if isinstance(event, Painted):
                pictures[event.request_id, event.index] = event.tokens
            elif isinstance(event, Finished):
                finished[event.request_id] = step
        if step >= 3 and not engine.has_work:
            break
    return pictures, finished


@pytest.mark.parametrize("native", [True, False])
def test_resting_changes_no_picture(small: Checkpoint, native: bool) -> None:
    engine = Engine(small, slots=16, native=native)
    many, now = request("overnight", 9, background=True), request("now", 1, guidance=2.0)
    pictures, finished = steps_of(engine, many, now)
    assert finished["now"] < 3 + STEPS + 2, "it began at once"
    apart = steps_of(Engine(small, slots=16, native=native), request("other", 1), many)[0]
    apart |= steps_of(Engine(small, slots=16, native=native), request("other", 1), now)[0]
    assert pictures == {key: tokens for key, tokens in apart.items() if key[0] != "other"}
    if native:
        assert finished["overnight"] > 2 * STEPS - 5, "it rested meanwhile"
