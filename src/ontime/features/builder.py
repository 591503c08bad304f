"""Feature tables: each view's SQL over the source tables, run by DuckDB.

Separate from the declarations (`spec`): serving reads those and its image has no DuckDB.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter

import duckdb
import pandas as pd
import pyarrow.parquet as pq

from ontime.data.tables import write_table
from ontime.features.spec import EmptyView, View
from ontime.problem import INTERMEDIATE_TABLES, SQL_FOLDER, SQL_MACROS, VIEWS

DUCKDB_TYPES = {
    "string": "VARCHAR",
    "int32": "INTEGER",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "timestamp": "TIMESTAMPTZ",
}


def read_sql(name: str) -> str:
    """The SQL of one view or intermediate table."""
    return (SQL_FOLDER / f"{name}.sql").read_text()


def grid_end(tables: dict[str, pd.DataFrame]) -> datetime:
    """The midnight (UTC) after the newest timestamp in the source tables.

    Raises:
        ValueError: if no table has a timestamp.
    """
    columns = [
        table[name] for table in tables.values() for name in table.select_dtypes("datetimetz")
    ]
    newest = max((column.max() for column in columns if column.notna().any()), default=None)
    if newest is None:
        raise ValueError(f"the source tables need a timestamp; {sorted(tables)} have none")
    return midnight_after(newest.to_pydatetime())


def midnight_after(newest: datetime) -> datetime:
    """The first midnight (UTC) after a moment."""
    return newest.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def view_sql(view: View) -> str:
    """The query of a view's rows up to ``$until``, typed as its table declares, in no order."""
    columns = ", ".join(
        f"{name}::{DUCKDB_TYPES[column.dtype]} AS {name}"
        for name, column in view.table.columns.items()
    )
    # No row after `until`: there a window of three rows is not one of three hours.
    return f"SELECT {columns} FROM ({read_sql(view.name)}) WHERE event_timestamp <= $until"


def reject_empty(view: View, n_rows: int, until: datetime) -> None:
    """Raise EmptyView if a view has no row and is not optional."""
    if n_rows == 0 and not view.optional:
        raise EmptyView(
            f"a view has rows unless it is declared optional; {view.name} has none up to "
            f"{until}. Check its SQL against the source tables, or set optional=True"
        )


def build_features(
    tables: dict[str, pd.DataFrame], until: datetime, views: Iterable[View] = VIEWS
) -> Iterator[tuple[View, pd.DataFrame]]:
    """Build each view's rows from the source tables, one view at a time.

    The SQL files read the source tables and the intermediate tables by name, and ``$until``.

    Args:
        tables: the source tables by name.
        until: the last moment (UTC) of a row.
    """
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        for macro in SQL_MACROS:
            db.execute(macro)
        for name, table in tables.items():
            db.register(name, table)
        for name in INTERMEDIATE_TABLES:
            sql = read_sql(name)
            parameters = {"until": until} if "$until" in sql else None
            db.execute(f"CREATE TEMP TABLE {name} AS {sql}", parameters)
        for view in views:
            # Sorted by time: rows of one tick are adjacent, and the historical join reads in order.
            rows = db.execute(
                f"{view_sql(view)} ORDER BY event_timestamp, {', '.join(view.keys)}",
                {"until": until},
            )
            yield view, rows.df()


def write_features(
    tables: dict[str, pd.DataFrame],
    folder: Path,
    progress: Callable[[str], None] = print,
    until: datetime | None = None,
) -> dict[str, int]:
    """Build every view and write it to ``folder/<view>.parquet``; returns the rows of each.

    Args:
        until: the last moment (UTC) of a row; by default `grid_end` of the tables.

    Raises:
        EmptyView: if a view has no row and is not optional.
        TableError: if a view breaks its schema.
    """
    until = until or grid_end(tables)
    n_rows = {}
    started = perf_counter()
    for view, rows in build_features(tables, until):
        reject_empty(view, len(rows), until)
        write_table(rows, view.table, folder / f"{view.name}.parquet")
        n_rows[view.name] = len(rows)
        progress(f"  {view.name:<22}{len(rows):>10,} rows {perf_counter() - started:>6.1f} s")
        started = perf_counter()
    return n_rows


def materialization_start(folder: Path) -> datetime:
    """The earliest event timestamp of the written feature tables.

    Raises:
        FileNotFoundError: if no feature table was written.
    """
    paths = [path for view in VIEWS if (path := folder / f"{view.name}.parquet").exists()]
    stamps = [pq.read_table(path, columns=["event_timestamp"])[0].to_pandas() for path in paths]
    if not stamps:
        raise FileNotFoundError(f"no feature table in {folder}: run `make ingest features` first")
    return min(stamp.min() for stamp in stamps if len(stamp)).to_pydatetime()
