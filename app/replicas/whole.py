"""What all replicas together are: their metrics as those of one server, and whether any of them can paint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
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
Key = tuple[str, str, tuple[tuple[str, str], ...]]  # the metric, its sample, the sample's labels


@dataclass(frozen=True)
class Report:
    """What a replica tells of itself. metrics: the text of its /metrics. not_ready: why it cannot paint, or None."""

    replica: str
    metrics: str
    not_ready: str | None


class Whole:
    """ask: asks every replica for its report. It raises TimeoutError."""

    def __init__(self, ask: Callable[[], Awaitable[Sequence[Report]]]) -> None:
        self._ask = ask
        self._seen: dict[str, dict[Key, float]] = {}  # by replica: what it told last, of what only grows
        self._gone: dict[Key, float] = {}  # the same of all replicas that are gone
        self._kinds: dict[str, Metric] = {}

    async def reports(self) -> Sequence[Report]:
        """The reports of the replicas that answer."""
        try:
            return await self._ask()
        except TimeoutError:
            return ()

    async def metrics(self) -> bytes | None:
        """The metrics of all replicas. None if they do not answer in time.

        Counters never go back: those of a replica that died stay as they were told last, without what it had begun.
        """
        reports = await self.reports()
        if not reports:
            return None
        total: dict[Key, float] = {}
        for report in reports:
            own = self._read(report.metrics)
            for key, value in own.items():
                total[key] = max(total.get(key, value), value) if key[0] in GREATEST else total.get(key, 0.0) + value
            self._seen[report.replica] = _growing(own, self._kinds)
        for name in self._seen.keys() - {report.replica for report in reports}:
            for key, value in self._seen.pop(name).items():
                self._gone[key] = self._gone.get(key, 0.0) + value
        for key, value in self._gone.items():
            total[key] = total.get(key, 0.0) + value
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
