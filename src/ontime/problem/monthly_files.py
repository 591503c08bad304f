"""The second source: the monthly on-time files of the US Bureau of Transportation Statistics.

One CSV file per month, zipped or not, with every domestic flight of the reporting airlines and the
columns that the Bureau publishes (``On_Time_Reporting_Carrier_On_Time_Performance_...``). A year
has 7 million flights, so that no table of them is held in memory: each file becomes Parquet by
itself, and DuckDB sorts all of them with bounded memory. The files have no weather and no registry
of aircraft: those tables have no rows.
"""

import csv
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyarrow import fs

from ontime.data.tables import BATCH_SIZE, TIMESTAMP, Table
from ontime.problem.airports import airport_zones
from ontime.problem.definition import LATE_MIN
from ontime.problem.flights import TAIL_NUMBER_PATTERN
from ontime.problem.source_tables import AIRCRAFT, FLIGHTS, WEATHER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

COLUMNS = (
    "Year", "Month", "DayofMonth", "Reporting_Airline", "Flight_Number_Reporting_Airline",
    "Tail_Number", "Origin", "Dest", "CRSDepTime", "DepDelay", "CRSArrTime", "ArrDelay",
    "Cancelled", "Diverted", "CRSElapsedTime",
)  # fmt: skip
MEMORY_LIMIT = "2GB"  # of DuckDB; what does not fit is spilled into the scratch folder
DELAY = FLIGHTS.columns["dep_delay_min"]
SHORTEST_DELAY_MIN, LONGEST_DELAY_MIN = int(DELAY.low), int(DELAY.high)
LEFT_OUT = {
    "airport": "an airport whose time zone is unknown",
    "number": "a flight number outside 1 to 9999",
    "schedule": "no schedule, or one longer than a day",
    "outcome": "no outcome: neither arrived nor cancelled nor diverted",
    "early": "more than two hours early, or arrived before the scheduled departure",
    "repeated": "the id of an earlier departure",
}


def read_monthly_files(
    location: str, scratch: Path, progress: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, int]]:
    """The source tables, that of flights as a Parquet file in ``scratch``, and counts of rows.

    Args:
        location: a folder, or a prefix like ``s3://bucket/folder``, that holds the files.

    Raises:
        ValueError: if there is no file, or one lacks a column or ends within a row.
    """
    import duckdb  # not in the serving image, which imports this package

    system, paths = _monthly_files(location)
    spilled = str(scratch / "spilled")
    flights, months = scratch / "flights.parquet", f"{scratch}/month-*.parquet"
    with duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": spilled}) as db:
        db.execute("SET TimeZone = 'UTC'")
        zones = pd.DataFrame(list(airport_zones().items()), columns=["airport", "zone"])
        db.register("zones", zones)
        for number, path in enumerate(paths):
            name = path.rsplit("/", 1)[-1]
            try:
                file = _as_csv(system, path, scratch / "month.csv")
                n_rows = _read_month(db, file, scratch / f"month-{number}.parquet")
            except (ValueError, EOFError, zipfile.BadZipFile, duckdb.Error) as error:
                raise ValueError(f"{name} is not a monthly file as published: {error}") from error
            progress(f"  {n_rows:>10,} rows of {name}")
        db.execute(FLIGHTS_SQL.format(months=months, target=flights, size=BATCH_SIZE))
        counts = _counts(db, months, flights)
    for reason, n_rows in counts.items():
        progress(f"  {n_rows:>10,} {reason}")
    return {
        "flights": flights,
        "weather": _no_rows(WEATHER),
        "aircraft": _no_rows(AIRCRAFT),
    }, counts


def _monthly_files(location: str) -> tuple[fs.FileSystem, list[str]]:
    is_url = "://" in location
    system, folder = (
        fs.FileSystem.from_uri(location) if is_url else (fs.LocalFileSystem(), location)
    )
    found = system.get_file_info(fs.FileSelector(folder)) if is_url or Path(folder).is_dir() else []
    paths = sorted(each.path for each in found if each.path.lower().endswith((".csv", ".zip")))
    if not paths:
        raise ValueError(f"ONTIME_SOURCE names a folder of .csv or .zip files; {location} has none")
    return system, paths


def _as_csv(system: fs.FileSystem, path: str, copy: Path) -> Path:
    """A monthly file as a CSV file on this machine: itself, or a copy, unzipped as it is read."""
    zipped = path.lower().endswith(".zip")
    if isinstance(system, fs.LocalFileSystem) and not zipped:
        return Path(path)
    with system.open_input_file(path) as stored, copy.open("wb") as target:
        if not zipped:
            shutil.copyfileobj(stored, target)
            return copy
        with zipfile.ZipFile(stored) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
            if len(names) != 1:  # a page of explanations is beside it
                raise ValueError(f"the archive has one .csv file; it has {len(names)}")
            with archive.open(names[0]) as source:
                shutil.copyfileobj(source, target)
    return copy


def _read_month(db: "DuckDBPyConnection", file: Path, target: Path) -> int:
    with file.open(newline="", encoding="latin-1") as text:
        header = next(csv.reader(text), [])
    if absent := [name for name in COLUMNS if name not in header]:
        raise ValueError(f"the columns {absent} are absent")
    sql = MONTH_SQL.format(
        file=str(file).replace("'", "''"),
        target=target,
        columns=", ".join(COLUMNS),
        tail_number=TAIL_NUMBER_PATTERN,
        shortest=SHORTEST_DELAY_MIN,
        longest=LONGEST_DELAY_MIN,
        late_min=LATE_MIN,
    )
    (n_rows,) = db.execute(sql).fetchone() or (0,)
    return int(n_rows)


def _counts(db: "DuckDBPyConnection", months: str, flights: Path) -> dict[str, int]:
    found = db.execute(f"SELECT left_out, count(*) FROM read_parquet('{months}') GROUP BY ALL")
    rows = dict(found.fetchall())
    conditions = [
        "true",
        "tailnum IS NULL",
        "status = 'cancelled'",
        "status = 'diverted'",
        f"greatest(dep_delay_min, arr_delay_min) = {LONGEST_DELAY_MIN}",
    ]
    counts = ", ".join(f"count(*) FILTER ({each})" for each in conditions)
    found = db.execute(f"SELECT {counts} FROM read_parquet('{flights}')")
    (kept, without_tail, cancelled, diverted, longest), *_ = found.fetchall()
    rows["repeated"] = rows.get(None, 0) - kept
    return {f"flights left out: {text}": rows.get(why, 0) for why, text in LEFT_OUT.items()} | {
        "flights without a tail number (kept as traffic, left out of examples)": without_tail,
        "flights cancelled": cancelled,
        "flights diverted": diverted,
        f"flights with a delay of {LONGEST_DELAY_MIN:,} minutes or more (set to it)": longest,
    }


def _no_rows(table: Table) -> pd.DataFrame:
    dtypes = {"string": "object", "timestamp": TIMESTAMP}
    return pd.DataFrame(
        {
            name: pd.Series(dtype=dtypes.get(column.dtype, column.dtype))
            for name, column in table.columns.items()
        }
    )


# Times are local HHMM, of which 2400 is the midnight that ends the day. Departures become UTC with
# the zone of the origin. In the hour that a clock shows twice the second moment is taken, and a
# time that it skips is an hour later.
# An arrival is the departure plus the scheduled minutes; where those are missing, the first moment
# after the departure at which the destination's clock shows the scheduled time.
# Actual times are the scheduled ones plus the reported delay, and an outcome becomes known, as in
# `source`. The Bureau's flags tell cancelled and diverted flights: a cancelled one may have left
# the gate and come back, and a diverted one may have reached its destination in the end.
MONTH_SQL = """
COPY (
    WITH raw AS (
        SELECT
            replace(Reporting_Airline, ' ', '') AS carrier,
            Flight_Number_Reporting_Airline::INTEGER AS flight,
            Origin AS origin,
            Dest AS dest,
            CASE
                WHEN regexp_full_match(Tail_Number, '{tail_number}')
                    AND Tail_Number NOT IN ('000000', 'UNKNOW') THEN Tail_Number
            END AS tailnum,
            make_date(Year::INTEGER, Month::INTEGER, DayofMonth::INTEGER)::TIMESTAMP AS day,
            CRSDepTime::INTEGER AS departs,
            CRSArrTime::INTEGER AS arrives,
            CRSElapsedTime::DOUBLE::BIGINT AS block_min,
            CASE
                WHEN Cancelled::DOUBLE = 1 THEN 'cancelled'
                WHEN Diverted::DOUBLE = 1 THEN 'diverted'
                WHEN ArrDelay IS NOT NULL THEN 'arrived'
            END AS status,
            DepDelay::DOUBLE::BIGINT AS dep_delay,
            CASE WHEN status = 'arrived' THEN ArrDelay::DOUBLE::BIGINT END AS arr_delay
        FROM (
            SELECT {columns}
            FROM read_csv(
                '{file}', header = true, delim = ',', quote = '"', escape = '"', nullstr = '',
                all_varchar = true, encoding = 'latin-1'
            )
        )
    ),
    departing AS (
        SELECT
            raw.*,
            here.zone AS origin_zone,
            there.zone AS dest_zone,
            CASE
                WHEN departs BETWEEN 0 AND 2400 AND departs % 100 < 60
                    THEN timezone(here.zone, day + to_minutes(departs // 100 * 60 + departs % 100))
            END AS scheduled_departure
        FROM raw
        LEFT JOIN zones AS here ON here.airport = origin
        LEFT JOIN zones AS there ON there.airport = dest
    ),
    arriving AS (
        SELECT
            *,
            date_trunc('day', timezone(dest_zone, scheduled_departure))
                + to_minutes(arrives // 100 * 60 + arrives % 100) AS arrival_wall,
            CASE
                WHEN block_min BETWEEN 1 AND 1440
                    THEN scheduled_departure + to_minutes(block_min)
                WHEN timezone(dest_zone, arrival_wall) > scheduled_departure
                    THEN timezone(dest_zone, arrival_wall)
                ELSE timezone(dest_zone, arrival_wall + INTERVAL 1 DAY)
            END AS scheduled_arrival,
            scheduled_departure + to_minutes(dep_delay) AS left_gate_at,
            scheduled_arrival + to_minutes(arr_delay) AS arrived_at
        FROM departing
    )
    SELECT
        format('{{}}-{{}}-{{}}-{{}}',
            strftime(timezone(origin_zone, scheduled_departure), '%Y-%m-%d'),
            carrier, flight, origin) AS flight_id,
        carrier,
        flight,
        origin,
        dest,
        extract('hour' FROM timezone(origin_zone, scheduled_departure))::INTEGER AS departure_hour,
        tailnum,
        status,
        CASE
            WHEN status = 'cancelled' THEN NULL WHEN dep_delay > {longest} THEN {longest}
            ELSE dep_delay
        END::FLOAT AS dep_delay_min,
        CASE WHEN arr_delay > {longest} THEN {longest} ELSE arr_delay END::FLOAT AS arr_delay_min,
        (status <> 'arrived' OR arr_delay >= {late_min}) AS is_late,
        scheduled_departure,
        scheduled_arrival,
        CASE WHEN status <> 'cancelled' THEN left_gate_at END AS departed_at,
        arrived_at,
        CASE status
            WHEN 'arrived' THEN arrived_at
            WHEN 'cancelled' THEN greatest(scheduled_departure, left_gate_at) + INTERVAL 4 HOUR
            ELSE greatest(scheduled_arrival, left_gate_at) + INTERVAL 4 HOUR
        END AS outcome_known_at,
        CASE
            WHEN origin_zone IS NULL OR dest_zone IS NULL THEN 'airport'
            WHEN flight IS NULL OR flight NOT BETWEEN 1 AND 9999 THEN 'number'
            WHEN scheduled_arrival IS NULL THEN 'schedule'
            WHEN scheduled_arrival NOT BETWEEN scheduled_departure + INTERVAL 1 MINUTE
                AND scheduled_departure + INTERVAL 1 DAY THEN 'schedule'
            WHEN status IS NULL THEN 'outcome'
            WHEN dep_delay < {shortest} OR arr_delay < {shortest}
                OR arrived_at <= scheduled_departure THEN 'early'
        END AS left_out
    FROM arriving
) TO '{target}' (FORMAT parquet, COMPRESSION zstd)
"""

# An airline may use a number twice in a day from one airport, and a month may be there twice.
FLIGHTS_SQL = """
COPY (
    SELECT * EXCLUDE left_out FROM read_parquet('{months}')
    WHERE left_out IS NULL
    QUALIFY row_number() OVER (
        PARTITION BY flight_id ORDER BY scheduled_departure, dest, tailnum, arrived_at
    ) = 1
    ORDER BY scheduled_departure, flight_id
) TO '{target}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {size})
"""
