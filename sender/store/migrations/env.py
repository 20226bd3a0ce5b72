"""What Alembic runs: the migrations, on the connection that ``sender.store.migrate`` hands over."""

from alembic import context

from sender.store import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    transactional_ddl=True,
)
context.run_migrations()
