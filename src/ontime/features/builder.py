"""Feature tables: each view's SQL over the source tables, run by DuckDB.

Separate from the declarations (`spec`): serving reads those and its image has no DuckDB.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import duckdb
import pandas as pd
import pyarrow.parquet as pq

from ontime.data.locations import exists, register_parquet
from ontime.data.tables import BATCH_SIZE, write_batches
from ontime.features.spec import EmptyView, View
from ontime.problem import INTERMEDIATE_TABLES, SOURCE_TABLES, SQL_FOLDER, SQL_MACROS, VIEWS
from ontime.settings import DUCKDB_MEMORY

# A source table: a frame, or the location of a Parquet file that may not fit in memory.
Tables = Mapping[str, pd.DataFrame | str]
# Of the source, per part of a query that asks `in_part(key)`: the joins and windows of one part fit
# in memory, however long the source. Each part reads the source again.
ROWS_PER_PART = 1_000_000
# What every SQL file may call: `in_part(key)` is whether a key belongs to the part that is built.
MACROS = (*SQL_MACROS, "CREATE MACRO in_part(key) AS TRUE")
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


def written_tables(folder: str | Path) -> dict[str, str]:
    """The source tables as the files of `pipelines.ingest`. Raises FileNotFoundError."""
    paths = {table.name: f"{folder}/{table.name}.parquet" for table in SOURCE_TABLES}
    for path in paths.values():
        if not exists(path):
            raise FileNotFoundError(f"table {path} is missing: run `make ingest` first")
    return paths


def grid_end(tables: Tables) -> datetime:
    """The midnight (UTC) after the newest timestamp in the source tables.

    Raises:
        ValueError: if no table has a timestamp.
    """
    stamps = []
    with duckdb.connect() as db:
        for name, table in tables.items():
            _register(db, name, table)
            for column, dtype, *_ in db.execute(f"DESCRIBE {name}").fetchall():
                if dtype == "TIMESTAMP WITH TIME ZONE":
                    stamps += db.execute(f'SELECT epoch_us(max("{column}")) FROM {name}').fetchall()
    known = [stamp for (stamp,) in stamps if stamp is not None]
    if not known:
        raise ValueError(f"the source tables need a timestamp; {sorted(tables)} have none")
    return midnight_after(datetime.fromtimestamp(max(known) / 1e6, UTC))


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
    return f"SELECT {columns} FROM ({rows_sql(view)}) WHERE event_timestamp <= $until"


def rows_sql(view: View) -> str:
    """The view's SQL file; of a view of sequences, its events put into one row per key and time."""
    sql = read_sql(view.name)
    if not view.events:
        return sql
    keys = ", ".join([*view.keys, "event_timestamp"])
    columns = [(i, name) for i in range(1, view.events + 1) for name in view.event_columns]
    values = ", ".join(
        f"max(CASE WHEN position = {i} THEN {column} END) AS {name}"
        for name, (i, column) in zip(view.columns, columns, strict=True)
    )
    part = f"concat_ws(' ', {', '.join(view.keys)})"
    return f"SELECT {keys}, {values} FROM ({sql}) WHERE in_part({part}) GROUP BY {keys}"


def reject_empty(view: View, n_rows: int, until: datetime) -> None:
    """Raise EmptyView if a view has no row and is not optional."""
    if n_rows == 0 and not view.optional:
        raise EmptyView(
            f"a view has rows unless it is declared optional; {view.name} has none up to "
            f"{until}. Check its SQL against the source tables, or set optional=True"
        )


def build_features(
    tables: Tables, until: datetime, views: Iterable[View] = VIEWS
) -> Iterator[tuple[View, pd.DataFrame]]:
    """Build each view's rows from the source tables, one view at a time.

    The SQL files read the source tables and the intermediate tables by name, and ``$until``.

    Args:
        tables: the source tables by name.
        until: the last moment (UTC) of a row.
    """
    with duckdb.connect() as db:
        n_parts = _prepare(db, tables, until)
        for view in views:
            yield view, _query(db, view, until, n_parts).df()


def _prepare(db: duckdb.DuckDBPyConnection, tables: Tables, until: datetime) -> int:
    """Create the macros, the source tables and the intermediate tables; returns `n_parts`."""
    db.execute("SET TimeZone = 'UTC'")
    for macro in MACROS:
        db.execute(macro)
    for name, table in tables.items():
        _register(db, name, table)
    n_rows = sum(db.table(name).count("*").fetchall()[0][0] for name in tables)
    n_parts = n_rows // ROWS_PER_PART + 1
    for name in INTERMEDIATE_TABLES:
        _create_table(db, name, read_sql(name), until, n_parts)
    return n_parts


def _create_table(
    db: duckdb.DuckDBPyConnection, name: str, sql: str, until: datetime, n_parts: int
) -> None:
    """Write a query's rows to a table; if it asks `in_part(key)`, part after part of its keys."""
    parameters = {"until": until} if "$until" in sql else None
    for part in range(n_parts if "in_part(" in sql else 1):
        db.execute(f"CREATE OR REPLACE MACRO in_part(key) AS hash(key) % {n_parts} = {part}")
        into = f"INSERT INTO {name}" if part else f"CREATE OR REPLACE TEMP TABLE {name} AS"
        db.execute(f"{into} {sql}", parameters)


def _register(db: duckdb.DuckDBPyConnection, name: str, table: pd.DataFrame | str) -> None:
    if isinstance(table, str):
        register_parquet(db, name, table)
    else:
        db.register(name, table)


def _query(
    db: duckdb.DuckDBPyConnection, view: View, until: datetime, n_parts: int
) -> duckdb.DuckDBPyConnection:
    # Sorted by time: rows of one tick are adjacent, and the historical join reads in order.
    order = f"ORDER BY event_timestamp, {', '.join(view.keys)}"
    sql = view_sql(view)
    if n_parts == 1 or "in_part(" not in sql:
        return db.execute(f"{sql} {order}", {"until": until})
    _create_table(db, "rows_of_view", sql, until, n_parts)
    return db.execute(f"FROM rows_of_view {order}")


def write_features(
    tables: Tables,
    folder: Path,
    progress: Callable[[str], None] = print,
    until: datetime | None = None,
    views: Iterable[View] = VIEWS,
    memory: str = DUCKDB_MEMORY,
) -> dict[str, int]:
    """Build every view and write it to ``folder/<view>.parquet``; returns the rows of each.

    Memory is bounded: DuckDB spills beside the feature tables, and a view's rows are checked and
    written in batches.

    Args:
        until: the last moment (UTC) of a row; by default `grid_end` of the tables.
        memory: of DuckDB, e.g. ``4GB``.

    Raises:
        EmptyView: if a view has no row and is not optional.
        TableError: if a view breaks its schema.
    """
    until = until or grid_end(tables)
    n_rows = {}
    folder.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix=".spilled-", dir=folder) as spilled,
        duckdb.connect(config={"memory_limit": memory, "temp_directory": spilled}) as db,
    ):
        started = perf_counter()
        n_parts = _prepare(db, tables, until)
        for view in views:
            reader = _query(db, view, until, n_parts).to_arrow_reader(BATCH_SIZE)
            first = next(reader, None)
            reject_empty(view, first.num_rows if first else 0, until)
            batches = chain([first], reader) if first else ()
            path = folder / f"{view.name}.parquet"
            n_rows[view.name] = write_batches(reader.schema, batches, view.table, path)
            seconds = perf_counter() - started
            progress(f"  {view.name:<22}{n_rows[view.name]:>10,} rows {seconds:>6.1f} s")
            started = perf_counter()
    return n_rows


def materialization_start(folder: str | Path) -> datetime:
    """The earliest event timestamp of the written feature tables.

    Raises:
        FileNotFoundError: if no feature table was written.
    """
    paths = [path for view in VIEWS if exists(path := f"{folder}/{view.name}.parquet")]
    stamps = [pq.read_table(path, columns=["event_timestamp"])[0].to_pandas() for path in paths]
    if not stamps:
        raise FileNotFoundError(f"no feature table in {folder}: run `make ingest features` first")
    return min(stamp.min() for stamp in stamps if len(stamp)).to_pydatetime()
