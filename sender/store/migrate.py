"""Bring a database to the current schema with Alembic; imported only when one is due."""

import pathlib

import alembic.command
import alembic.config
import sqlalchemy as sa

from sender.store import locks

SCRIPTS = pathlib.Path(__file__).parent / "migrations"


def upgrade(engine: sa.Engine) -> None:
    """Run every migration that the database lacks, in one transaction."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with engine.connect() as connection:
        connection.execution_options(writes=True)
        with connection.begin():
            locks.alone(connection, locks.Only.MIGRATION)  # whoever comes second finds it done
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
