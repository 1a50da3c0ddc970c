"""How Alembic reaches the database: by the connection that store.database hands over."""

from alembic import context
from sqlmodel import SQLModel

import store.access_tables
import store.chat_tables
import store.decision_tables
import store.models
import store.queue_tables
import store.ranking_tables
import store.refusals  # noqa: F401 - all fill SQLModel.metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,  # SQLite changes a table by rewriting it
)
with context.begin_transaction():
    context.run_migrations()
