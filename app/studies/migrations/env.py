"""Runs the migrations on the connection that ``Store`` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from app.studies.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=False)
with context.begin_transaction():
    context.run_migrations()
