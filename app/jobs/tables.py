"""The tables of the store. `migrations/` makes them, step by step, in a database of any earlier version.

Times are seconds since 1970. An id and a name are random, so that nobody can guess them.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table

METADATA = MetaData()

# model: the name of the model that paints it. asked: the request in a normal form (`app.http.jobs`).
# total: its pictures. done: those that are painted. image: the name of the file of the picture that it paints on.
# server, lease: which server paints the job, and until when it alone may. An ended job has neither.
# key: names the request that made the job, so that a repeated one makes no second job.
# client: whoever asked, an API key or an address; clients take turns. until: the time at which it expires.
# hook: the address that is told of the end, and its secret.
JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("owner", String(80), nullable=False),
    Column("state", String(12), nullable=False),
    Column("model", String(200), nullable=False),
    Column("asked", JSON, nullable=False),
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False, default=0),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("error", JSON),
    Column("image", String(80)),
    Column("key", String(64), unique=True),
    Column("hook", JSON),
    Column("server", String(40)),
    Column("lease", Float),
    Column("client", String(80), nullable=False),
    Column("until", Float),
    Index("jobs_by_owner", "owner", "created"),
    Index("jobs_by_state", "state", "created"),
)

# number: the picture's place in its job, 0 for the first. order: its place in the order of painting, 1 for the first.
# name: of its file and in its address. told: its text, style, seed, index, score and fit. job: None for a picture of no
# job.
PICTURES = Table(
    "pictures",
    METADATA,
    Column("name", String(80), primary_key=True),
    Column("job", String(40), ForeignKey("jobs.id")),
    Column("number", Integer, nullable=False),
    Column("order", Integer, nullable=False),
    Column("owner", String(80), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("told", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("fetched", Float),
    Index("pictures_of_job", "job", "number", unique=True),
    Index("pictures_by_age", "created"),
)

# Messages about ended jobs that a webhook is still to be told. id: in every attempt the same. next: when it is tried
# next. tries: how often it was tried.
MESSAGES = Table(
    "messages",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("job", String(40), ForeignKey("jobs.id"), nullable=False),
    Column("created", Float, nullable=False),
    Column("next", Float, nullable=False, index=True),
    Column("tries", Integer, nullable=False, default=0),
)

SECRETS = Table(
    "secrets",
    METADATA,
    Column("name", String(40), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
