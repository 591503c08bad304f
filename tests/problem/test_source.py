"""`read_source` against the raw files, which are read a second time with pandas.

The reported local times are compared with the UTC times converted to the airport's zone.
"""

import zipfile
from datetime import UTC, datetime

import pandas as pd
import pytest

from ontime.problem.airports import airport_zones
from ontime.problem.flights import flight_id
from ontime.problem.source import FASTEST_WIND_MPH, PUERTO_RICO, source_dir
from tests.conftest import Source

# Published with the data: late, cancelled or diverted, by month of departure.
LATE_SHARES = [0.252, 0.279, 0.261, 0.307, 0.245, 0.344, 0.348, 0.261, 0.155, 0.183, 0.190, 0.362]
# Departed before and landed after 02:00 on 10 March, when daylight saving time began: the source
# reports the landing at 02:03, a local time that did not exist in Florida.
LANDED_IN_THE_MISSING_HOUR = "2013-03-09-B6-35-JFK"


@pytest.fixture(scope="module")
def flights(source: Source) -> pd.DataFrame:
    return source.tables["flights"]


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """The flights of the file, with the instance id and the destination's zone."""
    with (
        zipfile.ZipFile(source_dir() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        raw = pd.read_csv(file, engine="pyarrow", na_values=["NA"])
    days = pd.to_datetime(raw[["year", "month", "day"]])
    day = days.map({each: f"{each:%Y-%m-%d}" for each in days.unique()})
    raw["flight_id"] = day + "-" + raw.carrier + "-" + raw.flight.astype(str) + "-" + raw.origin
    zones = pd.read_csv(source_dir() / "airports.csv", index_col="faa").tzone
    return raw.assign(zone=raw.dest.map(zones).fillna("America/Puerto_Rico"))


@pytest.fixture(scope="module")
def both(raw: pd.DataFrame, flights: pd.DataFrame) -> pd.DataFrame:
    """Each flight joined with its raw row; shared column names end in ``_raw``."""
    return flights.merge(raw, on="flight_id", suffixes=("", "_raw"), validate="1:1")


def wall_clock(moments: pd.Series, zones: pd.Series) -> pd.Series:
    """UTC times as local HHMM (midnight is 0); NaN where missing."""
    shown = pd.Series(index=moments.index, dtype=float)
    for zone, group in moments.groupby(zones):
        local = group.dt.tz_convert(zone)
        shown[group.index] = local.dt.hour * 100 + local.dt.minute
    return shown


def test_late_shares_by_month_are_the_published_ones(flights: pd.DataFrame) -> None:
    shares = flights.is_late.groupby(flights.flight_id.str[5:7]).mean()
    assert shares.round(3).tolist() == LATE_SHARES


def test_every_source_row_is_one_flight_with_its_own_key(
    flights: pd.DataFrame, both: pd.DataFrame, raw: pd.DataFrame
) -> None:
    assert flights.flight_id.is_unique
    assert len(flights) == len(raw) == len(both) == 336_776


def test_the_key_in_sql_is_the_key_in_python(flights: pd.DataFrame) -> None:
    # Both sides of local midnight, and of the clock changes.
    night = flights[flights.scheduled_departure.dt.hour < 5]
    some = pd.concat([flights.iloc[::997], night.iloc[::17]])
    made = [
        flight_id(f.carrier, f.flight, f.origin, f.scheduled_departure) for f in some.itertuples()
    ]
    assert made == some.flight_id.tolist()


def test_departures_are_the_hour_that_the_source_states_in_utc(both: pd.DataFrame) -> None:
    stated = pd.to_datetime(both.time_hour, utc=True)
    assert (both.scheduled_departure.dt.floor("h") == stated).all()


@pytest.mark.parametrize(
    ("ours", "reported"),
    [("scheduled_departure", "sched_dep_time"), ("departed_at", "dep_time")],
)
def test_departures_show_the_reported_clock_in_new_york(
    both: pd.DataFrame, ours: str, reported: str
) -> None:
    new_york = pd.Series("America/New_York", index=both.index)
    shown = wall_clock(both[ours], new_york)
    pd.testing.assert_series_equal(shown, both[reported] % 2400.0, check_names=False)


def test_scheduled_arrivals_show_the_reported_clock_at_the_destination(both: pd.DataFrame) -> None:
    shown = wall_clock(both.scheduled_arrival, both.zone)
    assert (shown == both.sched_arr_time % 2400).all()


def test_landings_show_the_reported_clock_at_the_destination(both: pd.DataFrame) -> None:
    landed = both[both.arrived_at.notna()]
    differs = wall_clock(landed.arrived_at, landed.zone) != landed.arr_time % 2400
    assert landed.flight_id[differs].tolist() == [LANDED_IN_THE_MISSING_HOUR]


@pytest.mark.parametrize(
    ("key", "departure", "arrival"),
    [
        # 23:59 on the 9th, EST, and 05:00 on the 10th, EDT: 5 h 1 min apart in local time, 4 h
        # 1 min in UTC.
        ("2013-03-09-B6-727-JFK", "2013-03-10 04:59", "2013-03-10 08:38"),
        ("2013-03-10-US-1113-EWR", "2013-03-10 09:00", "2013-03-10 10:48"),
        # 23:59 on the 2nd, EDT, and 05:20 on the 3rd, EST.
        ("2013-11-02-B6-1503-JFK", "2013-11-03 03:59", "2013-11-03 07:40"),
        ("2013-11-03-UA-322-EWR", "2013-11-03 10:20", "2013-11-03 14:00"),
        # Past midnight: 20:30 to 00:05 in California.
        ("2013-01-01-UA-1482-EWR", "2013-01-02 01:30", "2013-01-02 08:05"),
        # Puerto Rico is an hour ahead of New York in winter and level in summer.
        ("2013-01-01-B6-709-JFK", "2013-01-01 11:15", "2013-01-01 15:00"),
        ("2013-07-01-B6-1403-JFK", "2013-07-01 10:11", "2013-07-01 13:54"),
    ],
)
def test_known_flights_have_their_known_times(
    flights: pd.DataFrame, key: str, departure: str, arrival: str
) -> None:
    (flight,) = flights[flights.flight_id == key].itertuples()
    assert f"{flight.scheduled_departure:%Y-%m-%d %H:%M}" == departure
    assert f"{flight.scheduled_arrival:%Y-%m-%d %H:%M}" == arrival


def test_a_delay_across_midnight_is_a_day_later_and_not_a_day_earlier(
    flights: pd.DataFrame,
) -> None:
    (flight,) = flights[flights.flight_id == "2013-01-09-HA-51-JFK"].itertuples()
    assert flight.departed_at == datetime(2013, 1, 10, 11, 41, tzinfo=UTC)  # 1,301 minutes late
    assert flight.arrived_at == datetime(2013, 1, 10, 22, 42, tzinfo=UTC)


def test_no_flight_takes_no_time_or_a_day(flights: pd.DataFrame) -> None:
    scheduled_min = (flights.scheduled_arrival - flights.scheduled_departure).dt.seconds / 60
    flown_min = (flights.arrived_at - flights.departed_at).dt.total_seconds() / 60
    assert scheduled_min.between(50, 700).all()
    assert flown_min.dropna().between(20, 800).all()


def test_status_and_label_are_the_raw_ones(both: pd.DataFrame) -> None:
    cancelled, landed = both.dep_time.isna(), both.arr_delay.notna()
    assert (both.status == "cancelled").equals(cancelled)
    assert (both.status == "diverted").equals(~cancelled & ~landed)
    assert both.is_late.equals(~landed | (both.arr_delay >= 15))
    assert both.departed_at.isna().equals(cancelled)
    assert both.arrived_at.isna().equals(~landed)


def test_an_outcome_is_known_at_landing_or_four_hours_after_it_should_have_been(
    flights: pd.DataFrame,
) -> None:
    arrived, cancelled, diverted = (
        flights[flights.status == status] for status in ("arrived", "cancelled", "diverted")
    )
    four_hours = pd.Timedelta(hours=4)
    assert (arrived.outcome_known_at == arrived.arrived_at).all()
    assert (cancelled.outcome_known_at == cancelled.scheduled_departure + four_hours).all()
    expected = diverted[["scheduled_arrival", "departed_at"]].max(axis=1) + four_hours
    assert (diverted.outcome_known_at == expected).all()


def test_no_outcome_is_known_before_the_prediction_time(flights: pd.DataFrame) -> None:
    assert (flights.outcome_known_at > flights.scheduled_departure - pd.Timedelta(hours=2)).all()


def test_weather_becomes_known_an_hour_after_the_hour_it_is_filed_under(source: Source) -> None:
    weather = source.tables["weather"].set_index(["origin", "known_at"]).humidity_pct
    raw = pd.read_csv(source_dir() / "weather.csv")
    known_at = pd.to_datetime(raw.time_hour) + pd.Timedelta(hours=1)
    raw["known_at"] = known_at.astype("datetime64[us, UTC]")
    expected = raw.set_index(["origin", "known_at"]).humid.astype("float32")
    pd.testing.assert_series_equal(weather, expected, check_names=False, check_like=True)


def test_the_1048_mph_wind_is_missing_and_counted(source: Source) -> None:
    weather = source.tables["weather"]
    (row,) = weather[
        (weather.origin == "EWR") & (weather.known_at == pd.Timestamp("2013-02-12 09:00Z"))
    ].itertuples()
    assert pd.isna([row.wind_speed_mph, row.wind_gust_mph, row.wind_direction_deg]).all()
    assert row.humidity_pct == pytest.approx(61.63)
    assert weather.wind_speed_mph.max() < 50
    reason = f"weather rows with wind above {FASTEST_WIND_MPH:.0f} mph (wind set missing)"
    assert source.counts[reason] == 1


def test_the_counts_are_those_of_the_source_and_every_one_is_printed(
    source: Source, raw: pd.DataFrame
) -> None:
    raw_weather = pd.read_csv(source_dir() / "weather.csv")
    assert list(source.counts.values()) == [
        raw.dest.isin(PUERTO_RICO).sum(),
        raw.tailnum.isna().sum(),
        raw.dep_time.isna().sum(),
        (raw.dep_time.notna() & raw.arr_delay.isna()).sum(),
        (raw_weather.wind_speed > FASTEST_WIND_MPH).sum(),
        raw_weather.wind_gust.isna().sum(),
    ]
    assert list(source.counts.values()) == [7_602, 2_512, 8_255, 1_175, 1, 20_778]
    assert source.printed == [f"  {rows:>7,} {why}" for why, rows in source.counts.items()]


def test_the_counts_match_the_tables(source: Source) -> None:
    flights, weather = source.tables["flights"], source.tables["weather"]
    assert flights.tailnum.isna().sum() == 2_512
    assert flights.status.value_counts()[["cancelled", "diverted"]].tolist() == [8_255, 1_175]
    # Every missing gust is the wind speed, except in the row whose wind was removed.
    assert (weather.wind_gust_mph.isna() == weather.wind_speed_mph.isna()).all()
    assert (weather.wind_gust_mph == weather.wind_speed_mph).sum() >= 20_778 - 5


def test_every_flight_without_a_tail_number_was_cancelled(flights: pd.DataFrame) -> None:
    assert set(flights.status[flights.tailnum.isna()]) == {"cancelled"}


def test_the_zones_of_the_airports_show_the_clocks_that_the_source_reports(
    both: pd.DataFrame,
) -> None:
    """The table of the API's ids and of the monthly files, against the source's own zones."""
    zones = airport_zones()
    assert set(both.origin.map(zones)) == {"America/New_York"}
    shown = wall_clock(both.scheduled_arrival, both.dest.map(zones))
    assert (shown == both.sched_arr_time % 2400).all()


def test_the_airports_set_to_puerto_rico_are_those_the_source_has_no_zone_for(
    raw: pd.DataFrame,
) -> None:
    airports = pd.read_csv(source_dir() / "airports.csv").dropna(subset=["tzone"])
    assert set(raw.dest) - set(airports.faa) == set(PUERTO_RICO)
