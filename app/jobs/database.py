"""The database of the store: opens it, brings its tables up to date, and runs transactions.

SQLite serves one machine. PostgreSQL serves several, whose clocks differ, so times that servers compare are its own.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    ProgrammingError,
)

from app.jobs.alive import Alive
from app.jobs.faults import StoreFault, away, full
from app.jobs.tables import SECRETS
from model.errors import DalleError
from model.limits import one_line

DATABASE = "the database of jobs"
WRITER = 10.0  # seconds that a transaction waits for SQLite's only writer
WAITS = {"connect_timeout": 5, "tcp_user_timeout": 20_000}  # s, ms: of PostgreSQL, whose machine may vanish
READS = "reads"  # execution option of a connection that writes nothing
LOCK = 7203117  # of PostgreSQL: servers that start together migrate one after another


class Database:
    """Safe to use from several threads. server: this server's name. alive: locks of the servers of a SQLite file."""

    def __init__(self, url: str) -> None:
        """Open it, and bring its tables up to date. Raises DalleError if it cannot be used."""
        self.server = secrets.token_urlsafe(12)
        self.alive: Alive | None = None
        self._turn = threading.Lock()
        try:
            parts = sa.make_url(url)
            self._postgresql = parts.get_backend_name() == "postgresql"
            waits = {name: value for name, value in WAITS.items() if self._postgresql and name not in parts.query}
            self._engine = sa.create_engine(url, pool_pre_ping=True, connect_args=waits)
            self._reads = self._engine.execution_options(**{READS: True})
            if self._engine.dialect.name == "sqlite":
                _prepare_sqlite(self._engine)
            self._migrate()
            if self._engine.dialect.name == "sqlite" and self._engine.url.database:
                with self._engine.begin():  # SQLite has one writer: nobody finds the file before it is locked
                    self.alive = Alive(Path(self._engine.url.database), self.server)
        except (ArgumentError, NoSuchModuleError, ImportError, DatabaseError, OSError, DalleError) as error:
            with suppress(AttributeError):  # it was never made
                self._engine.dispose()
            shown = sa.make_url(url).render_as_string() if not isinstance(error, ArgumentError) else "its address"
            raise DalleError(f"store: {shown} cannot be used: {str(error).splitlines()[0]}") from None

    def close(self) -> None:
        """Close the connections."""
        if self.alive is not None:
            self.alive.close()
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction. Raises StoreFull and StoreAway."""
        with self._in_turn(), self._begun(self._engine) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that writes nothing, so it waits for nobody. Raises StoreAway."""
        with self._begun(self._reads) as connection:
            yield connection

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """SQLite has one writer, and lets others try again after longer and longer pauses, so that some starve."""
        if self._postgresql:
            yield
        elif not self._turn.acquire(timeout=WRITER):
            raise away(DATABASE, f"{DATABASE}: no turn to write within {WRITER:g} s")
        else:
            try:
                yield
            finally:
                self._turn.release()

    @contextmanager
    def _begun(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except (IntegrityError, DataError, ProgrammingError):
            raise  # of our own making
        except (DatabaseError, InterfaceError) as error:  # it is away, full, damaged, or takes no writes now
            raise _fault(error) from None

    def now(self) -> sa.ColumnElement[float]:
        """Seconds since 1970, as all servers of this database see it."""
        if self._postgresql:
            return sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Float)
        return sa.literal(time.time())

    def lock(self, connection: sa.Connection, number: int) -> None:
        """Let no other server do what has this number, until the transaction ends. SQLite has one writer anyway."""
        if self._postgresql:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK + number)))

    def secret(self, name: str) -> bytes:
        """A random secret of 32 bytes that all servers of this store share, made at the first call."""
        with self.transaction() as connection:
            self.lock(connection, 2)
            found = connection.scalar(sa.select(SECRETS.c.value).where(SECRETS.c.name == name))
            if found is None:
                found = secrets.token_bytes(32)
                connection.execute(SECRETS.insert().values(name=name, value=found))
            return bytes(found)

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", "app.jobs:migrations")
        with self._engine.begin() as connection:
            self.lock(connection, 0)
            found = MigrationContext.configure(connection).get_current_revision()
            known = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()]
            if found is not None and found not in known:
                raise DalleError(
                    f"a newer server has written it, in version {found}; this one knows {known[0]} at most"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _fault(error: DBAPIError) -> StoreFault:
    why = one_line(error.orig)
    said = why.lower()
    return (full if "full" in said or "no space" in said else away)(DATABASE, f"{DATABASE}: {why}")


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Let transactions begin when they are told to, as SQLAlchemy's docs advise, and as what they are."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        busy = f"busy_timeout={WRITER * 1000:g}"
        for pragma in ("journal_mode=WAL", "synchronous=FULL", busy, "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(READS) else "BEGIN IMMEDIATE")
