"""The scheduler, tested with ints."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import pytest

from model.errors import InvalidRequest
from model.inference.requests import GenerationRequest, SamplingParams, Sequence
from model.inference.scheduler import Scheduler


def request(
    name: str,
    images: int = 1,
    guidance: float = 1.0,
    first_index: int = 0,
    deadline: float | None = None,
    background: bool = False,
) -> GenerationRequest:
    params = SamplingParams(seed=1, guidance=guidance)
    return GenerationRequest(name, (0, 1), images, params, first_index, background=background, deadline=deadline)


def names(sequences: list[Sequence]) -> list[tuple[str, int]]:
    return [(s.request.id, s.index) for s in sequences]


def check(scheduler: Scheduler) -> None:
    """The invariants of every moment."""
    held = [slot for s in scheduler.running for slot in s.slots]
    assert sorted(held + scheduler.free_slots) == list(range(scheduler.slots))
    assert all(len(s.slots) == s.request.slots_per_image for s in scheduler.running)
    assert [s for entry in scheduler.entries() for s in entry.running if s not in scheduler.running] == []


def waiting(scheduler: Scheduler) -> int:
    return sum(entry.waiting for entry in scheduler.entries())


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, model.inference.scheduler, model.inference.messages; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_text_is_rewritten_at_a_time() -> None:
    scheduler = Scheduler(8)
    for name in ("a", "b", "c"):
        scheduler.add(replace(request(name, images=2), revise=True))
    scheduler.add(request("plain"))
    assert names(scheduler.admit()) == [("a", 0), ("a", 1)]
    assert names(scheduler.admit()) == [("b", 0), ("b", 1)]
    assert names(scheduler.admit()) == [("c", 0), ("c", 1), ("plain", 0)]


def test_a_request_may_start_with_fewer_images_than_it_has() -> None:
    scheduler = Scheduler(3)
    scheduler.add(request("a", images=5, first_index=2))
    first = scheduler.admit()
    assert names(first) == [("a", 2), ("a", 3), ("a", 4)]
    assert [s.offset for s in first] == [0, 1, 2]
    assert waiting(scheduler) == 2
    scheduler.drawn(first[1])
    assert names(scheduler.admit()) == [("a", 5)]
    check(scheduler)


def test_first_come_first_served_also_when_a_smaller_one_would_fit() -> None:
    scheduler = Scheduler(3)
    scheduler.add(request("one"))
    scheduler.add(request("two", guidance=3.0))
    scheduler.add(request("three", guidance=3.0))
    scheduler.add(request("four"))
    assert names(scheduler.admit()) == [("one", 0), ("two", 0)]
    scheduler.drawn(scheduler.running[0])
    assert scheduler.admit() == []  # "four" would fit, but "three" was there before
    scheduler.drawn(scheduler.running[0])
    assert names(scheduler.admit()) == [("three", 0), ("four", 0)]
    check(scheduler)


def test_background_images_get_the_slots_that_nobody_waits_for() -> None:
    scheduler = Scheduler(2)
    scheduler.add(request("overnight", images=4, background=True))
    assert names(scheduler.admit()) == [("overnight", 0), ("overnight", 1)]
    scheduler.add(request("guided", guidance=2.0))
    scheduler.drawn(scheduler.running[0])
    assert scheduler.admit() == []  # the free slot waits for the second one that the guided image needs
    scheduler.drawn(scheduler.running[0])
    assert names(scheduler.admit()) == [("guided", 0)]
    scheduler.drawn(scheduler.running[0])
    assert names(scheduler.admit()) == [("overnight", 2), ("overnight", 3)]
    check(scheduler)
    assert scheduler.drop("overnight")
    assert scheduler.admit() == [] and len(scheduler.free_slots) == 2  # noqa: PT018 - nothing is left


def test_a_guided_or_scored_image_takes_two_slots() -> None:
    assert request("a").slots_per_image == 1
    assert request("a", guidance=0.0).slots_per_image == 2
    assert GenerationRequest("a", (0, 1), 1, SamplingParams(seed=1), score=True).slots_per_image == 2


def test_a_request_that_can_never_start_is_refused() -> None:
    scheduler = Scheduler(1)
    with pytest.raises(InvalidRequest, match="takes 2 slots, and the engine has 1") as error:
        scheduler.add(request("a", guidance=2.0))
    assert error.value.field == "guidance"
    scheduler.add(request("b"))
    with pytest.raises(InvalidRequest, match="id must be of no request in flight, got 'b'"):
        scheduler.add(request("b"))
    assert scheduler.in_flight == 1
    check(scheduler)


def test_drop_frees_what_runs_and_forgets_what_waits() -> None:
    scheduler = Scheduler(4)
    scheduler.add(request("a", images=4, guidance=2.0))
    scheduler.add(request("b"))
    scheduler.add(request("c"))
    assert names(scheduler.admit()) == [("a", 0), ("a", 1)]
    assert scheduler.drop("b")
    assert scheduler.drop("a")
    assert not scheduler.drop("a")
    assert not scheduler.drop("never seen")
    assert scheduler.free_slots == [0, 1, 2, 3]
    assert names(scheduler.admit()) == [("c", 0)]
    assert scheduler.in_flight == 1
    check(scheduler)


def test_a_request_completes_with_its_last_picture() -> None:
    scheduler = Scheduler(2)
    scheduler.add(request("a", images=2))
    first, second = scheduler.admit()
    scheduler.drawn(second)
    assert scheduler.free_slots == [1]
    assert not scheduler.painted(second)
    scheduler.drawn(first)
    assert scheduler.in_flight == 1
    assert scheduler.painted(first)
    assert scheduler.in_flight == 0
    check(scheduler)


def test_deadlines_end_requests_that_wait_and_that_run() -> None:
    scheduler = Scheduler(1)
    scheduler.add(request("runs", deadline=10.0))
    scheduler.add(request("waits", deadline=5.0))
    scheduler.add(request("has time"))
    scheduler.admit()
    assert scheduler.expire(4.9) == []
    assert [entry.request.id for entry in scheduler.expire(5.0)] == ["waits"]
    assert [entry.request.id for entry in scheduler.expire(11.0)] == ["runs"]
    assert names(scheduler.admit()) == [("has time", 0)]
    assert scheduler.in_flight == 1
    check(scheduler)


def test_every_request_ends_once_through_a_random_life() -> None:
    chance = random.Random(3)
    scheduler = Scheduler(7)
    order: list[str] = []  # of arrival
    begun: list[str] = []
    drawn: list[Sequence] = []  # not painted
    ended: list[str] = []
    for turn in range(3000):
        roll = chance.random()
        if roll < 0.35 and scheduler.in_flight < 20:
            name = f"r{turn}"
            deadline = turn + 200 if chance.random() < 0.3 else None
            scheduler.add(request(name, chance.randint(1, 5), chance.choice([1.0, 3.0]), deadline=deadline))
            order.append(name)
        elif roll < 0.40 and scheduler.in_flight:
            name = chance.choice([entry.request.id for entry in scheduler.entries()])
            assert scheduler.drop(name)
            ended.append(name)
        elif roll < 0.6 and scheduler.running:
            drawn.append(chance.choice(scheduler.running))
            scheduler.drawn(drawn[-1])
        elif roll < 0.8 and drawn:
            sequence = drawn.pop(chance.randrange(len(drawn)))
            if scheduler.painted(sequence):
                ended.append(sequence.request.id)
        else:
            ended += [entry.request.id for entry in scheduler.expire(float(turn))]
        drawn = [s for s in drawn if s.request.id not in ended]
        begun += [s.request.id for s in scheduler.admit() if s.offset == 0]
        check(scheduler)
        assert len(order) == len(ended) + scheduler.in_flight
    assert begun == [name for name in order if name in set(begun)]  # nobody overtook
    for entry in list(scheduler.entries()):
        assert scheduler.drop(entry.request.id)
        ended.append(entry.request.id)
    check(scheduler)
    assert sorted(ended) == sorted(order)
    assert scheduler.free_slots == list(range(7))
    assert scheduler.in_flight == waiting(scheduler) == 0
