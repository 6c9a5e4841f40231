"""Alembic's entry: runs the revisions on the connection that ``store.migrate`` hands over."""

from alembic import context

from graftwork.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
