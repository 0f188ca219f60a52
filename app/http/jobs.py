"""Stands between the routes and the runner of jobs.

It turns requests into jobs, parts of jobs into orders, and jobs into answers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from app.http.errors import NoSuchJob, NotAuthorised
from app.http.job_schemas import JobAnswer, JobError, JobPicture, JobRequest
from app.http.orders import fit_keys, painting_on, plain_order, top_rows
from app.http.painting import Painting, Wanted, finish, tell
from app.http.schemas import Sampling
from app.http.service import Service
from app.jobs.calls import Calls
from app.jobs.faults import NoStore
from app.jobs.folder import Folder
from app.jobs.links import signed, valid
from app.jobs.notifier import Notifier
from app.jobs.parts import PART, Part
from app.jobs.rows import Place, Retention, StoredJob, StoredPicture
from app.jobs.runner import Runner
from app.jobs.store import Store
from app.jobs.threads import Threads
from app.jobs.webhooks import Sender
from app.pool.job import Job, Order
from app.settings import Settings
from app.wording import shorten
from model.errors import DalleError
from model.inference.events import Painted
from model.inference.requests import SamplingParams

DAY = 86_400.0
ID = re.compile(r"job_[A-Za-z0-9_-]{1,36}")
GRID = 32  # of a job that an older server has written down
DATABASE = "jobs.sqlite3"  # in the folder of the store


def open_store(settings: Settings) -> Store:
    """The store that the settings name. It is made if it is not there. Raises DalleError if it cannot be used."""
    home = settings.store_folder
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DalleError(f"store: {home} cannot be used: {error.strerror}") from None
    pictures = Folder(settings.store_pictures or str(home / "pictures"))
    return Store(settings.store_database or f"sqlite:///{home / DATABASE}", pictures)


def retention(settings: Settings) -> Retention:
    """How long jobs and pictures are kept, by the settings."""
    return Retention(settings.keep_days * DAY, settings.keep_pictures, settings.keep_bytes)


class Desk:
    """The jobs of a running server. calls: call the store. runner: paints jobs. secret: signs links.

    guarded: whether API keys are needed.
    """

    def __init__(self, service: Service, store: Store, guarded: bool) -> None:
        self.store = store
        self.keep = retention(service.settings)
        settings = service.settings
        self.calls = Calls()
        ahead = 2 * settings.slots * len(settings.devices)
        self.runner = Runner(store, self.calls, service.pool, self.keep, self._order, self._finish, ahead)
        self._sender = Sender(settings.private_webhooks)
        self._notifier = Notifier(store, self.calls, self._sender, self._message)
        self.guarded = guarded
        self.secret = store.secret("links")
        self._service = service

    def start(self) -> None:
        """Begin to paint, and to tell webhooks."""
        self.runner.start()
        self._notifying = asyncio.create_task(self._notifier.run())

    async def stop(self) -> None:
        """Paint no more jobs, and close the store."""
        self._notifying.cancel()
        await asyncio.wait([self._notifying])
        await self.runner.stop()
        await self._sender.close()
        await self.calls.close(self.store.close)

    @property
    def ending(self) -> bool:
        """Whether this server paints no more jobs."""
        return self._service.pool.ending

    def asked(self, request: JobRequest, texts: list[str], count: int, base: str) -> dict[str, Any]:
        """The normal form of a request, from which every part is painted. It has a seed."""
        fields = {name: getattr(request, name) for name in Sampling.model_fields}
        seed = SamplingParams.of(self._service.checkpoint(request.model).config.sampling, request.seed).seed
        return {
            "prompts": texts,
            "several": request.prompts is not None,
            "count": count,
            "fields": {**{name: value for name, value in fields.items() if value is not None}, "seed": seed},
            "keep_rows": request.keep_rows,
            "base": base,
            "trace": self._service.telemetry.here(),
        }

    def check(self, asked: dict[str, Any]) -> Order:
        """The order of the first part, as a proof that the job can be painted. Raises what `plain_order` raises.

        The model's name is written down, so that another default model is never taken for it.
        """
        sampling = Sampling(**asked["fields"])
        order = plain_order(self._service, sampling, asked["prompts"][0], min(asked["count"], PART))
        asked["fields"]["model"] = order.model
        asked["grid"] = self._service.checkpoint(order.model).config.vae.grid
        return order

    def _order(self, job: StoredJob, part: Part, image: bytes | None) -> Order:
        asked = job.asked
        fields = {**asked["fields"], "index": asked["fields"].get("index", 0) + part.first}
        order = plain_order(self._service, Sampling(**fields), asked["prompts"][part.prompt], part.count)
        order = dataclasses.replace(
            order,
            request=dataclasses.replace(order.request, background=True),
            client=job.client,
            request_id=job.id,
            trace=asked.get("trace", ""),
        )
        if image is None:
            return order
        grid = self._service.checkpoint(order.model).config.vae.grid
        return painting_on(order, image, top_rows(asked["keep_rows"], grid))

    async def _finish(self, job: Job, painted: Painted) -> tuple[bytes, Mapping[str, Any]]:
        told = tell(self._service, job, painted)
        file = await finish(self._service, job, painted, Wanted(embed_prompt=True))
        params = job.request.params
        values = {"text": told.text, "seed": params.seed, "index": painted.index, "style": told.style}
        values |= {"score": painted.score if job.request.score else None}
        return file.data, {**values, **fit_keys(job.judged)}

    async def _message(self, job: StoredJob) -> Mapping[str, Any]:
        """What a webhook is told: the job with its pictures, as GET tells it."""
        base = job.asked["base"]
        told = await self.answer(job, base, await self.calls.database(self.store.pictures, job.id))
        ended = datetime.fromtimestamp(job.ended or job.created, UTC)
        return {"type": f"job.{job.state}", "timestamp": ended.isoformat(), "data": told.model_dump(mode="json")}

    def url(self, base: str, name: str) -> str:
        """The address of a picture. base: the server's own, with a slash at the end."""
        return f"{base}pictures/{name}{signed(self.secret, name) if self.guarded else ''}"

    async def addresses(self, request: Request, painting: Painting, kind: str) -> list[str]:
        """Keep the pictures of a request, and tell their addresses. kind: of their files. Raises StoreFull."""
        found = []
        await self.calls.files(self.store.folder.check_room, sum(picture.size for picture in painting.pictures))
        for picture in painting.pictures:
            data = (await picture.file()).data
            told = {"text": picture.told.text, "index": picture.index}
            kept, _ = await self.calls.files(self.store.keep, None, picture.index, owner(request), told, data, kind)
            picture.let_go()
            found.append(self.url(base_of(request), kept.name))
        return found

    async def answer(self, job: StoredJob, base: str, pictures: list[StoredPicture] | None) -> JobAnswer:
        """What is told of a job. base: as in `url`. pictures: those that are told, None for none."""
        places = await self.calls.database(self.store.places, [job.id]) if job.open else {}
        return self._answer(job, base, pictures, places.get(job.id))

    async def answers(self, jobs: list[StoredJob], base: str) -> list[JobAnswer]:
        """What a list tells of jobs: all but their pictures."""
        places = await self.calls.database(self.store.places, [job.id for job in jobs if job.open])
        return [self._answer(job, base, None, places.get(job.id)) for job in jobs]

    def _answer(
        self, job: StoredJob, base: str, pictures: list[StoredPicture] | None, place: Place | None
    ) -> JobAnswer:
        asked, grid = job.asked, job.asked.get("grid", GRID)
        return JobAnswer(
            id=job.id,
            state=job.state,
            prompts=list(asked["prompts"]),
            created_at=job.created,
            started_at=job.started,
            ended_at=job.ended,
            expires_at=None if job.ended is None else job.ended + self.keep.seconds,
            pictures_total=job.total,
            pictures_done=job.done,
            rows_total=job.total * grid,
            rows_done=max(job.done * grid, self.runner.rows(job.id, grid) if job.open else 0),
            queue_position=0 if place is None else place.before,
            seconds_left=None if place is None else self._seconds_left(job, place.all),
            error=None if job.error is None else JobError.model_validate(job.error),
            pictures=None if pictures is None else [self.picture(job, one, base) for one in pictures],
        )

    def _seconds_left(self, job: StoredJob, pictures: int) -> float | None:
        """Seconds until so many pictures are painted, at the pace of the last ones, before them at that of the worker.

        None if this server does not have the job's model.
        """
        pool, pace = self._service.pool, self.runner.pace()
        if job.model not in pool.models.served:
            return None
        return round(pool.seconds_for(pictures, job.model) if pace is None else pictures * pace, 1)

    def picture(self, job: StoredJob, one: StoredPicture, base: str) -> JobPicture:
        """What is told of a picture."""
        url = self.url(base, one.name)
        return JobPicture(number=one.number, prompt=one.number // job.asked["count"], url=url, **one.told)

    async def find(self, request: Request, job_id: str) -> StoredJob:
        """The client's own job of this id. Raises NoSuchJob."""
        job = await self.calls.database(self.store.job, job_id) if ID.fullmatch(job_id) else None
        if job is None or job.owner != owner(request):
            raise NoSuchJob(f"there is no job {shorten(job_id)} of yours")
        return job

    def may_fetch(self, request: Request, picture: StoredPicture) -> bool:
        """Whether this request may have the picture: everybody's without API keys; else the owner's, or by its link.

        Raises NotAuthorised for a key that is not known.
        """
        if not self.guarded:
            return True
        query = request.query_params
        if valid(self.secret, picture.name, query.get("until", ""), query.get("signature", "")):
            return True
        try:
            return bool(request.app.state.keys.check(request.scope) == picture.owner)
        except NotAuthorised as error:
            if error.given:
                raise
            return False


def owner(request: Request) -> str:
    """The owner of the jobs that a request asks for: the hash of its API key, "" without keys."""
    return str(request.state.key)


def base_of(request: Request) -> str:
    """The server's own address, as this client calls it, with a slash at the end."""
    host, prefix = request.state.outside
    prefix = prefix or request.app.state.service.settings.root_path.rstrip("/")
    return f"{request.url.scheme}://{host or request.url.netloc}{prefix}/"


def key_of(request: Request, key: str | None) -> str | None:
    """The key of a request that may come twice: its owner and its Idempotency-Key, hashed. The store looks for it."""
    return None if key is None else hashlib.sha256(f"{owner(request)} {key}".encode()).hexdigest()


class Desks:
    """Opens the store once: at the start if there is one already, else when it is first needed."""

    def __init__(self, settings: Settings, guarded: bool) -> None:
        self._settings = settings
        self._guarded = guarded
        self._lock = asyncio.Lock()
        self._desk: Desk | None = None

    async def start(self, service: Service) -> None:
        """Go on with the jobs of a store that is there. Raises NoStore if the settings name one that cannot be used."""
        named = self._settings.store or self._settings.store_database
        if named or (self._settings.store_folder / DATABASE).exists():
            try:
                await self.open(service)
            except NoStore as error:
                if named:
                    raise
                error.tell()

    async def open(self, service: Service) -> Desk:
        """The desk. Raises NoStore if the store cannot be used."""
        async with self._lock:
            if self._desk is None:
                opening = Threads(1, "store")
                try:
                    self._desk = await asyncio.get_running_loop().run_in_executor(opening, self._opened, service)
                except DalleError as error:
                    what = "this server keeps no jobs and no pictures"
                    raise NoStore(f"{what} now", f"{what}: {error}") from None
                finally:
                    opening.shutdown(wait=False)
                self._desk.start()
            return self._desk

    def _opened(self, service: Service) -> Desk:
        return Desk(service, open_store(self._settings), self._guarded)

    async def close(self) -> None:
        """Paint no more jobs, and close the store."""
        if self._desk is not None:
            await self._desk.stop()
