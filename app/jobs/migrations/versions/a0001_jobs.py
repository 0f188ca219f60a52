"""Jobs, their pictures, messages and secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("ended", sa.Float),
        sa.Column("error", sa.JSON),
        sa.Column("image", sa.String(80)),
        sa.Column("key", sa.String(64), unique=True),
        sa.Column("hook", sa.JSON),
        sa.Column("server", sa.String(40)),
        sa.Column("lease", sa.Float),
    )
    op.create_index("jobs_by_owner", "jobs", ["owner", "created"])
    op.create_index("jobs_by_state", "jobs", ["state", "created"])
    op.create_table(
        "pictures",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("job", sa.String(40), sa.ForeignKey("jobs.id")),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("order", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("told", sa.JSON, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("fetched", sa.Float),
    )
    op.create_index("pictures_of_job", "pictures", ["job", "number"], unique=True)
    op.create_index("pictures_by_age", "pictures", ["created"])
    op.create_table(
        "messages",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("job", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("next", sa.Float, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
    )
    op.create_index("ix_messages_next", "messages", ["next"])
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
