"""Alembic migrations of the prediction log's database.

To change a table: change `ontime.storage.schema`, add ``versions/<next>_<what>.py`` with an
`upgrade` function, and set `SCHEMA_VERSION`. A test compares the migrated database to the schema.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, inspect, text

from ontime.errors import PredictionLogUnavailable
from ontime.storage.engine import open_engine
from ontime.storage.schema import SCHEMA_VERSION

TIMEOUT_S = 600  # of one statement, and of the wait for another process's migration
LOCK_KEY = 0x0717_13E0  # any number that nothing else in the database locks


def upgrade(url: URL) -> None:
    """Run the missing migrations in one transaction, one process at a time."""
    engine = open_engine(url, TIMEOUT_S)
    try:
        with engine.connect() as connection, _exclusive(connection):
            config = Config()
            config.set_main_option("script_location", "ontime.storage:migrations")
            config.attributes["connection"] = connection
            revision = find_revision(connection)
            if revision is None or revision < SCHEMA_VERSION:
                command.upgrade(config, SCHEMA_VERSION)
            check_revision(connection)
    finally:
        engine.dispose()


def find_revision(connection: Connection) -> str | None:
    """The newest migration that ran; None if none did."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def check_revision(connection: Connection) -> None:
    """Raise `PredictionLogUnavailable` unless the database has this code's schema."""
    revision = find_revision(connection)
    if revision == SCHEMA_VERSION:
        return
    if revision is None or revision < SCHEMA_VERSION:
        fix = "run the migrations by starting the API or a flow"
    else:
        fix = "update this code, or use a database of its own if another program made this one"
    raise PredictionLogUnavailable(
        f"the schema of the prediction log must be {SCHEMA_VERSION} and is {revision}: {fix}"
    )


@contextmanager
def _exclusive(connection: Connection) -> Iterator[None]:
    """A transaction that no other process migrates in."""
    if connection.dialect.name == "sqlite":
        # The driver begins no transaction before DDL by itself.
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("BEGIN IMMEDIATE"))
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
    yield
    connection.commit()
