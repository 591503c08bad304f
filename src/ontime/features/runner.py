"""The features built: each view's SQL over the source tables, in DuckDB.

Beside the declaration and not in it, because who serves reads that and has no DuckDB.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from time import perf_counter

import duckdb
import pandas as pd

from ontime.features import VIEWS, View
from ontime.tables import write_table

FEATURE_MACRO = (
    "CREATE MACRO ceil_hour(t) AS date_trunc('hour', t - INTERVAL 1 MICROSECOND) + INTERVAL 1 HOUR"
)
# Steps that several views share, in the order they are built.
STEPS = ("flight_hours", "outcome_days")


def sql(name: str) -> str:
    """The text of one view's (or step's) SQL file."""
    return files("ontime.features").joinpath(f"{name}.sql").read_text()


def build_features(
    tables: dict[str, pd.DataFrame], until: datetime, views: Iterable[View] = VIEWS
) -> Iterable[tuple[View, pd.DataFrame]]:
    """Build each view's rows from the source tables, one view at a time.

    Args:
        tables: flights, weather and aircraft as `ontime.source.read_source` gives them.
        until: the last moment (UTC) of a row.
    """
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(FEATURE_MACRO)
        for name, table in tables.items():
            db.register(name, table)
        for step in STEPS:
            text = sql(step)
            parameters = {"until": until} if "$until" in text else None
            db.execute(f"CREATE TEMP TABLE {step} AS {text}", parameters)
        for view in views:
            columns = ", ".join(
                f"{name}::{_DUCKDB_TYPES[column.dtype]} AS {name}"
                for name, column in view.table.columns.items()
            )
            # Nothing past the grid's end: there a window of three rows is not one of three hours.
            # Sorted by time: a tick's rows lie together, and the historical join reads in order.
            rows = db.execute(
                f"SELECT {columns} FROM ({sql(view.name)}) WHERE event_timestamp <= $until "
                f"ORDER BY event_timestamp, {', '.join(view.keys)}",
                {"until": until},
            )
            yield view, rows.df()


_DUCKDB_TYPES = {
    "string": "VARCHAR",
    "int32": "INTEGER",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "timestamp": "TIMESTAMPTZ",
}


def write_features(
    tables: dict[str, pd.DataFrame],
    until: datetime,
    folder: Path,
    progress: Callable[[str], None] = print,
) -> dict[str, int]:
    """Build every view and write it to ``folder/<view>.parquet``; rows written a view."""
    rows = {}
    started = perf_counter()
    for view, frame in build_features(tables, until):
        write_table(frame, view.table, folder / f"{view.name}.parquet")
        rows[view.name] = len(frame)
        progress(f"  {view.name:<22}{len(frame):>10,} rows {perf_counter() - started:>6.1f} s")
        started = perf_counter()
    return rows
