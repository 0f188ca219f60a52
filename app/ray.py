"""The application over Ray Serve: `dalle-server serve --ray`, or `serve run app.ray:app` on a cluster that runs.

Ray starts replicas as requests come, gives each a GPU or some cores, and replaces those that die. Every replica is the
whole application. A front before them has a request painted again if its replica dies.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app import logs
from app.load_settings import load_settings
from app.models import Models
from app.replicas.front import Front, Message
from app.replicas.replica import Replica
from app.replicas.whole import Report
from app.settings import Settings, SettingsError
from model.errors import DalleError
from model.inference.cores import usable_cores

FLUSH_SECONDS = 5.0  # for a replica's last answers, after the drain
REPORT_SECONDS = 5.0  # in which every replica says how it is
LEAST = 1  # replicas that run while nobody asks
CALM_SECONDS = 60.0  # until a replica that has too little to do ends
log = logging.getLogger("dalle.ray")


class RayReplica(Replica):
    """A replica as Ray Serve makes it and ends it: it awaits both methods."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        logs.configure(settings.log, settings.log_level)
        super().__init__(settings)
        await self.start()

    async def __del__(self) -> None:
        await self.stop()

    async def serve_model(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Message]:
        """As `answer`. Ray is told which models this replica has painted lately, and prefers it for them."""
        from ray import serve

        if name := serve.get_multiplexed_model_id():
            await self._painted(name)
        async for message in self.answer(scope, body):
            yield message

    @cached_property
    def _painted(self) -> Any:
        from ray import serve

        async def load(name: str) -> str:
            return name  # the pool itself loads it, and puts it away

        return serve.multiplexed(load, max_num_models_per_replica=len(self.pool.models.served))


class Replicas(BaseModel):
    """How many replicas there are. `serve run app.ray:app least=2` sets a field, and so does `args` in a manifest.

    most: None for as many as the cluster has GPUs, or cores, when the application starts.
    """

    model_config = ConfigDict(extra="forbid")

    least: Annotated[int, Field(ge=1)] = Field(default_factory=lambda: LEAST)
    most: Annotated[int, Field(ge=1)] | None = None


def app(args: dict[str, Any]) -> Any:
    """The Ray Serve application, with the settings of this environment. args: fields of `Replicas`."""
    return application(load_settings(), Replicas.model_validate(args))


def application(settings: Settings, replicas: Replicas) -> Any:
    """The Ray Serve application of these settings, on the cluster that this process is connected to."""
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    there = ray.cluster_resources()
    cores = settings.threads or usable_cores()
    gpus = int(there.get("GPU", 0)) if settings.device != "cpu" else 0
    most = replicas.most or gpus or int(there.get("CPU", 1)) // cores
    if not gpus:
        settings = settings.model_copy(update={"threads": cores})
    painting = serve.deployment(
        name="Replica",
        ray_actor_options={"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": cores},
        max_ongoing_requests=4
        * settings.queue,  # a replica itself refuses what is too much, and says when to come back
        autoscaling_config={
            "min_replicas": replicas.least,
            "max_replicas": max(most, replicas.least),
            "target_ongoing_requests": max(settings.slots // 2, 1),  # a picture with guidance takes two slots
            "downscale_delay_s": CALM_SECONDS,
        },
        graceful_shutdown_timeout_s=settings.drain + FLUSH_SECONDS,
        request_router_config=RequestRouterConfig(request_router_class="app.replicas.router.KeyedRouter"),
        health_check_period_s=2,
    )(RayReplica)
    names = frozenset(Models.read(settings).served)

    def build() -> Front:
        return Front(Handle(names), settings)

    front = serve.deployment(name="Front", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=10_000)
    return front(serve.ingress(build)()).bind(painting.bind(settings))


class Handle:
    """The replicas, for the front. models: their names."""

    def __init__(self, models: Collection[str]) -> None:
        from ray import serve

        self._replicas = serve.get_deployment_handle("Replica")
        self._models = models if len(models) > 1 else ()

    async def call(self, scope: dict[str, Any], body: bytes, model: str, key: str) -> AsyncIterator[Message]:
        """See `app.replicas.front.Replicas`."""
        chosen = {"session_id": key} if key else {"multiplexed_model_id": model} if model in self._models else {}
        answering = self._replicas.options(stream=True, **chosen).serve_model.remote(scope, body)
        try:
            async for message in answering:
                if message["type"] == "http.response.start":  # Ray's proxy adds the same id
                    message["headers"] = [one for one in message["headers"] if one[0] != b"x-request-id"]
                yield message
        finally:
            answering.cancel()

    async def reports(self) -> Sequence[Report]:
        """See `app.replicas.front.Replicas`."""
        answers = self._replicas.broadcast("report")
        found = await answers.results_async(timeout_s=REPORT_SECONDS, return_exceptions=True)
        return [one for one in found if isinstance(one, Report)]

    def lost(self, error: Exception) -> bool:
        """Whether a replica that raised this is gone."""
        from ray.exceptions import ActorUnavailableError, RayActorError, WorkerCrashedError

        return isinstance(error, RayActorError | ActorUnavailableError | WorkerCrashedError)


def serve_by_ray(settings: Settings, replicas: Replicas | None = None) -> None:
    """Serve until SIGTERM or SIGINT, on the cluster of RAY_ADDRESS, or on one of this process.

    Raises SettingsError without Ray, and DalleError if the replicas cannot be started.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingsError('--ray needs pip install "dalle-server[ray]"')
    if settings.port == 0:
        raise SettingsError("port must be from 1 to 65535 with --ray, got 0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    import ray
    from ray import serve

    logs.configure(settings.log, settings.log_level)
    ended = threading.Event()
    ray.init(include_dashboard=False, configure_logging=False, log_to_driver=True)
    try:
        serve.start(http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None})
        serve.run(application(settings, replicas or Replicas()), route_prefix="/")
        log.info("listening on http://%s:%d, by Ray Serve", settings.host, settings.port)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
        serve.shutdown()
    except RuntimeError as error:
        raise DalleError(f"Ray Serve could not start: {str(error).splitlines()[0]}") from None
    finally:
        ray.shutdown()
