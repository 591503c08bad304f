"""Feature tables and historical join against plain DuckDB; `benchmark` runs each part.

    python -m experiments.benchmark_data PART [--times N] [--into FOLDER]

Ours: `write_features` (schemas checked, rows in order of time) and Feast's historical join with the
project's offline store. Plain: the same SQL from Parquet to Parquet, and one statement with an ASOF
join per view, chained (as it is usually written) and narrow (as the offline store does it: each
view's join on its own, then put side by side). Prints the results as JSON.
"""

import argparse
import json
import resource
import sys
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import duckdb
import pandas as pd

from feature_repo.definitions import definitions
from ontime.data.tables import Table
from ontime.data.timestamps import column_arrays
from ontime.features.builder import (
    MACROS,
    grid_end,
    read_sql,
    rows_sql,
    write_features,
    written_tables,
)
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import REQUEST_FIELDS, join_features, load_requests
from ontime.features.spec import View
from ontime.problem import (
    ENTITY_KEYS,
    INTERMEDIATE_TABLES,
    SOURCE_TABLES,
    VIEWS,
    entity_key_columns,
)
from ontime.settings import Settings

REPETITION = timedelta(weeks=53)  # a year's source repeats without overlap on the same weekdays
Results = dict[str, Any]


def repeat_tables(settings: Settings, into: Path, years: int, places: int = 1) -> Results:
    """Write the source tables repeated: each year 53 weeks later, each place with keys of its own.

    A place is an independent copy: its texts among the entity keys get a suffix. Where a table's
    key has neither a timestamp nor such a text, it gets one as well. A table without timestamps is
    not repeated by years.
    """
    into.mkdir(parents=True, exist_ok=True)
    return {
        table.name: repeat_rows(
            Path(settings.tables_dir) / f"{table.name}.parquet",
            into / f"{table.name}.parquet",
            "" if {*table.keys} & {*ENTITY_KEYS, *timestamps(table)} else table.keys[0],
            years if timestamps(table) else 1,
            places,
        )
        for table in SOURCE_TABLES
    }


def timestamps(table: Table) -> list[str]:
    return [name for name, column in table.columns.items() if column.dtype == "timestamp"]


def repeat_rows(source: Path, target: Path, row_id: str, years: int, places: int) -> int:
    """Repeat the rows of a Parquet file without holding them in memory; returns their number.

    Args:
        row_id: a column that gets a suffix in every copy; empty if none does.
    """
    texts = {name for name, dtype in ENTITY_KEYS.items() if dtype == "string"}
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        described = db.execute(f"DESCRIBE FROM read_parquet('{source}')").fetchall()
        copies = []
        for place, year in product(range(places), range(years)):
            changes = []
            for name, dtype, *_ in described:
                if name == row_id and place + year:
                    changes.append(f"{name} || '+{place}.{year}' AS {name}")
                elif name in texts and place:
                    changes.append(f"nullif({name}, '') || '+{place}' AS {name}")
                elif dtype == "TIMESTAMP WITH TIME ZONE" and year:
                    days = (year * REPETITION).days
                    changes.append(f"{name} + INTERVAL {days} DAY AS {name}")
            replaced = f" REPLACE ({', '.join(changes)})" if changes else ""
            copies.append(f"SELECT *{replaced} FROM read_parquet('{source}')")
        (n_rows,) = db.execute(
            f"COPY ({' UNION ALL '.join(copies)}) TO '{target}' (COMPRESSION zstd)"
        ).fetchone() or (0,)
    return int(n_rows)


def features(settings: Settings) -> Results:
    tables = written_tables(settings.tables_dir)
    return timed(
        lambda: sum(write_features(tables, Path(settings.features_dir), lambda _: None).values())
    )


def plain_features(settings: Settings) -> Results:
    """The same SQL over the Parquet files, each view sorted straight into a Parquet file."""
    target = settings.data_dir / "plain"
    target.mkdir(parents=True, exist_ok=True)
    until = grid_end(written_tables(settings.tables_dir))
    end = "getvariable('until')"  # a statement that writes a file takes no parameter
    sql = {name: read_sql(name) for name in INTERMEDIATE_TABLES}
    sql |= {view.name: rows_sql(view) for view in VIEWS}
    sql = {name: statement.replace("$until", end) for name, statement in sql.items()}

    def build() -> int:
        n_rows = 0
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            for macro in MACROS:
                db.execute(macro)
            db.execute(f"SET VARIABLE until = TIMESTAMPTZ '{until.isoformat()}'")
            for table in SOURCE_TABLES:
                path = f"{settings.tables_dir}/{table.name}.parquet"
                db.execute(f"CREATE VIEW {table.name} AS FROM read_parquet('{path}')")
            for name in INTERMEDIATE_TABLES:
                db.execute(f"CREATE TEMP TABLE {name} AS {sql[name]}")
            for view in VIEWS:
                (copied,) = db.execute(
                    f"COPY (FROM ({sql[view.name]}) WHERE event_timestamp <= {end} "
                    f"ORDER BY event_timestamp, {', '.join(view.keys)}) "
                    f"TO '{target}/{view.name}.parquet' (COMPRESSION zstd)"
                ).fetchone() or (0,)
                n_rows += copied
        return n_rows

    return timed(build)


def join(settings: Settings) -> Results:
    # The embedded registry: the definitions name this folder's files.
    embedded = settings.model_copy(update={"feast_registry_url": "", "redis_url": ""})
    store = open_feature_store(embedded)
    store.apply(definitions(embedded.features_dir))
    rows = entity_rows(settings)
    return joined(lambda: join_features(store, rows), len(rows))


def chained_join(settings: Settings) -> Results:
    """One statement with one ASOF join after the other."""
    joins = [_asof(settings, view) for view in VIEWS]
    columns = [column for view in VIEWS for column in _fresh_columns(view)]
    statement = f"SELECT entity_rows.*, {', '.join(columns)} FROM entity_rows {' '.join(joins)}"
    return _query(settings, statement)


def narrow_join(settings: Settings) -> Results:
    """One statement that sorts narrow rows only: each view's join by itself, put side by side."""
    parts = [
        f"{view.name}_side AS (SELECT instance_id, {', '.join(_fresh_columns(view))} "
        f"FROM entity_rows {_asof(settings, view)})"
        for view in VIEWS
    ]
    sides = [f"JOIN {view.name}_side USING (instance_id)" for view in VIEWS]
    statement = f"WITH {', '.join(parts)} SELECT * FROM entity_rows {' '.join(sides)}"
    return _query(settings, statement)


def _asof(settings: Settings, view: View) -> str:
    path = f"{settings.features_dir}/{view.name}.parquet"
    equal = [f"entity_rows.{key} = {view.name}.{key}" for key in view.keys]
    earlier = f"entity_rows.event_timestamp >= {view.name}.event_timestamp"
    match = " AND ".join([*equal, earlier])
    return f"ASOF LEFT JOIN read_parquet('{path}') AS {view.name} ON {match}"


def _fresh_columns(view: View) -> list[str]:
    seconds = int(view.ttl.total_seconds())
    end = f"{view.name}.event_timestamp + INTERVAL {seconds} SECOND"
    return [
        f"CASE WHEN entity_rows.event_timestamp <= {end} THEN {view.name}.{name} END AS {name}"
        for name in view.columns
    ]


def _query(settings: Settings, statement: str) -> Results:
    rows = entity_rows(settings)

    def run() -> pd.DataFrame:
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("entity_rows", rows)
            return db.execute(statement).df()

    return joined(run, len(rows))


def entity_rows(settings: Settings) -> pd.DataFrame:
    """One row per eligible request: instance_id, event_timestamp and the entity keys."""
    requests = load_requests(settings)
    requests = requests[requests.eligible].reset_index(drop=True)
    keys = entity_key_columns(column_arrays(requests, REQUEST_FIELDS))
    return requests[["instance_id", "event_timestamp"]].assign(**keys)


def joined(work: Callable[[], pd.DataFrame], rows_in: int) -> Results:
    """Time of a join, and a digest of its cells that does not depend on the order of rows."""
    results: list[pd.DataFrame] = []

    def run() -> int:
        results.append(work())
        return len(results[0])

    measured = timed(run)
    if measured["rows"] != rows_in:
        raise ValueError(f"a join must keep every row: {rows_in} in, {measured['rows']} out")
    names = [name for view in VIEWS for name in view.columns]
    cells = results[0].sort_values("instance_id")[names].astype("float64")
    return measured | {"digest": int(pd.util.hash_pandas_object(cells, index=False).sum() % 2**63)}


def timed(work: Callable[[], int]) -> Results:
    started = perf_counter()
    rows = work()
    seconds = perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": seconds, "rows": rows, "peak_gb": peak / 1e9}


PARTS: dict[str, Callable[[Settings], Results]] = {
    "features": features,
    "plain features": plain_features,
    "join": join,
    "chained join": chained_join,
    "narrow join": narrow_join,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("tables", *PARTS))
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--into", type=Path, help="what `tables` writes")
    arguments = parser.parse_args()
    settings = Settings()
    if arguments.part == "tables":
        results = repeat_tables(settings, arguments.into, arguments.times)
    else:
        results = PARTS[arguments.part](settings)
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
