"""Schemas of the source tables, and when each of their values became known.

Times are UTC; units are in the names.
"""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from ontime.data.tables import Column, Table

FLIGHTS = Table(
    "flights",
    "one row per scheduled departure (carrier, flight, local date, origin)",
    ("flight_id",),
    {
        "flight_id": Column("string"),
        "carrier": Column("string"),
        "flight": Column("int32", 1, 9999),
        "origin": Column("string"),
        "dest": Column("string"),
        "departure_hour": Column("int32", 0, 23),
        "tailnum": Column("string", nullable=True),
        "status": Column("string", isin=("arrived", "cancelled", "diverted")),
        "dep_delay_min": Column("float32", -120, 2000, nullable=True),
        "arr_delay_min": Column("float32", -120, 2000, nullable=True),
        "is_late": Column("bool"),
        "scheduled_departure": Column("timestamp"),
        "scheduled_arrival": Column("timestamp"),
        "departed_at": Column("timestamp", nullable=True),
        "arrived_at": Column("timestamp", nullable=True),
        "outcome_known_at": Column("timestamp"),
    },
)

WEATHER = Table(
    "weather",
    "one row per origin and hourly observation",
    ("origin", "known_at"),
    {
        "origin": Column("string"),
        "wind_direction_deg": Column("float32", 0, 360, nullable=True),
        "wind_speed_mph": Column("float32", 0, 100, nullable=True),
        "wind_gust_mph": Column("float32", 0, 150, nullable=True),
        "humidity_pct": Column("float32", 0, 100, nullable=True),
        "precipitation_in": Column("float32", 0, 10),
        "visibility_mi": Column("float32", 0, 10),
        "known_at": Column("timestamp"),
    },
)

AIRCRAFT = Table(
    "aircraft",
    "one row per aircraft of the FAA registry",
    ("tailnum",),
    {
        "tailnum": Column("string"),
        "n_seats": Column("float32", 1, 1000),
        "built_year": Column("float32", 1920, 2100, nullable=True),
    },
)

SOURCE_TABLES = (FLIGHTS, WEATHER, AIRCRAFT)


def hide_after(
    tables: dict[str, pd.DataFrame], moment: datetime, schedule_ahead: timedelta = timedelta(0)
) -> dict[str, pd.DataFrame]:
    """The source tables as they were known at ``moment``; the no-look-ahead test reads them.

    A value that became known later is missing; the label, which cannot be missing, is inverted.

    Args:
        schedule_ahead: flights scheduled up to this long after ``moment`` are kept.
    """
    flights, weather = tables["flights"].copy(), tables["weather"]
    departed = flights.departed_at <= moment
    arrived = flights.arrived_at <= moment
    unknown = flights.outcome_known_at > moment
    flights.loc[~departed, ["departed_at", "dep_delay_min", "tailnum"]] = [pd.NaT, np.nan, None]
    flights.loc[~arrived, ["arrived_at", "arr_delay_min"]] = [pd.NaT, np.nan]
    flights.loc[unknown, ["outcome_known_at", "status"]] = [pd.NaT, None]
    flights["is_late"] = flights.is_late ^ unknown
    flights = flights[departed | (flights.scheduled_departure <= moment + schedule_ahead)]
    return tables | {"flights": flights, "weather": weather[weather.known_at <= moment]}
