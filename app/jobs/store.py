"""The store of jobs and pictures: a database for what is known of them, and a folder for the files.

    store = Store("sqlite:////var/lib/dalle/jobs.sqlite3", Folder("/var/lib/dalle/pictures"))
    job = store.accept(Asked(...), owner="")
    store.claim(time.time() + 30, models=[""])         # the oldest job that no living server paints
    store.keep(job.id, 0, told, png)                   # a picture, once
    store.end(job.id, State.FAILED, {"message": ...})

Every method is one transaction, so a kill at any moment leaves a whole state. They wait for the disk, so the event loop
calls them on threads. SQLite serves one machine; PostgreSQL several, which then share the folder, too.
"""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError

from app.jobs.alive import Alive
from app.jobs.folder import Folder, StoreAway, StoreFull
from app.jobs.rows import OPEN, TOLD, Message, Retention, State, StoredJob, StoredPicture
from app.jobs.tables import JOBS, MESSAGES, PICTURES, SECRETS
from model.errors import DalleError
from model.limits import one_line

LISTED = 1 << 20  # characters of the texts of listed jobs, beyond which a list ends
LOCK = 7203117  # of PostgreSQL: servers that start together migrate one after another


class Store:
    """See the module. Safe to use from several threads. server: the name of this server among those that share it."""

    def __init__(self, url: str, folder: Folder) -> None:
        """Open the database, and bring its tables up to date. Raises DalleError if it cannot be used."""
        self.folder = folder
        self.server = secrets.token_urlsafe(12)
        self._alive: Alive | None = None
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=True)
            if self._engine.dialect.name == "sqlite":
                _prepare_sqlite(self._engine)
            self._migrate()
            if self._engine.dialect.name == "sqlite" and self._engine.url.database:
                self._alive = Alive(Path(self._engine.url.database), self.server)
            self._names = self.secret("names")
        except (ArgumentError, NoSuchModuleError, ImportError, DatabaseError, StoreAway) as error:
            shown = sa.make_url(url).render_as_string() if not isinstance(error, ArgumentError) else "its address"
            raise DalleError(f"store: {shown} cannot be used: {str(error).splitlines()[0]}") from None

    def close(self) -> None:
        """Close the connections."""
        if self._alive is not None:
            self._alive.close()
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            if "full" in str(error.orig).lower() or "no space" in str(error.orig).lower():
                raise StoreFull(f"the store is full: {error.orig}") from None
            raise StoreAway("the database", one_line(error.orig)) from None

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "app.jobs:migrations")
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def secret(self, name: str) -> bytes:
        """A random secret of 32 bytes that all servers of this store share, made at the first call."""
        with self._transaction() as connection:
            if self._engine.dialect.name == "postgresql":  # servers that start together must not make two
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK + 2)))
            found = connection.scalar(sa.select(SECRETS.c.value).where(SECRETS.c.name == name))
            if found is None:
                found = secrets.token_bytes(32)
                connection.execute(SECRETS.insert().values(name=name, value=found))
            return bytes(found)

    # --- jobs

    def accept(
        self,
        asked: Mapping[str, Any],
        total: int,
        owner: str,
        model: str = "",
        image: bytes | None = None,
        hook: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> StoredJob:
        """Write down a new job, queued. image: the picture that it paints on. Raises StoreFull.

        key: if a job has it already, that job is returned, and no new one is made.
        """
        job_id, now = f"job_{secrets.token_urlsafe(16)}", time.time()
        if image is not None:
            self.folder.write(job_id, image)
        row: dict[str, Any] = {
            "id": job_id,
            "owner": owner,
            "state": State.QUEUED,
            "asked": dict(asked),
            "model": model,
        }
        row |= {"total": total, "done": 0, "created": now}
        row |= {"image": None if image is None else job_id, "hook": None if hook is None else dict(hook), "key": key}
        with self._transaction() as connection:
            if key is not None:
                if self._engine.dialect.name == "postgresql":  # SQLite has one writer
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK + 1)))
                same = connection.execute(sa.select(JOBS).where(JOBS.c.key == key)).one_or_none()
                if same is not None:
                    if image is not None:
                        self.folder.remove(job_id)
                    return StoredJob.of(same)
            connection.execute(JOBS.insert().values(**row))
            return self._find(connection, job_id)

    def job(self, job_id: str) -> StoredJob | None:
        """The job with this id."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).one_or_none()
            return None if row is None else StoredJob.of(row)

    def jobs(self, owner: str, limit: int, before: str | None = None) -> tuple[list[StoredJob], bool]:
        """The owner's jobs, the newest first, and whether there are more.

        limit: jobs at most. There are fewer if their texts have LISTED characters together. before: the id of a job,
        whose successors are left out, and itself.
        """
        chosen = sa.select(JOBS).where(JOBS.c.owner == owner)
        with self._transaction() as connection:
            if before is not None:
                at = connection.scalar(sa.select(JOBS.c.created).where(JOBS.c.id == before, JOBS.c.owner == owner))
                if at is None:
                    return [], False
                chosen = chosen.where(sa.tuple_(JOBS.c.created, JOBS.c.id) < sa.tuple_(at, before))
            ordered = chosen.order_by(JOBS.c.created.desc(), JOBS.c.id.desc()).limit(limit + 1)
            found: list[StoredJob] = []
            characters = 0
            for row in connection.execute(ordered):
                if len(found) == limit or characters >= LISTED:
                    return found, True
                found.append(StoredJob.of(row))
                characters += sum(map(len, found[-1].asked.get("prompts", ())))
            return found, False

    def waiting(self) -> int:
        """How many pictures of all open jobs are still to be painted."""
        left = sa.select(sa.func.coalesce(sa.func.sum(JOBS.c.total - JOBS.c.done), 0)).where(JOBS.c.state.in_(OPEN))
        with self._transaction() as connection:
            return int(connection.scalar(left) or 0)

    def ahead(self, job_ids: Collection[str]) -> dict[str, int]:
        """For each open job among these, how many pictures of older jobs are still to be painted."""
        before = sa.func.sum(JOBS.c.total - JOBS.c.done).over(order_by=(JOBS.c.created, JOBS.c.id), rows=(None, -1))
        waiting = sa.select(JOBS.c.id, before.label("before")).where(JOBS.c.state.in_(OPEN)).subquery()
        with self._transaction() as connection:
            rows = connection.execute(sa.select(waiting).where(waiting.c.id.in_(job_ids)))
            return {job_id: int(count or 0) for job_id, count in rows}

    def open(self, job_ids: Collection[str]) -> set[str]:
        """Which of these jobs this server still has to paint: others were cancelled, or taken by another server."""
        mine = sa.and_(JOBS.c.id.in_(job_ids), JOBS.c.state.in_(OPEN), JOBS.c.server == self.server)
        with self._transaction() as connection:
            return set(connection.scalars(sa.select(JOBS.c.id).where(mine)))

    def claim(self, until: float, models: Collection[str]) -> StoredJob | None:
        """Give this server the oldest job of these models that no living server paints, until then."""
        free = sa.or_(JOBS.c.server.is_(None), JOBS.c.lease < time.time())
        mine = JOBS.c.model.in_(models)
        oldest = sa.select(JOBS.c.id).where(JOBS.c.state.in_(OPEN), mine, free).order_by(JOBS.c.created).limit(1)
        with self._transaction() as connection:
            if self._alive is not None:
                held = sa.select(JOBS.c.server).where(JOBS.c.state.in_(OPEN), JOBS.c.server.is_not(None)).distinct()
                for name in connection.scalars(held).all():
                    if name != self.server and self._alive.dead(name):
                        connection.execute(JOBS.update().where(JOBS.c.server == name).values(server=None))
            job_id = connection.scalar(oldest.with_for_update(skip_locked=True))
            if job_id is None:
                return None
            started = sa.func.coalesce(JOBS.c.started, time.time())
            change = JOBS.update().where(JOBS.c.id == job_id)
            connection.execute(change.values(state=State.RUNNING, server=self.server, lease=until, started=started))
            return self._find(connection, job_id)

    def renew(self, job_ids: Collection[str], until: float) -> set[str]:
        """Let this server go on with these jobs until then. Returns those that it has: others are ended, or taken."""
        mine = sa.and_(JOBS.c.id.in_(job_ids), JOBS.c.server == self.server, JOBS.c.state.in_(OPEN))
        with self._transaction() as connection:
            connection.execute(JOBS.update().where(mine).values(lease=until))
            return set(connection.scalars(sa.select(JOBS.c.id).where(mine)))

    def release(self) -> None:
        """Give back this server's open jobs, so that another may go on at once."""
        mine = sa.and_(JOBS.c.server == self.server, JOBS.c.state.in_(OPEN))
        with self._transaction() as connection:
            connection.execute(JOBS.update().where(mine).values(server=None, lease=None, state=State.QUEUED))

    def end(self, job_id: str, state: State, error: Mapping[str, Any] | None = None) -> StoredJob | None:
        """End an open job. Returns it; None if it had ended before, or is not there."""
        with self._transaction() as connection:
            return self._end(connection, job_id, state, error)

    def _end(
        self, connection: sa.Connection, job_id: str, state: State, error: Mapping[str, Any] | None
    ) -> StoredJob | None:
        change = JOBS.update().where(JOBS.c.id == job_id, JOBS.c.state.in_(OPEN))
        values = {"state": state, "ended": time.time(), "server": None, "lease": None}
        if error is not None:
            values["error"] = dict(error)
        if not connection.execute(change.values(**values)).rowcount:
            return None
        job = self._find(connection, job_id)
        if job.hook is not None and state in TOLD:
            message = {"id": f"msg_{secrets.token_urlsafe(16)}", "job": job_id, "tries": 0}
            connection.execute(MESSAGES.insert().values(**message, created=job.ended, next=job.ended))
        return job

    def _find(self, connection: sa.Connection, job_id: str) -> StoredJob:
        return StoredJob.of(connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).one())

    # --- pictures

    def keep(
        self, job_id: str | None, number: int, owner: str, told: Mapping[str, Any], data: bytes, kind: str = "png"
    ) -> tuple[StoredPicture, StoredJob | None]:
        """Keep a picture: its file first, then its row. With its last picture the job is completed.

        kind: of the file, the end of its name. Returns it, and its job as it is now. A picture that is there already
        stays as it is, and so does a job that has ended, without this picture. Raises StoreFull.
        """
        name = f"{self._name(job_id, number)}.{kind}"
        self.folder.write(name, data)
        kept = False
        try:
            with self._transaction() as connection:
                picture, job = self._keep(connection, name, job_id, number, owner, told, len(data))
            kept = picture.name == name
        finally:
            if not kept:
                self.folder.remove(name)
        return picture, job

    def _name(self, job_id: str | None, number: int) -> str:
        """A name that cannot be guessed. A picture of a job always has the same one, so its file is there once."""
        if job_id is None:
            return secrets.token_urlsafe(24)
        digest = hmac.digest(self._names, f"{job_id}/{number}".encode(), "sha256")
        return urlsafe_b64encode(digest[:24]).decode()

    def _keep(
        self, connection: sa.Connection, name: str, job_id: str | None, number: int, owner: str,
        told: Mapping[str, Any], size: int,
    ) -> tuple[StoredPicture, StoredJob | None]:  # fmt: skip
        job, order = None, 1
        if job_id is not None:
            job = StoredJob.of(connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id).with_for_update()).one())
            same = sa.select(PICTURES).where(PICTURES.c.job == job_id, PICTURES.c.number == number)
            if (row := connection.execute(same).one_or_none()) is not None:
                return StoredPicture.of(row), job
            order = job.done + 1
        made: dict[str, Any] = {"name": name, "job": job_id, "number": number, "order": order, "owner": owner}
        made |= {"bytes": size, "told": dict(told), "created": time.time()}
        if job is not None and not job.open:
            return StoredPicture(**{**made, "name": "", "fetched": None}), job
        connection.execute(PICTURES.insert().values(**made))
        if job is not None:
            connection.execute(JOBS.update().where(JOBS.c.id == job_id).values(done=order))
            job = (
                self._end(connection, job.id, State.COMPLETED, None)
                if order == job.total
                else self._find(connection, job.id)
            )
        return StoredPicture(**made, fetched=None), job

    def pictures(self, job_id: str, after: int = 0) -> list[StoredPicture]:
        """The job's pictures in the order of painting, without the first `after`."""
        chosen = sa.select(PICTURES).where(PICTURES.c.job == job_id, PICTURES.c.order > after)
        with self._transaction() as connection:
            return [StoredPicture.of(row) for row in connection.execute(chosen.order_by(PICTURES.c.order))]

    def picture(self, name: str) -> StoredPicture | None:
        """The picture of this name."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(PICTURES).where(PICTURES.c.name == name)).one_or_none()
            return None if row is None else StoredPicture.of(row)

    def fetched(self, names: Sequence[str]) -> None:
        """Note that these pictures were fetched now."""
        with self._transaction() as connection:
            connection.execute(
                PICTURES.update()
                .where(PICTURES.c.name.in_(names), PICTURES.c.fetched.is_(None))
                .values(fetched=time.time())
            )

    # --- messages

    def due(self, until: float) -> Message | None:
        """The message that is due longest. It is not due again before `until`, so that two servers do not send it."""
        first = sa.select(MESSAGES).where(MESSAGES.c.next <= time.time()).order_by(MESSAGES.c.next).limit(1)
        with self._transaction() as connection:
            row = connection.execute(first.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            change = MESSAGES.update().where(MESSAGES.c.id == row.id)
            connection.execute(change.values(next=until, tries=MESSAGES.c.tries + 1))
            return Message(row.id, self._find(connection, row.job), row.created, row.tries)

    def postpone(self, message_id: str, until: float) -> None:
        """Try the message again then."""
        with self._transaction() as connection:
            connection.execute(MESSAGES.update().where(MESSAGES.c.id == message_id).values(next=until))

    def settle(self, message_id: str) -> None:
        """Forget a message: it was delivered, or is given up."""
        with self._transaction() as connection:
            connection.execute(MESSAGES.delete().where(MESSAGES.c.id == message_id))

    # --- what is kept

    def sweep(self, rule: Retention) -> int:
        """Remove what the rule does not keep: pictures, then ended jobs without any. Returns how many pictures went."""
        old = time.time() - rule.seconds
        late = sa.case((PICTURES.c.fetched.is_(None), old - rule.seconds), else_=old)
        ended = sa.or_(PICTURES.c.job.is_(None), JOBS.c.state.not_in(OPEN))
        joined = sa.outerjoin(PICTURES, JOBS, PICTURES.c.job == JOBS.c.id)
        may_go = sa.select(PICTURES.c.name, PICTURES.c.bytes).select_from(joined).where(ended)
        with self._transaction() as connection:
            gone = list(connection.scalars(may_go.where(PICTURES.c.created < late)))
            held = connection.execute(sa.select(sa.func.count(), sa.func.sum(PICTURES.c.bytes))).one()
            count, size = held[0] - len(gone), (held[1] or 0) - self._size(connection, gone)
            if count > rule.pictures or size > rule.bytes:
                in_turn = may_go.where(PICTURES.c.name.not_in(gone)).order_by(
                    PICTURES.c.fetched.is_(None), PICTURES.c.created
                )
                for name, length in connection.execute(in_turn):
                    if count <= rule.pictures and size <= rule.bytes:
                        break
                    gone.append(name)
                    count, size = count - 1, size - length
            for name in gone:
                connection.execute(PICTURES.delete().where(PICTURES.c.name == name))
            empty = sa.select(JOBS.c.id, JOBS.c.image).where(
                JOBS.c.state.not_in(OPEN),
                JOBS.c.ended < old,
                ~sa.exists().where(PICTURES.c.job == JOBS.c.id),
                ~sa.exists().where(MESSAGES.c.job == JOBS.c.id),
            )
            jobs = list(connection.execute(empty))
            for job_id, _ in jobs:
                connection.execute(JOBS.delete().where(JOBS.c.id == job_id))
        for name in [*gone, *(image for _, image in jobs if image)]:  # a file without a row is harmless
            self.folder.remove(name)
        return len(gone)

    def _size(self, connection: sa.Connection, names: Sequence[str]) -> int:
        return int(connection.scalar(sa.select(sa.func.sum(PICTURES.c.bytes)).where(PICTURES.c.name.in_(names))) or 0)


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Transactions that begin when they are told to, and hold the only writer's place (as SQLAlchemy's docs advise)."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
