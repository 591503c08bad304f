"""UTC parsing, columns as arrays, and local time against pandas."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from ontime.data.timestamps import (
    column_arrays,
    local_time,
    parse_utc,
    utc_array,
    utc_datetime64,
    utc_times,
)

# With changes at night and at midnight, half-hour offsets, half-hour changes, and none.
ZONES = [
    "America/Havana",
    "America/Santiago",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Apia",  # skipped the whole of 30 December 2011
    "UTC",
]
HALF_HOUR_US = 1_800_000_000


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-01",
        "2024-05-01T00:00",
        "2024-05-01T00:00Z",
        "2024-05-01T02:00+02:00",
        "2024-04-30T20:00:00-04:00",
    ],
)
def test_a_time_is_read_as_utc_with_or_without_an_offset(text: str) -> None:
    moment = parse_utc(text)
    assert moment == datetime(2024, 5, 1, tzinfo=UTC)
    assert moment.tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "2024-13-01", "01.05.2024"])
def test_a_text_that_is_no_time_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|month"):
        parse_utc(text)


def pandas_local_time(utc: np.ndarray, zone: str) -> np.ndarray:
    local = pd.DatetimeIndex(utc, tz="UTC").tz_convert(zone).tz_localize(None)
    return local.to_numpy(dtype="datetime64[us]")


@pytest.mark.parametrize("zone", ZONES)
def test_local_time_equals_pandas_in_every_hour_of_thirty_years(zone: str) -> None:
    utc = np.arange("1995-01-01", "2025-01-01", dtype="datetime64[h]").astype("datetime64[us]")
    np.testing.assert_array_equal(local_time(utc, zone), pandas_local_time(utc, zone))


@pytest.mark.parametrize("zone", ZONES)
def test_local_time_changes_at_the_right_microsecond(zone: str) -> None:
    hours = np.arange("2010-01-01", "2015-01-01", dtype="datetime64[h]").astype("datetime64[us]")
    offsets = pandas_local_time(hours, zone) - hours
    changes = hours[1:][np.diff(offsets) != np.timedelta64(0)]
    steps = np.array([-HALF_HOUR_US - 1, -HALF_HOUR_US, -1, 0, 1], dtype="timedelta64[us]")
    around = np.unique(changes[:, None] + steps)
    np.testing.assert_array_equal(local_time(around, zone), pandas_local_time(around, zone))


def test_columns_become_arrays_and_timestamps_utc() -> None:
    local = pd.to_datetime(pd.Series(["2024-05-01T02:00+02:00"])).dt.tz_convert("Asia/Tokyo")
    frame = pd.DataFrame({"at": local, "key": ["a"], "n": np.array([3], dtype="int32")})
    arrays = column_arrays(frame, ["at", "n", "key"])
    assert list(arrays) == ["at", "n", "key"]
    np.testing.assert_array_equal(arrays["at"], np.array(["2024-05-01"], dtype="datetime64[us]"))
    assert [values.dtype.str for values in arrays.values()] == ["<M8[us]", "<i4", "|O"]
    assert np.isnat(utc_array(pd.Series([pd.NaT], dtype="datetime64[us, UTC]"))).all()


def test_a_datetime_becomes_a_datetime64_in_utc() -> None:
    moment = datetime(2024, 5, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert utc_datetime64(moment) == np.datetime64("2024-05-01T00:00", "us")


def test_times_of_any_zone_become_utc_and_none_becomes_nat() -> None:
    moments = [parse_utc("2001-05-01T12:00:00.000001Z"), None, parse_utc("2001-05-01T14:00+02:00")]
    found = utc_times(moments)
    assert found.dtype == "datetime64[us]"
    assert str(found[0]) == "2001-05-01T12:00:00.000001" and np.isnat(found[1])
    assert str(found[2]) == "2001-05-01T12:00:00.000000"
