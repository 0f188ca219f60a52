"""Alembic runs this file. The store gives it an open connection."""

from alembic import context

from app.jobs.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
