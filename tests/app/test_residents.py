"""Several models in one pool: when they are loaded and put away, and whose turn it is. Counted, never timed."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from app.checkpoint import ServedCheckpoint
from app.models import Models
from app.pool import deaths
from app.pool.job import Job
from app.pool.lane import Lane, State
from app.pool.memory import RUNTIME, expected
from app.pool.worker_pool import LOAD_KILLS, WorkerPool
from app.settings import Settings
from model.errors import ModelFailed, Overloaded
from model.inference.messages import StartFailed
from tests.app.puppets import PLAIN, READY, Puppet, fails, order_of

SLOTS = 2  # so a turn has 4 pictures
ONE, TWO = 1.5, 2.5  # how many times one model's memory the budget is


class Theatre:
    """A pool of the models a, b and c over puppets. painted: the model of every request that was painted, in order."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self.painted: list[str] = []

    def lane(self, name: str) -> Lane:
        return self.pool._lanes[name]

    def loaded(self) -> list[str]:
        return [name for name, lane in self.pool._lanes.items() if lane.state is State.LOADED]

    async def until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            await asyncio.sleep(0)

    async def worker(self, name: str) -> Puppet:
        """The worker of this model, once there is one that has not ended."""
        found = self.lane(name).workers[0]
        await self.until(lambda: found.process is not None and not found.process.ended.done())
        assert isinstance(found.process, Puppet)
        await self.until(lambda: found.process in Puppet.started)
        return found.process

    async def load(self, name: str) -> Puppet:
        worker = await self.worker(name)
        worker.say(READY)
        return worker

    async def order(self, name: str, images: int = 1) -> Job:
        return await self.pool.submit(order_of(images=images, model=name, params=replace(PLAIN, guidance=1.0)))

    def paint(self, name: str) -> int:
        """Paint what the worker of this model has. Returns the number of requests."""
        process = self.lane(name).workers[0].process
        assert isinstance(process, Puppet)
        held = [request for request in process.requests if request.id in self.lane(name).workers[0].held]
        for request in held:
            self.painted.append(name)
            process.paint(request)
        return len(held)

    async def play(self, jobs: list[Job]) -> list[tuple[str, int]]:
        """Be every worker until all jobs have ended. Returns the models in the order of painting, with the requests."""
        while any(job.outcome is None for job in jobs):
            for name, lane in self.pool._lanes.items():
                if lane.state is State.LOADING:
                    await self.load(name)
                while lane.state is State.LOADED and self.paint(name):
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
        return [(name, len([*group])) for name, group in groupby(self.painted)]


Scene = Callable[[Theatre], Coroutine[Any, Any, None]]
Stage = Callable[..., None]


@pytest.fixture
def stage(quick_checkpoint: Path) -> Stage:
    """stage(scene, room, **settings): run an async scene. a is ready. room: memory for so many models."""
    weights = [f"{name}={quick_checkpoint}" for name in "abc"]

    def run(scene: Scene, room: float, idle_seconds: float = 1000.0, **more: Any) -> None:
        async def main() -> None:
            Puppet.started = []
            settings = Settings(weights=weights, slots=SLOTS, **more)
            models = Models.read(settings)
            memory = int(room * expected(models.served["a"], SLOTS, "float32", "cpu"))
            pool = WorkerPool(settings.model_copy(update={"memory": memory}), models, Puppet, idle_seconds)
            await pool.start()
            theatre = Theatre(pool)
            await theatre.load("a")
            try:
                async with asyncio.timeout(60):
                    await scene(theatre)
            finally:
                await pool.stop()

        asyncio.run(main())

    return run


def test_models_take_turns_of_equal_length_where_only_one_fits(stage: Stage) -> None:
    async def scene(theatre: Theatre) -> None:
        jobs = [await theatre.order("a") for _ in range(24)]
        jobs += [await theatre.order(name) for name in "bc" for _ in range(6)]
        first = len(theatre.lane("a").workers[0].held)  # given to it before anybody else had asked: more than a turn
        await theatre.until(lambda: theatre.lane("a").queue.spent)
        turns = await theatre.play(jobs)
        assert turns == [("a", first), ("b", 4), ("c", 4), ("a", 4), ("b", 2), ("c", 2), ("a", 24 - first - 4)]

    stage(scene, ONE)


def test_a_model_that_has_long_had_its_turn_makes_room_at_once(stage: Stage) -> None:
    async def scene(theatre: Theatre) -> None:
        await theatre.play([await theatre.order("a") for _ in range(24)])
        jobs = [await theatre.order("a") for _ in range(12)]
        jobs.append(await theatre.order("b"))
        first = len(theatre.lane("a").workers[0].held)  # given to it before b was asked for
        await theatre.until(lambda: theatre.lane("a").queue.spent)
        theatre.painted.clear()
        assert await theatre.play(jobs) == [("a", first), ("b", 1), ("a", 12 - first)]

    stage(scene, ONE)


def test_a_model_is_not_put_away_while_it_has_work(stage: Stage) -> None:
    async def scene(theatre: Theatre) -> None:
        await theatre.order("a")
        other = await theatre.order("b")
        for _ in range(100):
            await asyncio.sleep(0)
        assert theatre.loaded() == ["a"]
        theatre.paint("a")
        await theatre.play([other])
        assert (theatre.loaded(), theatre.painted) == (["b"], ["a", "b"])
        assert theatre.pool.not_ready() is None  # a made room, and is loaded again when it is asked for

    stage(scene, ONE)


def test_the_least_recently_used_model_makes_room(stage: Stage) -> None:
    async def scene(theatre: Theatre) -> None:
        await theatre.play([await theatre.order("b")])
        assert theatre.loaded() == ["a", "b"]
        await theatre.play([await theatre.order("a")])
        await theatre.play([await theatre.order("c")])
        assert theatre.loaded() == ["a", "c"]

    stage(scene, TWO)


def test_an_idle_model_is_put_away_except_the_default_one(stage: Stage) -> None:
    async def scene(theatre: Theatre) -> None:
        await theatre.play([await theatre.order("a"), await theatre.order("b")])
        await theatre.until(lambda: theatre.lane("b").state is State.AWAY)
        assert theatre.loaded() == ["a"]

    stage(scene, TWO, idle_seconds=0.0)


def test_a_model_that_cannot_be_loaded_fails_its_own_requests_only(stage: Stage) -> None:
    async def scene(theatre: Theatre) -> None:
        neighbour, broken = await theatre.order("a"), await theatre.order("b")
        (await theatre.worker("b")).say(StartFailed("/srv/b/vae.safetensors: cut short"))
        assert str(await fails(broken, ModelFailed)) == "the model b cannot be loaded; the server's log says why"
        with pytest.raises(ModelFailed):
            await theatre.order("b")
        later = await theatre.order("c")
        await theatre.play([neighbour, later])
        assert theatre.pool.fatal is None
        assert theatre.loaded() == ["a", "c"]

    stage(scene, TWO)


@pytest.mark.parametrize(("times", "failed"), [(deaths.BUDGET, True), (1, False)])
def test_a_loading_that_fails_by_chance_is_tried_again(stage: Stage, times: int, failed: bool) -> None:
    async def scene(theatre: Theatre) -> None:
        job = await theatre.order("b")
        for _ in range(times):
            (await theatre.worker("b")).say(StartFailed("no memory on the GPU", permanent=False))
        if failed:
            await fails(job, ModelFailed)
            job = await theatre.order("b")
        await theatre.play([job])
        assert theatre.painted == ["b"]

    stage(scene, TWO)


def test_a_model_whose_workers_are_killed_while_they_load_does_not_block_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "FIRST_WAIT", 0.0)

    async def scene(theatre: Theatre) -> None:
        large, other = await theatre.order("b"), await theatre.order("c")
        for _ in range(LOAD_KILLS):
            (await theatre.worker("b")).die(-signal.SIGKILL)
        await fails(large, ModelFailed)
        await theatre.play([other])

    stage(scene, TWO)


def test_each_model_has_places_of_the_queue_to_itself(stage: Stage) -> None:
    async def fill(theatre: Theatre, name: str) -> None:
        for _ in range(100):
            await theatre.order(name)

    async def taken(theatre: Theatre, name: str) -> int:
        before = theatre.pool.stats().accepted
        with pytest.raises(Overloaded):
            await fill(theatre, name)
        return theatre.pool.stats().accepted - before

    async def scene(theatre: Theatre) -> None:
        assert [await taken(theatre, name) for name in "aabc"] == [20, 0, 5, 5]  # of 30: half is shared out

    stage(scene, TWO, queue=30)


def test_the_expected_memory_counts_weights_and_slots(quick_checkpoint: Path) -> None:
    model = ServedCheckpoint.read(quick_checkpoint)
    few, many = (expected(model, slots, "float32", "cpu") for slots in (2, 4))
    config = model.config.transformer
    slot = (many - few) / 2 / (config.capacity + config.max_text)
    assert slot == 2 * 4 * config.depth * config.kv_heads * config.head_dim  # type: ignore[union-attr]
    on_disk = sum(file.stat().st_size for file in quick_checkpoint.glob("*.safetensors"))
    weights = few - RUNTIME - 2 * slot * (config.capacity + config.max_text)
    assert 0.9 * on_disk < weights <= on_disk  # float32 in both; the rest is the files' heads
    assert expected(model, 2, "bfloat16", "cuda:0") - RUNTIME == (few - RUNTIME) / 2


def test_a_request_whose_model_fails_while_its_text_is_read_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    tokenize = ServedCheckpoint.tokenize

    def slowly(*arguments: Any) -> Any:
        goes_on.wait()
        return tokenize(*arguments)

    async def scene(theatre: Theatre) -> None:
        first = await theatre.order("b")
        worker = await theatre.worker("b")
        monkeypatch.setattr(ServedCheckpoint, "tokenize", slowly)
        asking = asyncio.create_task(theatre.pool.submit(order_of("a cat " * 100, model="b", truncate=True)))
        await asyncio.sleep(0)
        worker.say(StartFailed("the weights are damaged"))
        await fails(first, ModelFailed)
        goes_on.set()
        with pytest.raises(ModelFailed):
            await asking

    stage(scene, TWO)
