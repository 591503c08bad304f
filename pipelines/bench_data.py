"""Feature tables and the historical join against plain DuckDB, on the year once and repeated.

Ours: `ontime.features.write_features` (schemas checked, rows in order of time) and Feast's
historical join with our offline store. Plain: the same SQL straight from Parquet to Parquet, and
one statement with an ASOF join for each view, chained (as one writes it) and narrow (as our store
does it: each view by itself, then side by side). `pipelines.bench` runs each in its own process.
"""

import resource
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ontime.settings import Settings
from pipelines.materialize import GRID_END

if TYPE_CHECKING:
    import pandas as pd

    from ontime.features import View

YEAR = timedelta(days=371)  # 53 weeks: weekdays stay what they are, and the years do not overlap
Figures = dict[str, Any]


def write_years(source: Path, folder: Path, times: int) -> Figures:
    """The source tables with the year repeated, each time 53 weeks later; rows a table."""
    import pandas as pd

    from ontime.tables import SOURCE_TABLES

    folder.mkdir(parents=True)
    rows = {}
    for name in (table.name for table in SOURCE_TABLES):
        year = pd.read_parquet(source / f"{name}.parquet")
        moments = list(year.select_dtypes("datetimetz"))
        years = [year]
        for number in range(1, times) if moments else ():
            later = year.assign(**{column: year[column] + number * YEAR for column in moments})
            if "flight_id" in later:
                later["flight_id"] += f"+{number}"
            years.append(later)
        table = pd.concat(years, ignore_index=True)
        table.to_parquet(folder / f"{name}.parquet")
        rows[name] = len(table)
    return rows


def features(times: int) -> Figures:
    from ontime.features.runner import write_features
    from ontime.tables import read_tables

    settings = Settings()
    until = GRID_END + (times - 1) * YEAR
    tables = read_tables(settings.tables_dir)
    return timed(
        lambda: sum(write_features(tables, until, settings.features_dir, lambda _: None).values())
    )


def plain_features(times: int) -> Figures:
    """The same SQL over the Parquet files, each view sorted straight into a Parquet file."""
    import duckdb

    from ontime.features import VIEWS
    from ontime.features.runner import FEATURE_MACRO, STEPS, sql
    from ontime.tables import SOURCE_TABLES

    settings, target = Settings(), Settings().var / "plain"
    target.mkdir(parents=True, exist_ok=True)
    until = GRID_END + (times - 1) * YEAR
    end = "getvariable('until')"  # a statement that writes a file takes no parameter
    names = [*STEPS, *(view.name for view in VIEWS)]

    def build() -> int:
        rows = 0
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.execute(FEATURE_MACRO)
            db.execute(f"SET VARIABLE until = TIMESTAMPTZ '{until.isoformat()}'")
            for table in SOURCE_TABLES:
                path = settings.tables_dir / f"{table.name}.parquet"
                db.execute(f"CREATE VIEW {table.name} AS FROM read_parquet('{path}')")
            texts = {name: sql(name).replace("$until", end) for name in names}
            for step in STEPS:
                db.execute(f"CREATE TEMP TABLE {step} AS {texts[step]}")
            for view in VIEWS:
                (copied,) = db.execute(
                    f"COPY (FROM ({texts[view.name]}) WHERE event_timestamp <= {end} "
                    f"ORDER BY event_timestamp, {', '.join(view.keys)}) "
                    f"TO '{target}/{view.name}.parquet' (COMPRESSION zstd)"
                ).fetchone() or (0,)
                rows += copied
        return rows

    return timed(build)


def join() -> Figures:
    from feature_repo.definitions import DEFINITIONS
    from ontime.dataset import ENTITY_COLUMNS, join_features
    from ontime.feature_store import open_feature_store

    # The definitions name this folder's files: the real system's registry must not learn them.
    store = open_feature_store(
        Settings().model_copy(update={"feast_registry_url": "", "redis_url": ""})
    )
    store.apply(DEFINITIONS)
    rows = entity_rows()[ENTITY_COLUMNS]
    return joined(lambda: join_features(store, rows), len(rows))


def chained_join() -> Figures:
    """One statement, an ASOF join after the other, as one would write it without Feast."""
    from ontime.features import VIEWS

    joins = [_asof(view) for view in VIEWS]
    columns = [column for view in VIEWS for column in _fresh_columns(view)]
    return _query(f"SELECT entity_rows.*, {', '.join(columns)} FROM entity_rows {' '.join(joins)}")


def narrow_join() -> Figures:
    """One statement that sorts narrow rows only: each view's join by itself, put side by side."""
    from ontime.features import VIEWS

    parts = [
        f"{view.name}_side AS (SELECT flight_id, {', '.join(_fresh_columns(view))} "
        f"FROM entity_rows {_asof(view)})"
        for view in VIEWS
    ]
    sides = [f"JOIN {view.name}_side USING (flight_id)" for view in VIEWS]
    return _query(f"WITH {', '.join(parts)} SELECT * FROM entity_rows {' '.join(sides)}")


def _asof(view: "View") -> str:
    path = Settings().features_dir / f"{view.name}.parquet"
    equal = [f"entity_rows.{key} = {view.name}.{key}" for key in view.keys]
    earlier = f"entity_rows.event_timestamp >= {view.name}.event_timestamp"
    match = " AND ".join([*equal, earlier])
    return f"ASOF LEFT JOIN read_parquet('{path}') AS {view.name} ON {match}"


def _fresh_columns(view: "View") -> list[str]:
    seconds = int(view.ttl.total_seconds())
    end = f"{view.name}.event_timestamp + INTERVAL {seconds} SECOND"
    return [
        f"CASE WHEN entity_rows.event_timestamp <= {end} THEN {view.name}.{name} END AS {name}"
        for name in view.columns
    ]


def _query(statement: str) -> Figures:
    import duckdb

    from ontime.dataset import ENTITY_COLUMNS

    rows = entity_rows()[ENTITY_COLUMNS]

    def run() -> "pd.DataFrame":
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("entity_rows", rows)
            return db.execute(statement).df()

    return joined(run, len(rows))


def entity_rows() -> "pd.DataFrame":
    from ontime.dataset import askable
    from ontime.tables import FLIGHTS, read_tables

    return askable(read_tables(Settings().tables_dir, (FLIGHTS,))["flights"])


def joined(work: Callable[[], "pd.DataFrame"], rows_in: int) -> Figures:
    """Time of a join, and a digest of its cells that does not depend on their order."""
    import pandas as pd

    from ontime.features import VIEWS

    kept: list[pd.DataFrame] = []

    def run() -> int:
        kept.append(work())
        return len(kept[0])

    figures = timed(run)
    if figures["rows"] != rows_in:
        raise ValueError(f"rows in are rows out: {rows_in} in, {figures['rows']} out")
    names = [name for view in VIEWS for name in view.columns]
    cells = kept[0].sort_values("flight_id")[names].astype("float64")
    return figures | {"digest": int(pd.util.hash_pandas_object(cells, index=False).sum() % 2**63)}


def timed(work: Callable[[], int]) -> Figures:
    started = perf_counter()
    rows = work()
    seconds = perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": seconds, "rows": rows, "peak_gb": peak / 1e9}
