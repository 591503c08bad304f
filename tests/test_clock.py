"""The rules of time: when a flight is asked about, and how a moment is read."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontime.clock import LEAD, TICK, parse_moment, prediction_time

SECOND_OF_2013 = st.integers(0, 365 * 24 * 60 * 60)


def utc(*moments: str) -> pd.Series:
    return pd.Series(pd.to_datetime(list(moments), utc=True)).astype("datetime64[us, UTC]")


@pytest.mark.parametrize(
    ("departure", "asked"),
    [
        ("2013-05-01 12:00", "2013-05-01 10:00"),  # on the hour: exactly two hours before
        ("2013-05-01 12:01", "2013-05-01 10:00"),
        ("2013-05-01 12:59", "2013-05-01 10:00"),
        ("2013-05-01 01:30", "2013-04-30 23:00"),
    ],
)
def test_a_flight_is_asked_about_on_the_hour_two_to_three_hours_before(
    departure: str, asked: str
) -> None:
    assert prediction_time(utc(departure)).tolist() == utc(asked).tolist()


@given(second=SECOND_OF_2013)
def test_no_flight_is_asked_about_later_than_two_or_earlier_than_three_hours_before(
    second: int,
) -> None:
    moment = pd.Timestamp("2013-01-01 00:00Z") + timedelta(seconds=second)
    (asked,) = prediction_time(pd.Series([moment]))
    assert LEAD <= moment - asked < LEAD + TICK
    assert (asked.minute, asked.second, asked.microsecond) == (0, 0, 0)


def test_the_hour_is_utc_also_where_the_clock_jumps() -> None:
    before, after = utc("2013-03-10 06:59", "2013-03-10 07:00")  # 01:59 and 03:00 in New York
    assert prediction_time(pd.Series([before, after])).diff().iloc[1] == timedelta(hours=1)


def test_prediction_times_keep_microseconds_and_zone() -> None:
    assert prediction_time(utc("2013-05-01 12:34")).dtype == "datetime64[us, UTC]"


@pytest.mark.parametrize(
    "text",
    [
        "2013-05-01",
        "2013-05-01T00:00",
        "2013-05-01T00:00Z",
        "2013-05-01T02:00+02:00",
        "2013-04-30T20:00:00-04:00",
    ],
)
def test_a_moment_is_read_as_utc_with_or_without_an_offset(text: str) -> None:
    moment = parse_moment(text)
    assert moment == datetime(2013, 5, 1, tzinfo=UTC)
    assert moment.tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "2013-13-01", "01.05.2013"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|month"):
        parse_moment(text)
