"""A job's client, with whose other jobs it takes turns, and the time until which it may be painted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both. An older server that still runs writes neither."""
    op.add_column("jobs", sa.Column("client", sa.String(80), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("until", sa.Float))
    jobs = sa.table("jobs", sa.column("owner"), sa.column("client"), sa.column("asked", sa.JSON), sa.column("until"))
    op.execute(jobs.update().values(client=jobs.c.owner, until=jobs.c.asked["until"].as_float()))
