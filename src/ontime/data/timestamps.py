"""Timestamps: UTC everywhere, local wall-clock time only where a problem needs it.

No function here reads a clock. Whatever depends on "now" takes it as an argument.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

FIRST_YEAR, LAST_YEAR = 1970, 2100  # offsets are tabulated between these
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
NAT = np.iinfo(np.int64).min  # numpy's NaT as an integer


def parse_utc(text: str) -> datetime:
    """A UTC datetime from ISO 8601; a bare date or a time without an offset is taken as UTC.

    Raises:
        ValueError: if the text is not ISO 8601.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def utc_array(times: pd.Series) -> np.ndarray:
    """A column of UTC timestamps as datetime64[us] [n]."""
    return times.to_numpy(dtype="datetime64[us]")


def column_arrays(frame: pd.DataFrame, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Columns as arrays, [n] each: timestamps as datetime64[us] in UTC, all others unchanged."""
    return {
        name: utc_array(frame[name]) if frame[name].dtype.kind == "M" else frame[name].to_numpy()
        for name in names
    }


def utc_datetime64(moment: datetime) -> np.datetime64:
    """A datetime with a zone as datetime64[us] in UTC."""
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")


def utc_times(moments: Iterable[datetime | None]) -> np.ndarray:
    """Datetimes with a zone as datetime64[us] in UTC, [n]; None becomes NaT."""
    # As integers: numpy converts a datetime three times slower.
    us = [(moment - EPOCH) // MICROSECOND if moment else NAT for moment in moments]
    return np.array(us, np.int64).view("datetime64[us]")


def local_time(utc: np.ndarray, zone: str) -> np.ndarray:
    """Wall-clock time in a zone, datetime64[us] [n], of UTC times, datetime64[us] [n].

    The zone's offsets are looked up in a table: converting one row through pandas costs
    0.2 milliseconds, which a prediction request would pay for each time column.
    """
    starts, offsets = _offset_table(zone)
    return utc + offsets[np.searchsorted(starts, utc, side="right") - 1]


@cache
def _offset_table(zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Start of each period with one UTC offset, datetime64[us], and its offset, timedelta64[us]."""
    rules = ZoneInfo(zone)

    def offset(moment: datetime) -> timedelta:
        return moment.astimezone(rules).utcoffset() or timedelta(0)

    at = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
    starts, offsets = [at], [offset(at)]
    while at.year < LAST_YEAR:
        following = at + timedelta(days=1)
        if offset(following) != offsets[-1]:
            low, high = at, following  # the change is in (low, high]: find its minute
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) // timedelta(minutes=2) * timedelta(minutes=1)
                low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
            starts.append(high)
            offsets.append(offset(high))
        at = following
    naive = [start.replace(tzinfo=None) for start in starts]
    return np.array(naive, dtype="datetime64[us]"), np.array(offsets, dtype="timedelta64[us]")
