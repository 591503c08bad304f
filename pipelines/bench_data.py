"""Feature tables and the historical join against plain DuckDB, on the year once and repeated.

Ours: `ontime.features.write_features` (schemas checked, rows in order of time) and Feast's
historical join with our offline store. Plain: the same SQL straight from Parquet to Parquet, and
one statement with an ASOF join for each view. `pipelines.bench` runs each in a process of its own.
"""

import resource
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ontime.settings import Settings
from pipelines.materialize import GRID_END

if TYPE_CHECKING:
    import pandas as pd

YEAR = timedelta(days=371)  # 53 weeks: weekdays stay what they are, and the years do not overlap
Figures = dict[str, Any]


def write_years(source: Path, folder: Path, times: int) -> None:
    """The source tables with the year repeated, each time 53 weeks later."""
    import pandas as pd

    from ontime.tables import SOURCE_TABLES

    folder.mkdir(parents=True)
    for name in (table.name for table in SOURCE_TABLES):
        year = pd.read_parquet(source / f"{name}.parquet")
        moments = list(year.select_dtypes("datetimetz"))
        years = [year]
        for number in range(1, times) if moments else ():
            later = year.assign(**{column: year[column] + number * YEAR for column in moments})
            if "flight_id" in later:
                later["flight_id"] += f"+{number}"
            years.append(later)
        pd.concat(years, ignore_index=True).to_parquet(folder / f"{name}.parquet")


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
    """The same SQL over the Parquet files, each view straight into a Parquet file."""
    import duckdb

    from ontime.features import VIEWS
    from ontime.features.runner import FEATURE_MACRO, STEPS, sql
    from ontime.tables import SOURCE_TABLES

    settings, target = Settings(), Settings().var / "plain"
    target.mkdir(parents=True, exist_ok=True)
    moment = {"until": GRID_END + (times - 1) * YEAR}

    def build() -> int:
        rows = 0
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.execute(FEATURE_MACRO)
            for table in SOURCE_TABLES:
                path = settings.tables_dir / f"{table.name}.parquet"
                db.execute(f"CREATE VIEW {table.name} AS FROM read_parquet('{path}')")
            for name in (*STEPS, *(view.name for view in VIEWS)):
                text = sql(name)
                given = moment if "$until" in text else None
                db.execute(f"CREATE TEMP TABLE {name}_rows AS {text}", given)
                if name in STEPS:
                    db.execute(f"CREATE VIEW {name} AS FROM {name}_rows")
                else:
                    into = f"'{target}/{name}.parquet' (COMPRESSION zstd)"
                    (copied,) = db.execute(f"COPY {name}_rows TO {into}").fetchone() or (0,)
                    rows += copied
        return rows

    return timed(build)


def join() -> Figures:
    from feature_repo.definitions import DEFINITIONS
    from ontime.dataset import ENTITY_COLUMNS
    from ontime.feature_store import SERVICE, open_feature_store

    store = open_feature_store(Settings())
    store.apply(DEFINITIONS)
    rows, service = entity_rows()[ENTITY_COLUMNS], store.get_feature_service(SERVICE)
    job = store.get_historical_features(entity_df=rows, features=service)
    return joined(lambda: job.to_df(), len(rows))


def plain_join() -> Figures:
    """One statement with an ASOF join for each view, as one would write it without Feast."""
    import duckdb

    from ontime.dataset import ENTITY_COLUMNS
    from ontime.features import VIEWS

    rows, folder = entity_rows()[ENTITY_COLUMNS], Settings().features_dir
    joins, columns = [], ["entity_rows.*"]
    for view in VIEWS:
        equal = " AND ".join(f"entity_rows.{key} = {view.name}.{key}" for key in view.keys)
        event = f"{view.name}.event_timestamp"
        joins.append(
            f"ASOF LEFT JOIN read_parquet('{folder}/{view.name}.parquet') AS {view.name} "
            f"ON {equal} AND entity_rows.event_timestamp >= {event}"
        )
        fresh = (
            f"entity_rows.event_timestamp <= {event} "
            f"+ INTERVAL {int(view.ttl.total_seconds())} SECOND"
        )
        columns += [
            f"CASE WHEN {fresh} THEN {view.name}.{name} END AS {name}" for name in view.columns
        ]
    statement = f"SELECT {', '.join(columns)} FROM entity_rows {' '.join(joins)}"

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
    assert figures["rows"] == rows_in, "rows in are rows out"
    names = [name for view in VIEWS for name in view.columns]
    cells = kept[0].sort_values("flight_id")[names].astype("float64")
    return figures | {"digest": int(pd.util.hash_pandas_object(cells, index=False).sum() % 2**63)}


def timed(work: Callable[[], int]) -> Figures:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = perf_counter()
    rows = work()
    seconds = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "rows": rows, "peak_gb": peak / 1e6, "before_gb": before / 1e6}
