"""Rows of the store: jobs, pictures and messages. And the rule that says how long they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa


class State(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


OPEN = (State.QUEUED, State.RUNNING)
TOLD = (State.COMPLETED, State.FAILED, State.EXPIRED)  # a webhook is told of these ends


@dataclass(frozen=True)
class StoredJob:
    """A row of the table of jobs. See `app.jobs.tables`."""

    id: str
    owner: str
    state: State
    model: str
    asked: Mapping[str, Any]
    total: int
    done: int
    created: float
    started: float | None
    ended: float | None
    error: Mapping[str, Any] | None
    image: str | None
    key: str | None
    hook: Mapping[str, Any] | None
    server: str | None
    lease: float | None
    client: str
    until: float | None

    @property
    def open(self) -> bool:
        """Whether it is not ended."""
        return self.state in OPEN

    @classmethod
    def of(cls, row: sa.Row[Any]) -> StoredJob:
        """The job of a row."""
        values = row._asdict()
        return cls(**{**values, "state": State(values["state"])})


@dataclass(frozen=True)
class StoredPicture:
    """A row of the table of pictures. See `app.jobs.tables`."""

    name: str
    job: str | None
    number: int
    order: int
    owner: str
    bytes: int
    told: Mapping[str, Any]
    created: float
    fetched: float | None

    @classmethod
    def of(cls, row: sa.Row[Any]) -> StoredPicture:
        """The picture of a row."""
        return cls(**row._asdict())


@dataclass(frozen=True)
class Place:
    """An open job's place in the queue, in pictures that have their turn. before: its first one. all: its last one is
    painted, with it."""

    before: int
    all: int


@dataclass(frozen=True)
class Message:
    """A message to a webhook that is due. tries: how often it was tried before. See `app.jobs.tables`."""

    id: str
    job: StoredJob
    created: float
    tries: int


@dataclass(frozen=True)
class Retention:
    """What is kept. seconds: of an ended job and its pictures. pictures, bytes: at most so many in the store.

    Beyond the number or the bytes, pictures go that were fetched, the oldest first; then those that never were. By age,
    a picture that nobody has fetched is kept twice as long.
    """

    seconds: float = 7 * 86_400.0
    pictures: int = 100_000
    bytes: int = 20 << 30
