"""What all replicas together are: their metrics as those of one server, whether any can paint, and who paints next."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

# Of these every replica tells the same, or the worst one counts. All others are added up.
GREATEST = frozenset(
    {"dalle_server_info", "dalle_model_loaded", "dalle_pictures_limit", "dalle_draining", "dalle_heartbeat_age_seconds"}
)
GROWING = ("counter", "histogram")
DRAINING = ("dalle_draining", "dalle_draining", ())
LOADING = 16  # pictures that a replica paints in the time in which it loads a model, roughly
REMEMBERED = 16  # replicas that are gone; one whose network failed for a while comes back
Key = tuple[str, str, tuple[tuple[str, str], ...]]  # the metric, its sample, the sample's labels


@dataclass(frozen=True)
class Report:
    """What a replica tells of itself.

    metrics: the text of its /metrics. not_ready: why it cannot paint, or None. models: the names by which requests may
    call the models in its memory; "" for the default one. pace: see `app.pool.forecast.slots_a_second`. hangups: which
    reading of the API keys it has.
    """

    replica: str
    metrics: str
    not_ready: str | None
    models: frozenset[str] = frozenset({""})
    pace: float = 0.0
    hangups: int = 0


class Whole:
    """ask: asks every replica for its report. It raises TimeoutError. draining: whether the whole is shutting down."""

    def __init__(self, ask: Callable[[], Awaitable[Sequence[Report]]]) -> None:
        self.draining = False
        self._ask = ask
        self._asking = asyncio.Lock()  # so that the last report counts
        self._failed = 0.0  # when one did not answer in time
        self._there: dict[str, Report] = {}  # by replica: what it told last
        self._lost: set[str] = set()  # those of them that have died since
        self._gone: dict[str, dict[Key, float]] = {}  # by replica that is gone: what it had counted; "" for older ones
        self._kinds: dict[str, Metric] = {}

    async def reports(self) -> Sequence[Report]:
        """What the replicas tell now. If one of them does not answer in time, what all told last."""
        came = time.monotonic()
        async with self._asking:
            if self._failed > came:  # while this caller waited
                return [*self._there.values()]
            try:
                found = {report.replica: report for report in await self._ask()}
            except TimeoutError:
                self._failed = time.monotonic()
                return [*self._there.values()]
            for name in self._there.keys() - found.keys():
                self._gone[name] = _growing(self._read(self._there[name].metrics), self._kinds)
            for name in found:
                self._gone.pop(name, None)
            while len(self._gone) > REMEMBERED:
                oldest = next(filter(None, self._gone))
                _add(self._gone.setdefault("", {}), self._gone.pop(oldest))
            self._there, self._lost = found, set()
            return [*found.values()]

    @property
    def pace(self) -> float:
        """Slots of all replicas that finish a picture in a second, as measured; 0.0 while it is not known."""
        return sum(report.pace for report in self._there.values())

    def lose(self, replica: str) -> None:
        """This replica has died. It is not chosen any more."""
        self._lost.add(replica)

    def choose(self, model: str, pictures: int, key: str, taken: Mapping[str, int]) -> str:
        """The replica that should paint a request: the one that will be done first. "" if none is known.

        model: as the request writes it. key: requests with the same one go to the same replica, as long as it lives;
        "" for none. taken: how many pictures each replica has to paint.
        """
        alive = [report for name, report in self._there.items() if name not in self._lost]
        if key and alive:  # rendezvous hashing
            return max(alive, key=lambda one: hashlib.sha256(f"{key} {one.replica}".encode()).digest()).replica

        def seconds(one: Report) -> float:
            loading = LOADING * (model not in one.models)
            return (taken.get(one.replica, 0) + pictures + loading) / (one.pace or 1.0)

        ready = [one for one in alive if one.not_ready is None] or alive
        return min(((seconds(one), random.random(), one.replica) for one in ready), default=(0.0, 0.0, ""))[2]

    async def metrics(self) -> bytes | None:
        """The metrics of all replicas. None if none answers.

        Counters never go back: those of a replica that died stay as they were told last, without what it had begun.
        """
        total: dict[Key, float] = {}
        for report in await self.reports():
            for key, value in self._read(report.metrics).items():
                total[key] = max(total.get(key, value), value) if key[0] in GREATEST else total.get(key, 0.0) + value
        if not total:
            return None
        for counted in self._gone.values():
            _add(total, counted)
        if self.draining:
            total[DRAINING] = 1.0
        registry = CollectorRegistry()
        registry.register(_Told(total, self._kinds))
        return generate_latest(registry)

    def _read(self, text: str) -> dict[Key, float]:
        found = {}
        for family in text_string_to_metric_families(text):
            self._kinds[family.name] = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                found[family.name, sample.name, tuple(sorted(sample.labels.items()))] = float(sample.value)
        return found


def _add(total: dict[Key, float], more: Mapping[Key, float]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0.0) + value


def _growing(own: dict[Key, float], kinds: dict[str, Metric]) -> dict[Key, float]:
    """What is left of a replica's metrics if it dies now: a request that it had accepted is accepted by another one."""
    kept = {key: value for key, value in own.items() if kinds[key[0]].type in GROWING}
    accepted = ("dalle_requests_accepted", "dalle_requests_accepted_total", ())
    if accepted in kept:
        kept[accepted] -= own.get(("dalle_requests_in_flight", "dalle_requests_in_flight", ()), 0.0)
    return kept


class _Told(Collector):
    """Samples as metrics."""

    def __init__(self, samples: dict[Key, float], kinds: dict[str, Metric]) -> None:
        self._samples = samples
        self._kinds = kinds

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for (name, sample, labels), value in self._samples.items():
            kind = self._kinds[name]
            family = families.setdefault(name, Metric(name, kind.documentation, kind.type))
            family.add_sample(sample, dict(labels), value)
        yield from families.values()
