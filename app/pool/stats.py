"""The figures of the pool.

At every moment accepted = completed + failed + cancelled + expired + in flight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PoolStats:
    """Figures of the pool: some of one moment, some since its start."""

    accepted: int  # requests
    completed: int
    failed: int
    cancelled: int
    expired: int
    in_flight: int
    queued_requests: int  # accepted and not yet given to a worker
    pictures_in_flight: int  # accepted and not yet painted
    queue_limit: int  # pictures
    pictures: int  # painted since the start
    tokens: int  # image tokens drawn since the start
    tokens_per_second: float
    workers: int
    workers_ready: int
    worker_deaths: Mapping[str, int]  # by cause: crash, hang, killed, start
    models_loaded: Mapping[str, bool]  # by name
    slots: int  # of the workers that are ready
    slots_busy: int
    pace: float  # slots that finish a picture in a second, as measured
    heartbeat_age: float | None  # seconds since the oldest last step of a worker; None while none is ready
    draining: bool
