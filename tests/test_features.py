"""Every view against an oracle one can read: pandas masks over the flights, a key and tick at once.

Keys and ticks are drawn from all there are, not from the rows that were built, so that a row too
many or too few is found as well as a wrong value. Values are compared exactly: both sides add whole
minutes in 64 bits and round once, to 32.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from ontime.features import FEATURE_SPEC, VIEWS, View
from ontime.features.request import (
    REQUEST_COLUMNS,
    SLACK_COLUMNS,
    add_request_features,
    departure_hour,
)
from ontime.features.runner import STEPS, build_features, sql
from ontime.tables import check_table

if TYPE_CHECKING:
    from tests.conftest import Source, World

HOUR, DAY = pd.Timedelta(hours=1), pd.Timedelta(days=1)
N_PAIRS = 300
BY_NAME = {view.name: view for view in VIEWS}

Key = tuple[Any, ...]
Expected = dict[str, float]


@pytest.fixture(scope="module")
def flights(world: "World") -> pd.DataFrame:
    flights = world.tables["flights"]
    local = flights.scheduled_departure.dt.tz_convert("America/New_York")
    return flights.assign(departure_hour=local.dt.hour)


def hours_between(first: datetime, last: datetime) -> list[pd.Timestamp]:
    return pd.date_range(first, last, freq=HOUR).tolist()


def damped(total: float, n: int, *, extra_n: int, extra: float = 0) -> float:
    return (total + extra) / (n + extra_n)


def damped_mean(values: pd.Series) -> float:
    """A mean with two on-time flights more than there were."""
    return damped(float(values.astype("float64").sum()), len(values), extra_n=2)


def departed(flights: pd.DataFrame, tick: pd.Timestamp, hours: int) -> pd.DataFrame:
    when = flights.departed_at
    return flights[(when > tick - hours * HOUR) & (when <= tick)]


def overdue(flights: pd.DataFrame, tick: pd.Timestamp) -> pd.DataFrame:
    """Should have left, has not, and is not known to be cancelled."""
    settled = flights.departed_at.fillna(flights.outcome_known_at)
    return flights[(flights.scheduled_departure <= tick) & (settled > tick)]


def live_state(flights: pd.DataFrame, tick: pd.Timestamp) -> Expected:
    expected: Expected = {}
    for hours in (1, 3):
        gone = departed(flights, tick, hours)
        expected[f"n_departed_{hours}h"] = len(gone)
        expected[f"mean_dep_delay_{hours}h_min"] = damped_mean(gone.dep_delay_min)
        expected[f"share_dep_late_{hours}h"] = damped_mean(gone.dep_delay_min >= 15)
    waiting = overdue(flights, tick)
    minutes = (tick - waiting.scheduled_departure).dt.total_seconds() / 60
    return expected | {"n_overdue": len(waiting), "mean_overdue_min": damped_mean(minutes)}


def arrivals(flights: pd.DataFrame, tick: pd.Timestamp) -> Expected:
    """Outcomes that became known in three hours; a flight that never landed has no delay."""
    when = flights.outcome_known_at
    known = flights[(when > tick - 3 * HOUR) & (when <= tick)]
    return {
        "n_arrived_3h": len(known),
        "mean_arr_delay_3h_min": damped_mean(known.arr_delay_min.fillna(0)),
        "share_arr_late_3h": damped_mean(known.is_late),
    }


def first_event(flights: pd.DataFrame) -> pd.Timestamp:
    """The first hour at which anything is known of these flights; none: never."""
    overdue_at = flights.scheduled_departure.dt.ceil("h")
    settled = flights.departed_at.fillna(flights.outcome_known_at)
    moments = [
        flights.departed_at.dt.ceil("h"),
        flights.outcome_known_at.dt.ceil("h"),
        overdue_at[overdue_at < settled],
    ]
    return pd.concat(moments).min()


def prefixed(prefix: str, values: Expected) -> Expected:
    return {f"{prefix}_{name}": value for name, value in values.items()}


def rates(flights: pd.DataFrame, day: pd.Timestamp, prefix: str) -> Expected | None:
    """Outcomes known in the last days; None if there was not one in 28."""
    expected: Expected = {}
    for days in (1, 7, 28):
        when = flights.outcome_known_at
        known = flights[(when > day - days * DAY) & (when <= day)]
        rate = damped(int(known.is_late.sum()), len(known), extra_n=10, extra=2)
        expected[f"{prefix}_late_rate_{days}d"] = rate
    if known.empty:
        return None
    total = float(known.arr_delay_min.astype("float64").sum())
    return expected | {
        f"{prefix}_mean_arr_delay_28d_min": damped(total, len(known), extra_n=10),
        f"{prefix}_n_flights_28d": len(known),
    }


def built(world: "World", view: View) -> dict[Key, tuple[float, ...]]:
    """Each built row's values by key and moment."""
    rows = world.rows(view.name)
    keys = rows[[*view.keys, "event_timestamp"]].itertuples(index=False, name=None)
    values = rows[list(view.columns)].itertuples(index=False, name=None)
    return dict(zip(keys, values, strict=True))


def differences(
    world: "World", view: View, expected: Iterator[tuple[Key, Expected | None]]
) -> tuple[int, list[str]]:
    """How many keys were compared, and every value that differs from its row."""
    rows, wrong, n_rows = built(world, view), [], 0
    for key, values in expected:
        found = rows.get(key)
        if values is None or found is None:
            if (values is None) != (found is None):
                wrong.append(f"{key}: built {found}, expected {values}")
            continue
        n_rows += 1
        for name, value in zip(view.columns, found, strict=True):
            if np.float32(values[name]) != np.float32(value):
                wrong.append(f"{key} {name}: built {value}, expected {values[name]}")
    return n_rows, wrong


def drawn(flights: pd.DataFrame, view: View, moments: list[pd.Timestamp]) -> list[Key]:
    """Random pairs of a key of the view and a moment, the same in every run."""
    keys = list(flights[list(view.keys)].drop_duplicates().itertuples(index=False, name=None))
    chance = random.Random(view.name)
    return [(*chance.choice(keys), chance.choice(moments)) for _ in range(N_PAIRS)]


def hours_around_cancellations(flights: pd.DataFrame, n: int) -> list[Key]:
    """Origin and hour from a cancelled flight's schedule to two hours after it is known."""
    cancelled = flights[flights.status == "cancelled"].sample(n, random_state=0)
    return [
        (flight.origin, flight.scheduled_departure.ceil("h") + hour * HOUR)
        for flight in cancelled.itertuples()
        for hour in range(7)
    ]


def of_key(flights: pd.DataFrame, view: View) -> dict[Key, pd.DataFrame]:
    return dict(iter(flights.groupby(list(view.keys))))


def test_origin_state_is_what_the_flights_say(world: "World", flights: pd.DataFrame) -> None:
    view = BY_NAME["origin_state"]
    by_origin = of_key(flights, view)
    firsts = {key: first_event(here) for key, here in by_origin.items()}
    pairs = drawn(flights, view, hours_between(datetime(2013, 1, 1, 6, tzinfo=UTC), world.until))
    pairs += [key for key in hours_around_cancellations(flights, 20) if key[1] <= world.until]

    def expected() -> Iterator[tuple[Key, Expected | None]]:
        for origin, tick in pairs:
            here = by_origin[(origin,)]
            if tick < firsts[(origin,)]:
                yield (origin, tick), None
                continue
            of_network = prefixed("network", live_state(flights, tick))
            yield (origin, tick), prefixed("origin", live_state(here, tick)) | of_network

    n_rows, wrong = differences(world, view, expected())
    assert wrong == []
    assert n_rows > 400


def test_carrier_origin_state_is_what_the_flights_say(
    world: "World", flights: pd.DataFrame
) -> None:
    view = BY_NAME["carrier_origin_state"]
    groups = of_key(flights, view)
    firsts = {key: first_event(here) for key, here in groups.items()}

    def expected() -> Iterator[tuple[Key, Expected | None]]:
        hours = hours_between(datetime(2013, 1, 1, 6, tzinfo=UTC), world.until)
        for *key, tick in drawn(flights, view, hours):
            here = groups[tuple(key)]
            state = prefixed("carrier", live_state(here, tick))
            yield (*key, tick), state if tick >= firsts[tuple(key)] else None

    n_rows, wrong = differences(world, view, expected())
    assert wrong == []
    assert n_rows > 250


def test_dest_state_is_what_the_flights_say(world: "World", flights: pd.DataFrame) -> None:
    view = BY_NAME["dest_state"]
    groups = of_key(flights, view)
    firsts = {key: first_event(here) for key, here in groups.items()}

    def expected() -> Iterator[tuple[Key, Expected | None]]:
        hours = hours_between(datetime(2013, 1, 1, 6, tzinfo=UTC), world.until)
        for *key, tick in drawn(flights, view, hours):
            here = groups[tuple(key)]
            state = prefixed("dest", live_state(here, tick) | arrivals(here, tick))
            yield (*key, tick), state if tick >= firsts[tuple(key)] else None

    n_rows, wrong = differences(world, view, expected())
    assert wrong == []
    assert n_rows > 250


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("carrier_rates", "carrier"),
        ("route_rates", "route"),
        ("flight_rates", "flight"),
        ("origin_hour_rates", "origin_hour"),
    ],
)
def test_rolling_rates_are_what_the_outcomes_say(
    world: "World", flights: pd.DataFrame, name: str, prefix: str
) -> None:
    view = BY_NAME[name]
    groups = of_key(flights, view)
    first = datetime(2013, 1, 1, 8, tzinfo=UTC)  # the daily tick

    def expected() -> Iterator[tuple[Key, Expected | None]]:
        days = pd.date_range(first, world.until, freq=DAY).tolist()
        for *key, day in drawn(flights, view, days):
            yield (*key, day), rates(groups[tuple(key)], day, prefix)

    n_rows, wrong = differences(world, view, expected())
    assert wrong == []
    assert 100 < n_rows <= N_PAIRS


def test_daily_rates_exist_at_the_daily_tick_and_at_no_other_time(world: "World") -> None:
    for name in ("carrier_rates", "route_rates", "flight_rates", "origin_hour_rates"):
        stamps = world.rows(name).event_timestamp
        assert (stamps.dt.floor("D") + 8 * HOUR == stamps).all(), name


def test_the_1_day_window_of_a_late_outcome_is_the_next_daily_tick_only(
    source: "Source",
) -> None:
    late = one_flight(source, outcome_known_at="2013-01-05 08:00:00", is_late=True)
    rows = built_by_hand(source, [late], "carrier_rates", until=datetime(2013, 1, 9, tzinfo=UTC))
    expected = {"2013-01-05 08:00": 3 / 11, "2013-01-06 08:00": 2 / 10, "2013-01-07 08:00": 2 / 10}
    moments = rows.event_timestamp.dt.strftime("%Y-%m-%d %H:%M")
    found = dict(zip(moments, rows.carrier_late_rate_1d.astype(float), strict=True))
    assert found == pytest.approx(expected | {"2013-01-08 08:00": 2 / 10})


def last_leg(legs: pd.DataFrame, moment: pd.Timestamp) -> Expected | None:
    """The newest departure or landing of one aircraft; a landing before a departure."""
    events = []
    for leg in legs.itertuples():
        block = leg.scheduled_arrival - leg.scheduled_departure
        values = {"aircraft_block_min": block / pd.Timedelta(minutes=1)}
        for landed, at, delay, way_back in (
            (False, leg.departed_at, leg.dep_delay_min, 2 * block),
            (True, leg.arrived_at, leg.arr_delay_min, block),
        ):
            if pd.notna(at) and at <= moment:
                back = (at + way_back + pd.Timedelta(minutes=40)).timestamp() / 60
                values = values | {
                    "aircraft_delay_min": delay,
                    "aircraft_is_landed": landed,
                    "aircraft_earliest_return_epoch_min": back,
                }
                events.append((at, landed, leg.flight_id, values))
    return max(events, key=lambda event: event[:3])[3] if events else None


def test_aircraft_leg_is_the_last_one_known(world: "World", flights: pd.DataFrame) -> None:
    view = BY_NAME["aircraft_leg"]
    rows = dict(iter(world.rows(view.name).groupby("tailnum")))
    legs = dict(iter(flights.groupby("tailnum")))
    chance = random.Random(0)
    minutes = pd.date_range("2013-01-01 10:00Z", world.until, freq="min")
    wrong, n_known = [], 0
    for _ in range(N_PAIRS):
        tail, moment = chance.choice(list(legs)), chance.choice(minutes)
        expected = last_leg(legs[tail], moment)
        known = rows[tail].query("event_timestamp <= @moment") if tail in rows else pd.DataFrame()
        newest = known.iloc[-1] if len(known) else None
        if expected is None or newest is None:
            wrong += [(tail, moment, "row")] if (expected is None) != (newest is None) else []
            continue
        n_known += 1
        wrong += [
            (tail, moment, name) for name in view.columns if float(newest[name]) != expected[name]
        ]
    assert wrong == []
    assert n_known > 200


def test_of_two_events_of_an_aircraft_in_one_minute_the_landing_counts(source: "Source") -> None:
    first = one_flight(source, tailnum="N1", arrived_at="2013-01-01 14:00", arr_delay_min=7)
    second = one_flight(source, tailnum="N1", departed_at="2013-01-01 14:00", dep_delay_min=99)
    rows = built_by_hand(source, [first, second], "aircraft_leg")
    (row,) = rows[rows.event_timestamp == pd.Timestamp("2013-01-01 14:00Z")].itertuples()
    assert (row.aircraft_is_landed, row.aircraft_delay_min) == (1, 7)


def test_aircraft_are_those_of_the_registry(world: "World") -> None:
    planes, rows = world.tables["aircraft"].set_index("tailnum"), world.rows("aircraft")
    found = rows.set_index("tailnum")
    assert found.aircraft_n_seats.to_dict() == planes.n_seats.to_dict()
    pd.testing.assert_series_equal(
        found.aircraft_age_years, 2013 - planes.built_year, check_names=False, check_like=True
    )
    assert rows.event_timestamp.unique().tolist() == [pd.Timestamp("2013-01-01 00:00Z")]


def test_weather_of_an_hour_is_the_observation_filed_under_the_hour_before(
    world: "World",
) -> None:
    from ontime.source import source_dir

    raw = pd.read_csv(source_dir() / "weather.csv")
    raw["known_at"] = pd.to_datetime(raw.time_hour) + HOUR
    raw = raw[raw.known_at <= world.until].set_index(["origin", "known_at"]).sort_index()
    rows = world.rows("origin_weather").set_index(["origin", "event_timestamp"]).sort_index()
    assert rows.index.tolist() == raw.index.tolist()
    for ours, theirs in (("humidity_pct", "humid"), ("precipitation_in", "precip")):
        np.testing.assert_array_equal(rows[ours], raw[theirs].to_numpy("float32"))
    angle, speed = np.radians(raw.wind_dir), raw.wind_speed.where(raw.wind_speed < 100)
    for ours, part in (("wind_from_north_mph", np.cos), ("wind_from_east_mph", np.sin)):
        np.testing.assert_allclose(rows[ours], speed * part(angle), rtol=1e-5, atol=1e-4)


# By hand: one flight, of which only what is named happens.


def one_flight(source: "Source", **values: Any) -> pd.DataFrame:
    """A flight of EWR scheduled 10:30 to 13:00 that neither left nor was cancelled, changed."""
    like = source.tables["flights"].head(1)
    unknown = dict.fromkeys(("dep_delay_min", "arr_delay_min"), np.nan)
    times = dict.fromkeys(("departed_at", "arrived_at", "outcome_known_at"), pd.NaT)
    schedule = {"scheduled_departure": "2013-01-01 10:30", "scheduled_arrival": "2013-01-01 13:00"}
    changed = like.assign(**unknown, **(times | schedule), is_late=False).assign(**values)
    stamps = [*times, *schedule]
    changed[stamps] = changed[stamps].apply(pd.to_datetime, utc=True)
    return changed.astype(like.dtypes)


def built_by_hand(
    source: "Source",
    flights: list[pd.DataFrame],
    view: str,
    until: datetime = datetime(2013, 1, 1, 18, tzinfo=UTC),
) -> pd.DataFrame:
    tables = source.tables | {"flights": pd.concat(flights, ignore_index=True)}
    ((_, rows),) = build_features(tables, until, [BY_NAME[view]])
    return rows


def by_hour(rows: pd.DataFrame, column: str) -> dict[int, float]:
    hours = rows.event_timestamp.dt.hour
    return dict(zip(hours.tolist(), rows[column].tolist(), strict=True))


def test_a_cancelled_flight_is_overdue_for_four_hours_and_then_forgotten(
    source: "Source",
) -> None:
    cancelled = one_flight(source, outcome_known_at="2013-01-01 14:30", is_late=True)
    rows = built_by_hand(source, [cancelled], "origin_state")
    assert by_hour(rows, "origin_n_overdue") == dict.fromkeys([11, 12, 13, 14], 1) | dict.fromkeys(
        [15, 16, 17, 18], 0
    )
    minutes = by_hour(rows, "origin_mean_overdue_min")
    assert [minutes[hour] for hour in (11, 14, 15)] == [30 / 3, 210 / 3, 0]
    assert set(by_hour(rows, "network_n_departed_3h").values()) == {0}


def test_a_flight_counts_as_gone_at_the_very_hour_it_leaves(source: "Source") -> None:
    left = one_flight(source, departed_at="2013-01-01 12:00", dep_delay_min=90)
    rows = built_by_hand(source, [left], "origin_state")
    assert [by_hour(rows, "origin_n_overdue")[hour] for hour in (11, 12, 13)] == [1, 0, 0]
    assert [by_hour(rows, "origin_n_departed_1h")[hour] for hour in (11, 12, 13)] == [0, 1, 0]
    three = by_hour(rows, "origin_n_departed_3h")
    assert [three[hour] for hour in (11, 12, 13, 14, 15)] == [0, 1, 1, 1, 0]


def test_a_second_after_the_hour_is_the_next_hour(source: "Source") -> None:
    left = one_flight(source, departed_at="2013-01-01 12:00:01", dep_delay_min=90)
    rows = built_by_hand(source, [left], "origin_state")
    assert [by_hour(rows, "origin_n_departed_1h")[hour] for hour in (12, 13)] == [0, 1]


def test_a_flight_that_is_still_waiting_is_overdue_up_to_the_last_tick(source: "Source") -> None:
    rows = built_by_hand(source, [one_flight(source)], "origin_state")
    assert by_hour(rows, "origin_n_overdue")[18] == 1


def test_what_happens_after_the_last_tick_makes_no_row(source: "Source") -> None:
    until = datetime(2013, 1, 1, 18, tzinfo=UTC)
    later = one_flight(
        source,
        departed_at="2013-01-01 19:20",
        arrived_at="2013-01-01 23:00",
        outcome_known_at="2013-01-01 23:00",
    )
    tables = source.tables | {"flights": later}
    for view, rows in build_features(tables, until):
        assert not (rows.event_timestamp > until).any(), view.name


# What holds for every view.


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_rows_keep_their_schema_their_order_and_the_last_tick(world: "World", view: View) -> None:
    rows = world.rows(view.name)
    assert len(rows) > 500
    check_table(rows, view.table)
    assert not rows.duplicated([*view.keys, "event_timestamp"]).any()
    assert rows.event_timestamp.is_monotonic_increasing
    assert rows.event_timestamp.max() <= world.until


@pytest.mark.parametrize("name", ["origin_state", "carrier_origin_state", "dest_state"])
def test_a_live_state_has_every_hour_from_its_first_to_the_end(world: "World", name: str) -> None:
    keys = list(BY_NAME[name].keys)
    spans = world.rows(name).groupby(keys).event_timestamp.agg(["min", "max", "size"])
    assert (spans["max"] == world.until).all()
    assert (spans["size"] == (spans["max"] - spans["min"]) / HOUR + 1).all()


def test_building_twice_gives_the_same_rows(world: "World") -> None:
    for view, rows in build_features(world.tables, world.until):
        pd.testing.assert_frame_equal(rows, world.rows(view.name))


def test_every_sql_file_is_a_view_or_a_step_and_states_its_grain_and_when_it_is_known() -> None:
    folder = files("ontime.features")
    names = {file.name for file in folder.iterdir() if file.name.endswith(".sql")}
    assert names == {f"{name}.sql" for name in (*BY_NAME, *STEPS)}
    for name in (*BY_NAME, *STEPS):
        head = sql(name).split("\n\n")[0]
        assert "-- Grain: " in head and "-- Known when: " in head, name


def test_the_model_reads_every_column_once_and_no_hidden_one() -> None:
    grouped = [name for names in FEATURE_SPEC.groups.values() for name in names]
    assert list(FEATURE_SPEC.numeric) == grouped
    assert len(set(grouped)) == len(grouped)
    hidden = {name for view in VIEWS for name in view.hidden}
    declared = {name for view in VIEWS for name in view.columns}
    assert set(grouped) == declared - hidden | {*REQUEST_COLUMNS, *SLACK_COLUMNS}


# The request itself.


def requested(departure: str, arrival: str, earliest_return: str | None) -> pd.DataFrame:
    back = pd.Timestamp(earliest_return).timestamp() / 60 if earliest_return else np.nan
    return pd.DataFrame(
        {
            "scheduled_departure": [pd.Timestamp(departure)],
            "scheduled_arrival": [pd.Timestamp(arrival)],
            "aircraft_earliest_return_epoch_min": [back],
        }
    )


def test_request_features_of_a_known_flight() -> None:
    frame = requested("2013-07-05 16:45Z", "2013-07-05 19:00Z", "2013-07-05 15:30Z")
    as_of = pd.Series([pd.Timestamp("2013-07-05 14:00Z")])
    row = add_request_features(frame, as_of).iloc[0]
    assert row[list(REQUEST_COLUMNS)].tolist() == [12.75, 4, 135, 165]  # 12:45, a Friday
    assert row[list(SLACK_COLUMNS)].tolist() == [75, 75]


@pytest.mark.parametrize(
    ("earliest_return", "slack", "tight"),
    [
        ("2013-07-05 17:45Z", -60, -60),  # the aircraft cannot be back in time
        ("2013-07-06 16:45Z", -720, -90),  # clipped: half a day is as hopeless as a whole one
        ("2013-07-01 00:00Z", 1440, 150),
        (None, np.nan, np.nan),
    ],
)
def test_slack_is_the_time_between_the_earliest_return_and_departure(
    earliest_return: str | None, slack: float, tight: float
) -> None:
    frame = requested("2013-07-05 16:45Z", "2013-07-05 19:00Z", earliest_return)
    found = add_request_features(frame, frame.scheduled_departure)[list(SLACK_COLUMNS)]
    np.testing.assert_array_equal(found, np.array([[slack, tight]], dtype="float32"))


def test_the_departure_hour_is_new_yorks_in_winter_and_in_summer() -> None:
    departures = pd.Series(pd.to_datetime(["2013-01-02 04:59Z", "2013-07-02 04:59Z"]))
    hours = departure_hour(departures)
    assert hours.tolist() == [23, 0]
    assert hours.dtype == "int32"


def test_request_features_are_32_bits_wide_in_both_paths() -> None:
    frame = requested("2013-07-05 16:45Z", "2013-07-05 19:00Z", None)
    added = add_request_features(frame, frame.scheduled_departure - timedelta(hours=2))
    assert {str(added[name].dtype) for name in REQUEST_COLUMNS + SLACK_COLUMNS} == {"float32"}
