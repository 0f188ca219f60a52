"""What the routes share, as a dependency of FastAPI.

async def route(service: Shared) -> Response: ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated
from weakref import WeakKeyDictionary

from fastapi import Depends, Request

from app.checkpoint import ServedCheckpoint
from app.http.album import Album
from app.http.budget import Budget
from app.http.idempotency import Idempotency
from app.http.metrics import Metrics
from app.http.telemetry import Telemetry
from app.pictures.decoders import Decoders
from app.pictures.encode import Threads
from app.pool.job import Job
from app.pool.worker_pool import WorkerPool
from app.settings import Settings

if TYPE_CHECKING:
    from app.http.jobs import Desks


@dataclass(frozen=True)
class Service:
    """What the routes share.

    threads: encode pictures. decoders: decode pictures that clients send. repeated: requests that may come again.
    budget: bounds the bytes of answers. desks: opens the store of jobs. telemetry: traces and metrics for
    OpenTelemetry. albums: the files of each job.
    """

    settings: Settings
    pool: WorkerPool
    metrics: Metrics
    threads: Threads
    decoders: Decoders
    repeated: Idempotency
    budget: Budget
    desks: Desks
    telemetry: Telemetry
    albums: WeakKeyDictionary[Job, Album] = field(default_factory=WeakKeyDictionary)

    def checkpoint(self, model: str | None) -> ServedCheckpoint:
        """The checkpoint of the model that a request calls `model`. None, or "", is the default one.

        Raises NoSuchModel and ModelFailed.
        """
        models = self.pool.models
        return models.served[models.named(model or None)]

    def album(self, job: Job) -> Album:
        """The album of this job. All requests that read the job share it."""
        return self.albums.setdefault(job, Album())


async def of_application(request: Request) -> Service:
    """The service of the application that handles the request."""
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(of_application)]
