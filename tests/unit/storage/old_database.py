"""A database from the time before migrations, filled by the types of its columns."""

from datetime import UTC, datetime, timedelta
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, Column, Double, Integer, MetaData, Table, insert, select, text
from sqlalchemy.types import Boolean, DateTime

from ontime.storage.engine import open_engine
from ontime.storage.schema import UtcDateTime

N_ROWS = 3
DAY = datetime(2024, 5, 1, 23, 59, tzinfo=UTC)
DECISIONS: dict[str, list[Any]] = {
    "reasons": [["too few labels: 3", "held back: log-loss: +0.1"], ["cooldown: 1"], ["none: 0"]],
    "result": ["promoted", "refused", None],
    "evidence": [{"scores": [{"calibration_gap": 0.1}], "n": None}, {}, {}],
}

Tables = dict[str, list[dict[str, Any]]]


def make_old_database(url: str) -> Tables:
    """Create the tables of migration 0001 without its version, and return the inserted rows."""
    engine = open_engine(url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "ontime.storage:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("DROP TABLE alembic_version"))
    with engine.begin() as connection:
        for table in _reflect(engine).values():
            rows = [{c.name: _value(c, i) for c in table.columns} for i in range(N_ROWS)]
            connection.execute(insert(table), rows)
    engine.dispose()
    return read_tables(url)


def read_tables(url: str) -> Tables:
    """Every row of every table, in the order of the primary keys."""
    engine = open_engine(url)
    with engine.connect() as connection:
        found = {
            name: [
                dict(row)
                for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()
            ]
            for name, table in _reflect(engine).items()
        }
    engine.dispose()
    return found


def _reflect(engine: Any) -> dict[str, Table]:
    metadata = MetaData()
    metadata.reflect(engine)
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, DateTime):
                column.type = UtcDateTime()
    return {name: table for name, table in metadata.tables.items() if name != "alembic_version"}


def _value(column: Column[Any], row: int) -> Any:
    if column.table.name == "decisions" and column.name in DECISIONS:
        return DECISIONS[column.name][row]
    if column.nullable and row == 2:
        return None
    if isinstance(column.type, UtcDateTime):
        return DAY + row * timedelta(hours=1)
    if isinstance(column.type, Boolean):
        return row == 1
    if isinstance(column.type, Integer):
        return row + 1
    if isinstance(column.type, Double):
        return row / 7
    return [column.name, row] if isinstance(column.type, JSON) else f"{column.name} {row}"
