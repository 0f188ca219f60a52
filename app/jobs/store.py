"""The store of jobs and pictures: a database for what is known of them, and a folder for the files.

    store = Store("sqlite:////var/lib/dalle/jobs.sqlite3", Folder("/var/lib/dalle/pictures"))
    job = store.accept(Asked(...), owner="")
    store.claim(30, models=[""])                       # the oldest job that no living server paints
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
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.folder import Folder
from app.jobs.rows import OPEN, TOLD, Message, Place, Retention, State, StoredJob, StoredPicture
from app.jobs.tables import JOBS, MESSAGES, PICTURES

LISTED = 1 << 20  # characters of the texts of listed jobs, beyond which a list ends
BATCH = 500  # pictures that are removed at a time
FAR = 30 * 86_400.0  # seconds; a message that is due later was written by a clock that went wrong,
LONG = 3600.0  # and so was a lease that ends later
LATE = {"message": "its time has passed"}


class Store:
    """See the module. Safe to use from several threads. server: the name of this server among those that share it."""

    def __init__(self, url: str, folder: Folder) -> None:
        """Open the database. Raises DalleError if it cannot be used."""
        self.folder = folder
        self._database = Database(url)
        self._transaction = self._database.transaction
        self._reading = self._database.reading
        self.secret = self._database.secret
        self.server = self._database.server
        self._names = self.secret("names")

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

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
        client: str | None = None,
        until: float | None = None,
    ) -> StoredJob:
        """Write down a new job, queued. Raises StoreFull.

        image: the picture that it paints on. key: if a job has it already, that job is returned, and no new one is
        made. client: its owner if None.
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
        row |= {"total": total, "done": 0, "created": now, "client": owner if client is None else client}
        row |= {"image": image and job_id, "hook": hook and dict(hook), "key": key, "until": until}
        kept = False
        try:
            with self._transaction() as connection:
                same = None
                if key is not None:
                    self._database.lock(connection, 1)
                    same = connection.scalar(sa.select(JOBS.c.id).where(JOBS.c.key == key))
                if same is None:
                    connection.execute(JOBS.insert().values(**row))
                job = self._find(connection, same or job_id)
            kept = same is None
        finally:
            if image is not None and not kept:
                self.folder.remove(job_id)
        return job

    def keyed(self, key: str) -> bool:
        """Whether a job has this key."""
        with self._reading() as connection:
            return connection.scalar(sa.select(JOBS.c.id).where(JOBS.c.key == key)) is not None

    def job(self, job_id: str) -> StoredJob | None:
        """The job with this id."""
        with self._reading() as connection:
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).one_or_none()
            return None if row is None else StoredJob.of(row)

    def jobs(self, owner: str, limit: int, before: tuple[float, str] | None = None) -> tuple[list[StoredJob], bool]:
        """The owner's jobs, the newest first, and whether there are more.

        limit: jobs at most. There are fewer if their texts have LISTED characters together. before: when a job was
        created, and its id. It and its successors are left out, also if it is no longer there.
        """
        chosen = sa.select(JOBS).where(JOBS.c.owner == owner)
        if before is not None:
            chosen = chosen.where(sa.tuple_(JOBS.c.created, JOBS.c.id) < sa.tuple_(*before))
        with self._reading() as connection:
            ordered = chosen.order_by(JOBS.c.created.desc(), JOBS.c.id.desc()).limit(limit + 1)
            found: list[StoredJob] = []
            characters = 0
            for row in connection.execute(ordered):
                if len(found) == limit or characters >= LISTED:
                    return found, True
                found.append(StoredJob.of(row))
                characters += sum(map(len, found[-1].asked.get("prompts", ())))
            return found, False

    def waiting(self, client: str = "") -> tuple[int, int]:
        """How many pictures of open jobs are still to be painted: of all clients, and of this one."""
        left = JOBS.c.total - JOBS.c.done
        both = (sa.func.coalesce(sa.func.sum(one), 0) for one in (left, sa.case((JOBS.c.client == client, left))))
        with self._reading() as connection:
            everyone, own = connection.execute(sa.select(*both).where(JOBS.c.state.in_(OPEN))).one()
            return int(everyone), int(own)

    def places(self, job_ids: Collection[str]) -> dict[str, Place]:
        """The places in the queue of the open ones among these jobs.

        Clients take turns, and the jobs of one client follow each other. So before the last of `n` pictures of a client
        is painted, each other client has up to `n` pictures painted. Jobs that another server paints hold nobody up.
        """
        left, who = JOBS.c.total - JOBS.c.done, (JOBS.c.client, JOBS.c.server)
        older = sa.func.sum(left).over(partition_by=who, order_by=(JOBS.c.created, JOBS.c.id), rows=(None, -1))
        still = sa.select(JOBS.c.id, *who, left.label("left"), older.label("older")).where(JOBS.c.state.in_(OPEN))
        within = still.subquery()
        found: dict[str, Place] = {}
        with self._reading() as connection:
            sums = connection.execute(sa.select(*who, sa.func.sum(left)).where(JOBS.c.state.in_(OPEN)).group_by(*who))
            waiting = [(client, server, int(count)) for client, server, count in sums]
            for row in connection.execute(sa.select(within).where(within.c.id.in_(job_ids))):
                of_others: dict[str, int] = defaultdict(int)
                before = int(row.older or 0)
                for client, server, count in waiting:
                    if client != row.client and (row.server is None or server in (None, row.server)):
                        of_others[client] += count
                    elif client == row.client and row.server is None and server is not None:
                        before += count
                ends = (before, before + row.left)
                found[row.id] = Place(*(end + sum(min(count, end) for count in of_others.values()) for end in ends))
        return found

    def open(self, job_ids: Collection[str]) -> set[str]:
        """Which of these jobs this server still has to paint: others were cancelled, or taken by another server."""
        mine = sa.and_(JOBS.c.id.in_(job_ids), JOBS.c.state.in_(OPEN), JOBS.c.server == self.server)
        with self._reading() as connection:
            return set(connection.scalars(sa.select(JOBS.c.id).where(mine)))

    def claim(
        self, seconds: float, models: Collection[str], painted: Collection[str] = (), besides: Collection[str] = ()
    ) -> StoredJob | None:
        """Give this server the oldest job of these models that no living server paints, for so long.

        painted: jobs that this server paints already. besides: clients whose jobs are not wanted.
        """
        now = self._database.now()
        free = sa.or_(JOBS.c.server.is_(None), JOBS.c.server == self.server)
        wanted = (JOBS.c.model.in_(models), JOBS.c.id.not_in(painted), JOBS.c.client.not_in(besides))
        oldest = sa.select(JOBS.c.id).where(JOBS.c.state.in_(OPEN), free, *wanted).order_by(JOBS.c.created)
        with self._transaction() as connection:
            self._expire(connection)
            self._take_back(connection)
            job_id = connection.scalar(oldest.limit(1).with_for_update(skip_locked=True))
            if job_id is None:
                return None
            started = sa.func.coalesce(JOBS.c.started, time.time())
            values = {"state": State.RUNNING, "server": self.server, "lease": now + seconds, "started": started}
            connection.execute(JOBS.update().where(JOBS.c.id == job_id).values(**values))
            return self._find(connection, job_id)

    def _take_back(self, connection: sa.Connection) -> None:
        """Put the jobs of servers that have died back into the queue, also those of models that are not served here."""
        now, alive = self._database.now(), self._database.alive
        held = sa.and_(JOBS.c.state.in_(OPEN), JOBS.c.server != self.server)
        if alive is None:  # nothing else tells whether a server has died
            late = sa.select(JOBS.c.id).where(held, ~JOBS.c.lease.between(now, now + LONG))
            lost = JOBS.c.id.in_(late.with_for_update(skip_locked=True))
        else:
            servers = connection.scalars(sa.select(JOBS.c.server).where(held).distinct()).all()
            lost = JOBS.c.server.in_([name for name in servers if alive.dead(name)])
        connection.execute(JOBS.update().where(lost).values(server=None, lease=None, state=State.QUEUED))

    def _expire(self, connection: sa.Connection) -> None:
        """End the jobs whose time has passed."""
        late = sa.select(JOBS.c.id).where(JOBS.c.state.in_(OPEN), JOBS.c.until <= time.time())
        for job_id in connection.scalars(late).all():
            self._end(connection, job_id, State.EXPIRED, LATE)

    def renew(self, job_ids: Collection[str], seconds: float) -> set[str]:
        """Let this server go on with these jobs for so long. Returns those that it has: others are ended, or taken."""
        mine = sa.and_(JOBS.c.id.in_(job_ids), JOBS.c.server == self.server, JOBS.c.state.in_(OPEN))
        with self._transaction() as connection:
            self._expire(connection)
            connection.execute(JOBS.update().where(mine).values(lease=self._database.now() + seconds))
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
            connection.execute(MESSAGES.insert().values(**message, created=job.ended, next=self._database.now()))
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
        try:
            with self._transaction() as connection:
                picture, job = self._keep(connection, name, job_id, number, owner, told, len(data))
        except BaseException:
            if job_id is None:  # a job's picture has the same name in each attempt, and another one may have kept it
                self.folder.remove(name)
            raise
        if picture.name != name:
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
        with self._reading() as connection:
            return [StoredPicture.of(row) for row in connection.execute(chosen.order_by(PICTURES.c.order))]

    def picture(self, name: str) -> StoredPicture | None:
        """The picture of this name."""
        with self._reading() as connection:
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

    def due(self, seconds: float, besides: Collection[str] = ()) -> Message | None:
        """The message that is due longest. For so many seconds it is not due again, so that two servers do not send it.

        besides: clients whose messages are not wanted.
        """
        now = self._database.now()
        ripe = ~MESSAGES.c.next.between(now, now + FAR)
        first = sa.select(MESSAGES).join(JOBS).where(ripe, JOBS.c.client.not_in(besides))
        first = first.order_by(MESSAGES.c.next).limit(1).with_for_update(skip_locked=True, of=MESSAGES)
        with self._transaction() as connection:
            row = connection.execute(first).one_or_none()
            if row is None:
                return None
            change = MESSAGES.update().where(MESSAGES.c.id == row.id)
            connection.execute(change.values(next=now + seconds, tries=MESSAGES.c.tries + 1))
            return Message(row.id, self._find(connection, row.job), row.created, row.tries)

    def postpone(self, message_id: str, seconds: float) -> None:
        """Try the message again after so many seconds."""
        with self._transaction() as connection:
            change = MESSAGES.update().where(MESSAGES.c.id == message_id)
            connection.execute(change.values(next=self._database.now() + seconds))

    def settle(self, message_id: str) -> None:
        """Forget a message: it was delivered, or is given up."""
        with self._transaction() as connection:
            connection.execute(MESSAGES.delete().where(MESSAGES.c.id == message_id))

    # --- what is kept

    def sweep(self, rule: Retention) -> int:
        """Remove what the rule does not keep: pictures, then ended jobs without any. Returns how many pictures went.

        A file goes before its row. So if the place of the files cannot be reached, nothing of it is forgotten.
        """
        swept = 0
        while gone := self._superfluous(rule):
            for name in gone:
                self.folder.remove(name)
            with self._transaction() as connection:
                connection.execute(PICTURES.delete().where(PICTURES.c.name.in_(gone)))
            swept += len(gone)
        empty = sa.select(JOBS.c.id, JOBS.c.image).where(
            JOBS.c.state.not_in(OPEN),
            JOBS.c.ended < time.time() - rule.seconds,
            ~sa.exists().where(PICTURES.c.job == JOBS.c.id),
            ~sa.exists().where(MESSAGES.c.job == JOBS.c.id),
        )
        with self._reading() as connection:
            jobs = connection.execute(empty.limit(BATCH)).all()
        for _, image in jobs:
            if image:
                self.folder.remove(image)
        with self._transaction() as connection:
            connection.execute(JOBS.delete().where(JOBS.c.id.in_([job_id for job_id, _ in jobs])))
        return swept

    def _superfluous(self, rule: Retention) -> list[str]:
        """The names of some pictures that the rule does not keep, in the order in which they go."""
        old = time.time() - rule.seconds
        late = sa.case((PICTURES.c.fetched.is_(None), old - rule.seconds), else_=old)
        ended = sa.or_(PICTURES.c.job.is_(None), JOBS.c.state.not_in(OPEN))
        joined = sa.outerjoin(PICTURES, JOBS, PICTURES.c.job == JOBS.c.id)
        since = sa.func.coalesce(JOBS.c.ended, PICTURES.c.created)  # a job may be painted for longer than it is kept
        too_old = (since < late).label("too_old")
        in_turn = sa.select(PICTURES.c.name, PICTURES.c.bytes, too_old).select_from(joined).where(ended)
        in_turn = in_turn.order_by(too_old.desc(), PICTURES.c.fetched.is_(None), PICTURES.c.created).limit(BATCH)
        gone = []
        with self._reading() as connection:
            count, size = connection.execute(sa.select(sa.func.count(), sa.func.sum(PICTURES.c.bytes))).one()
            for row in connection.execute(in_turn):
                if not row.too_old and count <= rule.pictures and size <= rule.bytes:
                    break
                gone.append(row.name)
                count, size = count - 1, size - row.bytes
        return gone
