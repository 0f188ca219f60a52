"""The application over Ray Serve: `dalle-server serve --ray`, or `serve run app.ray:app` on a cluster that runs.

Ray starts replicas as requests come, gives each a GPU or some cores, and replaces those that die. Every replica is the
whole application. A front before them has a request painted again if its replica dies.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app import logs
from app.http.keys import Hook, reloader
from app.http.listener import bind
from app.load_settings import load_settings
from app.models import Models
from app.replicas.front import Front, Message
from app.replicas.replica import Replica
from app.replicas.whole import Report
from app.settings import Settings, SettingsError
from app.signals import Signals
from model.errors import DalleError
from model.inference.cores import usable_cores

FLUSH_SECONDS = 5.0  # for a replica's last answers, after the drain
REPORT_SECONDS = 5.0  # in which every replica says how it is
LEAST = 1  # replicas that run while nobody asks
CALM_SECONDS = 60.0  # until a replica that has too little to do ends
ENVIRONMENT = {  # of Ray's processes
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would report to its makers
    "RAY_DEDUP_LOGS": "0",  # it would leave out lines of the log that are alike
    "RAY_COLOR_PREFIX": "0",
    "FORWARDED_ALLOW_IPS": "",  # its proxy would let clients choose their address; `app.http.proxies` reads them
}
QUIET = {"enable_access_log": False}  # the application logs its requests itself
log = logging.getLogger("dalle.ray")


class RayReplica(Replica):
    """A replica as Ray Serve makes it and ends it: it awaits both methods."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        from ray import serve

        logs.configure(settings.log, settings.log_level)
        super().__init__(settings, serve.get_replica_context().replica_id.unique_id)
        await self.start()

    async def __del__(self) -> None:
        await self.stop()


class RayFront:
    """The front as Ray Serve makes it. replicas: Ray's handle of them."""

    def __init__(self, settings: Settings, replicas: Any) -> None:
        logs.configure(settings.log, settings.log_level)
        self._front = Front(Handle(replicas), settings)

    def __serve_build_asgi_app__(self) -> Front:
        return self._front

    async def drain(self, seconds: float) -> None:
        """See `Front`."""
        await self._front.drain(seconds)

    async def let_in(self, keys: Mapping[str, Hook | None]) -> None:
        """See `Front`."""
        await self._front.let_in(keys)


class Replicas(BaseModel):
    """How many replicas there are. `serve run app.ray:app least=2` sets a field, and so does `args` in a manifest.

    most: None for as many as the cluster has GPUs, or cores, when the application starts.
    """

    model_config = ConfigDict(extra="forbid")

    least: Annotated[int, Field(ge=1)] = Field(default_factory=lambda: LEAST)
    most: Annotated[int, Field(ge=1)] | None = None


def app(args: dict[str, Any]) -> Any:
    """The Ray Serve application, with the settings of this environment. args: fields of `Replicas`."""
    import ray

    if not ray.is_initialized():  # `serve run` would connect later
        ray.init()
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
        max_ongoing_requests=4 * settings.queue,  # a replica itself refuses what is too much
        autoscaling_config={
            "min_replicas": replicas.least,
            "max_replicas": max(most, replicas.least),
            "target_ongoing_requests": max(settings.slots // 2, 1),  # a picture with guidance takes two slots
            "downscale_delay_s": CALM_SECONDS,
        },
        graceful_shutdown_timeout_s=settings.drain + FLUSH_SECONDS,
        request_router_config=RequestRouterConfig(request_router_class="app.replicas.router.ChosenRouter"),
        health_check_period_s=2,
        logging_config=QUIET,
    )(RayReplica)
    front = serve.deployment(
        name="Front",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=10_000,
        logging_config=QUIET,
        graceful_shutdown_timeout_s=settings.drain + FLUSH_SECONDS,
    )(serve.ingress()(RayFront))
    return front.bind(settings, painting.bind(settings))


class Handle:
    """The replicas, for the front: what `app.replicas.front.Replicas` asks for."""

    def __init__(self, replicas: Any) -> None:
        self._replicas = replicas

    async def call(self, scope: dict[str, Any], body: bytes, replica: str) -> AsyncIterator[Message]:
        """See `app.replicas.front.Replicas`."""
        answering = self._replicas.options(stream=True, session_id=replica).answer.remote(scope, body)
        try:
            async for message in answering:
                if message["type"] == "http.response.start":  # Ray's proxy adds the same id
                    message["headers"] = [one for one in message["headers"] if one[0] != b"x-request-id"]
                yield message
        finally:
            answering.cancel()

    async def reports(self) -> Sequence[Report]:
        """See `app.replicas.front.Replicas`."""
        return [one for one in await self._tell("report") if isinstance(one, Report)]

    async def drain(self, seconds: float) -> None:
        """See `app.replicas.front.Replicas`."""
        await self._tell("drain", seconds)

    async def let_in(self, hangups: int, keys: Mapping[str, Hook | None]) -> None:
        """See `app.replicas.front.Replicas`."""
        await self._tell("let_in", hangups, keys)

    async def _tell(self, method: str, *arguments: Any) -> list[Any]:
        """What all replicas answer, or why one does not; nothing if none runs. Raises TimeoutError."""
        from ray.serve.exceptions import DeploymentUnavailableError

        answers = self._replicas.broadcast(method, *arguments)
        try:
            found: list[Any] = await answers.results_async(timeout_s=REPORT_SECONDS, return_exceptions=True)
        except DeploymentUnavailableError:
            return []
        return found

    def lost(self, error: Exception) -> bool:
        """Whether a replica that raised this is gone, or none is there."""
        from ray.exceptions import ActorUnavailableError, RayActorError, WorkerCrashedError
        from ray.serve.exceptions import DeploymentUnavailableError

        return isinstance(
            error, RayActorError | ActorUnavailableError | WorkerCrashedError | DeploymentUnavailableError
        )


def serve_by_ray(settings: Settings, replicas: Replicas | None = None) -> None:
    """Serve until SIGTERM or SIGINT, on the cluster of RAY_ADDRESS, or on one of this process.

    Raises SettingsError without Ray, CheckpointError, ServerFailed if the address is taken, and DalleError if the
    replicas cannot be started.
    """
    logs.configure(settings.log, settings.log_level)
    if importlib.util.find_spec("ray") is None:
        raise SettingsError('--ray needs .venv/bin/pip install -e ".[ray]"')
    if settings.port == 0:
        raise SettingsError("port must be from 1 to 65535 with --ray, got 0")
    Models.read(settings)  # what cannot be served is told at once, and in one line
    bind(settings.host, settings.port).close()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import serve

    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to Ray's processes, too, which must live on
    ray.init(include_dashboard=False, configure_logging=False, log_to_driver=True)
    for number, handler in before.items():
        signal.signal(number, handler)
    try:
        serve.start(http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None})
        front = serve.run(application(settings, replicas or Replicas()), route_prefix="/")
        log.info("listening on http://%s:%d, by Ray Serve", settings.host, settings.port)
        asyncio.run(_until_drained(settings, front))
        serve.shutdown()
    except RuntimeError as error:
        raise DalleError(_last_words() or f"Ray Serve could not start: {str(error).splitlines()[0]}") from None
    finally:
        ray.shutdown()


def _last_words() -> str:
    """The error of a replica that could not be started, in one line. "" if there is none."""
    from ray import serve

    said = [one.message for app in serve.status().applications.values() for one in app.deployments.values()]
    tracebacks = [message.strip().splitlines() for message in said if "Traceback" in message]
    return tracebacks[0][-1].partition(": ")[2] if tracebacks else ""


async def _until_drained(settings: Settings, front: Any) -> None:
    """Handle signals until one has made the whole drain; see `app.server`."""

    async def let_in(keys: Mapping[str, Hook | None]) -> None:
        await front.let_in.remote(keys)

    ended = asyncio.Event()

    async def drain(seconds: float) -> None:
        try:
            await front.drain.remote(seconds)
        except Exception as error:
            log.error("the front could not drain: %s", type(error).__name__)
        ended.set()

    with Signals(drain, settings.drain, reloader(settings, let_in)).handled():
        await ended.wait()
