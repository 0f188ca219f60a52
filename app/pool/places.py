"""The places of the queue: who has them, and whether an order gets some. All models share one queue."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from app.pool.forecast import Work, seconds_for, seconds_until_done, slots_a_second
from app.pool.job import Job, Order, late
from app.pool.lane import Lane
from app.settings import Settings
from model.errors import DalleError, Overloaded

SURE = 1.5  # a request is refused if its forecast is longer than this many times its time, since forecasts err


class Places:
    """The places of the queue, one for each picture that is not painted. Background jobs take none.

    lanes: the models by name. jobs: those in flight, in the order of their acceptance.
    named: tells the model that a request calls so.
    """

    def __init__(
        self, settings: Settings, lanes: Mapping[str, Lane], jobs: Mapping[str, Job], named: Callable[[str | None], str]
    ) -> None:
        self._settings = settings
        self._lanes = lanes
        self._jobs = jobs
        self._named = named
        self._reserved: list[tuple[Order, Lane]] = []  # for orders that are not jobs yet

    @contextlib.contextmanager
    def hold(self, order: Order, lane: Lane) -> Iterator[None]:
        """Keep the order's places while the context lasts. Raises Overloaded and DeadlineExceeded."""
        if order.request.background:  # whoever submits it sees to it that there are not too many
            yield
            return
        self._check(order, lane)
        self._reserved.append((order, lane))
        try:
            yield
        finally:
            self._reserved.remove((order, lane))

    @property
    def _foreground(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.background]

    def taken(self, client: str | None = None) -> int:
        """Places that are taken: by all clients, or by one."""
        accepted = sum(job.unpainted for job in self._foreground if client in (None, job.order.client))
        reserved = (order for order, _ in self._reserved if client in (None, order.client))
        return accepted + sum(order.request.num_images for order in reserved)

    def _by_model(self, order: Order) -> Counter[str]:
        """Places that are taken before this order: in all pools, if a front counts them."""
        taken = Counter(dict.fromkeys(self._lanes, 0))
        if order.elsewhere is not None:
            for name, pictures in order.elsewhere.models.items():
                with contextlib.suppress(DalleError):  # a model that is not served takes no place
                    taken[self._named(name or None)] += pictures
            return taken
        for job in self._foreground:
            taken[job.order.model] += job.unpainted
        for reserved, its in self._reserved:
            taken[its.name] += reserved.request.num_images
        return taken

    def _kept_for_others(self, lane: Lane, taken: Mapping[str, int]) -> int:
        """Free places that are kept for other models. Each has an equal share of half the queue."""
        if len(self._lanes) == 1:
            return 0
        share = self._settings.queue // (2 * len(self._lanes))
        return sum(max(0, share - pictures) for name, pictures in taken.items() if name != lane.name)

    def _check(self, order: Order, lane: Lane) -> None:
        if order.deadline is not None and time.monotonic() >= order.deadline:
            raise late(order.seconds)
        taken = self._by_model(order)
        ahead, kept = taken.total(), self._kept_for_others(lane, taken)
        if ahead + kept + order.request.num_images > self._settings.queue:
            reason = f", {kept} places are kept for other models" if kept else ""
            limit = self._settings.queue
            message = f"the queue is full: {ahead} pictures are waiting or being painted{reason}, and it takes {limit}"
            raise Overloaded(message, self._seconds(ahead, order))
        share = self._settings.client_queue
        own = self.taken(order.client) if order.elsewhere is None else order.elsewhere.own
        if share and order.client and own + order.request.num_images > share:
            counts = f"{own} pictures are waiting or being painted, and it takes {share}"
            message = f"your share of the queue is full: {counts}"
            raise Overloaded(message, self._seconds(own, order), per_client=True)
        others: list[Work] = [job for job in self._foreground if job.order.model == lane.name]
        others += [reserved for reserved, its in self._reserved if its is lane]
        if order.deadline is not None and others:  # a request that is alone is always tried
            given = order.deadline - time.monotonic()
            needed = seconds_until_done([*others, order], order, lane.workers) or 0.0
            if needed > SURE * given:
                message = f"with those before it the request would take about {needed:.3g} s, and it has {given:.3g} s"
                raise Overloaded(message, needed - given)

    def _seconds(self, pictures: int, order: Order) -> float:
        """Seconds until so many pictures are painted, at the measured pace: that of all pools, if a front knows it."""
        slots = sum(job.slots for job in self._foreground)
        unpainted = sum(job.unpainted for job in self._foreground)
        pace = order.elsewhere.pace if order.elsewhere is not None else 0.0
        return seconds_for(pictures, slots / unpainted if unpainted else order.slots_per_image, pace or self.pace())

    def pace(self) -> float:
        """The measured pace of all workers, see `slots_a_second`."""
        return slots_a_second(worker for lane in self._lanes.values() for worker in lane.workers)
