"""Every view against a readable oracle: pandas masks over the flights, for one key and tick.

Keys and ticks are drawn from all possible ones, not from the rows that were built, so that a row
too many or too few is found as well as a wrong value. Values are compared exactly: both sides add
whole minutes in 64 bits and round once, to 32.
"""

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ontime.features.spec import View
from ontime.problem import LOCAL_ZONE, VIEWS
from ontime.problem.source import source_dir
from ontime.settings import ROOT
from tests.conftest import Dataset

HOUR, DAY = pd.Timedelta(hours=1), pd.Timedelta(days=1)
N_PAIRS = 300
BY_NAME = {view.name: view for view in VIEWS}

Key = tuple[Any, ...]
Expected = dict[str, float]


@pytest.fixture(scope="module")
def flights(dataset: Dataset) -> pd.DataFrame:
    flights = dataset.tables["flights"]
    local = flights.scheduled_departure.dt.tz_convert(LOCAL_ZONE)
    assert (flights.departure_hour == local.dt.hour).all()
    return flights


def hours_between(first: datetime, last: datetime) -> list[pd.Timestamp]:
    return pd.date_range(first, last, freq=HOUR).tolist()


def damped(total: float, n: int, *, extra_n: int, extra: float = 0) -> float:
    return (total + extra) / (n + extra_n)


def damped_mean(values: pd.Series) -> float:
    """The mean with two more flights without delay."""
    return damped(float(values.astype("float64").sum()), len(values), extra_n=2)


def departed(flights: pd.DataFrame, tick: pd.Timestamp, hours: int) -> pd.DataFrame:
    when = flights.departed_at
    return flights[(when > tick - hours * HOUR) & (when <= tick)]


def overdue(flights: pd.DataFrame, tick: pd.Timestamp) -> pd.DataFrame:
    """Scheduled to have departed, not departed, and not known to be cancelled."""
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
    """Outcomes that became known in three hours; without a landing the delay is 0."""
    when = flights.outcome_known_at
    known = flights[(when > tick - 3 * HOUR) & (when <= tick)]
    return {
        "n_arrived_3h": len(known),
        "mean_arr_delay_3h_min": damped_mean(known.arr_delay_min.fillna(0)),
        "share_arr_late_3h": damped_mean(known.is_late),
    }


def as_counted(flights: pd.DataFrame) -> pd.DataFrame:
    """Flights in the order in which they count: from departure or schedule on, what is earlier."""
    counted_from = flights[["scheduled_departure", "departed_at"]].min(axis=1)
    return flights.assign(counted_from=counted_from).sort_values(["counted_from", "flight_id"])


def last_flights(flights: pd.DataFrame, tick: pd.Timestamp, n: int) -> Expected:
    """The last n flights that count at the tick, with the delay that was known of them then.

    Args:
        flights: in the order of `as_counted`.
    """
    last = flights[flights.counted_from <= tick].tail(n)
    known, gone = last.outcome_known_at <= tick, last.departed_at <= tick
    overdue_min = (tick - last.scheduled_departure).dt.total_seconds() // 60
    not_landed = last.dep_delay_min.where(gone, overdue_min)
    delay = last.arr_delay_min.fillna(0).where(known, not_landed).astype("float64")
    log_delay = np.round(1000 * np.sign(delay) * np.log(1 + delay.abs() / 10)).to_numpy()
    late = last.is_late.where(known, delay >= 15).to_numpy(bool)
    weights = np.arange(n - len(last), n) + 1  # the oldest of n flights has weight 1
    mean = damped(log_delay.sum(), len(last), extra_n=2)
    mean_square = damped((log_delay**2).sum(), len(last), extra_n=2)
    return {
        f"log_delay_last_{n}": (weights * log_delay).sum() / (n * (n + 1) / 2) / 1000,
        f"log_delay_spread_last_{n}": (mean_square - mean * mean) ** 0.5 / 1000,
        f"share_late_last_{n}": (weights * late).sum() / (n * (n + 1) / 2),
    }


def first_event(flights: pd.DataFrame) -> pd.Timestamp:
    """The first hour with an event of these flights; NaT without one."""
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
    """Rates of the outcomes known in the last days; None without one in 28 days."""
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


def built(dataset: Dataset, view: View) -> dict[Key, tuple[float, ...]]:
    """Each built row's values by key and moment."""
    rows = dataset.rows(view.name)
    keys = rows[[*view.keys, "event_timestamp"]].itertuples(index=False, name=None)
    values = rows[list(view.columns)].itertuples(index=False, name=None)
    return dict(zip(keys, values, strict=True))


def differences(
    dataset: Dataset, view: View, expected: Iterator[tuple[Key, Expected | None]]
) -> tuple[int, list[str]]:
    """The number of compared rows, and every value that differs."""
    rows, wrong, n_rows = built(dataset, view), [], 0
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
    """Origin and hour, from a cancelled flight's schedule to two hours after it is known."""
    cancelled = flights[flights.status == "cancelled"].sample(n, random_state=0)
    return [
        (flight.origin, flight.scheduled_departure.ceil("h") + hour * HOUR)
        for flight in cancelled.itertuples()
        for hour in range(7)
    ]


def of_key(flights: pd.DataFrame, view: View) -> dict[Key, pd.DataFrame]:
    return dict(iter(flights.groupby(list(view.keys))))


def test_origin_state_equals_the_oracle(dataset: Dataset, flights: pd.DataFrame) -> None:
    view = BY_NAME["origin_state"]
    by_origin = of_key(as_counted(flights), view)
    firsts = {key: first_event(here) for key, here in by_origin.items()}
    pairs = drawn(flights, view, hours_between(datetime(2013, 1, 1, 6, tzinfo=UTC), dataset.until))
    pairs += [key for key in hours_around_cancellations(flights, 20) if key[1] <= dataset.until]

    def expected() -> Iterator[tuple[Key, Expected | None]]:
        for origin, tick in pairs:
            here = by_origin[(origin,)]
            if tick < firsts[(origin,)]:
                yield (origin, tick), None
                continue
            of_network = prefixed("network", live_state(flights, tick))
            of_origin = prefixed("origin", live_state(here, tick) | last_flights(here, tick, 48))
            yield (origin, tick), of_origin | of_network

    n_rows, wrong = differences(dataset, view, expected())
    assert wrong == []
    assert n_rows > 400


def test_carrier_origin_state_equals_the_oracle(dataset: Dataset, flights: pd.DataFrame) -> None:
    view = BY_NAME["carrier_origin_state"]
    counted = as_counted(flights)
    groups = of_key(counted, view)
    of_carrier = dict(iter(counted.groupby("carrier")))
    firsts = {key: first_event(here) for key, here in groups.items()}

    def expected() -> Iterator[tuple[Key, Expected | None]]:
        hours = hours_between(datetime(2013, 1, 1, 6, tzinfo=UTC), dataset.until)
        for *key, tick in drawn(flights, view, hours):
            here = groups[tuple(key)]
            state = prefixed("carrier", live_state(here, tick))
            state |= prefixed("carrier", last_flights(of_carrier[key[0]], tick, 32))
            state |= prefixed("carrier_origin", last_flights(here, tick, 12))
            yield (*key, tick), state if tick >= firsts[tuple(key)] else None

    n_rows, wrong = differences(dataset, view, expected())
    assert wrong == []
    assert n_rows > 250


def test_dest_state_equals_the_oracle(dataset: Dataset, flights: pd.DataFrame) -> None:
    view = BY_NAME["dest_state"]
    groups = of_key(as_counted(flights), view)
    firsts = {key: first_event(here) for key, here in groups.items()}

    def expected() -> Iterator[tuple[Key, Expected | None]]:
        hours = hours_between(datetime(2013, 1, 1, 6, tzinfo=UTC), dataset.until)
        for *key, tick in drawn(flights, view, hours):
            here = groups[tuple(key)]
            state = live_state(here, tick) | arrivals(here, tick) | last_flights(here, tick, 8)
            state = prefixed("dest", state)
            yield (*key, tick), state if tick >= firsts[tuple(key)] else None

    n_rows, wrong = differences(dataset, view, expected())
    assert wrong == []
    assert n_rows > 250


def test_carrier_dest_state_equals_the_oracle_and_has_a_row_at_each_change(
    dataset: Dataset, flights: pd.DataFrame
) -> None:
    view = BY_NAME["carrier_dest_state"]
    groups, rows = of_key(as_counted(flights), view), of_key(dataset.rows(view.name), view)
    hours = hours_between(datetime(2013, 1, 1, 6, tzinfo=UTC), dataset.until)
    wrong, n_changed, n_unchanged = [], 0, 0
    for *key, tick in drawn(flights, view, hours):
        here, built_rows = groups[tuple(key)], rows[tuple(key)]
        known = built_rows[built_rows.event_timestamp <= tick]
        outcomes = here.outcome_known_at
        changed = (
            len(departed(here, tick, 1)) + len(overdue(here, tick)) > 0
            or ((outcomes > tick - HOUR) & (outcomes <= tick)).any()
        )
        if (known.event_timestamp == tick).any() != changed:
            wrong.append((key, tick, f"changed: {changed}"))
        if known.empty:
            wrong += [(key, tick, "no row")] if first_event(here) <= tick else []
            continue
        n_changed, n_unchanged = n_changed + changed, n_unchanged + (not changed)
        expected = prefixed("carrier_dest", last_flights(here, tick, 6))
        newest = known.iloc[-1]
        wrong += [
            (key, tick, name)
            for name in view.columns
            if np.float32(expected[name]) != np.float32(newest[name])
        ]
    assert wrong == []
    assert min(n_changed, n_unchanged) > 30


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("carrier_rates", "carrier"),
        ("route_rates", "route"),
        ("flight_rates", "flight"),
        ("origin_hour_rates", "origin_hour"),
    ],
)
def test_rolling_rates_equal_the_oracle(
    dataset: Dataset, flights: pd.DataFrame, name: str, prefix: str
) -> None:
    view = BY_NAME[name]
    groups = of_key(flights, view)
    first = datetime(2013, 1, 1, 8, tzinfo=UTC)  # the daily tick

    def expected() -> Iterator[tuple[Key, Expected | None]]:
        days = pd.date_range(first, dataset.until, freq=DAY).tolist()
        for *key, day in drawn(flights, view, days):
            yield (*key, day), rates(groups[tuple(key)], day, prefix)

    n_rows, wrong = differences(dataset, view, expected())
    assert wrong == []
    assert 100 < n_rows <= N_PAIRS


def test_daily_rates_exist_at_the_daily_tick_and_at_no_other_time(dataset: Dataset) -> None:
    for name in ("carrier_rates", "route_rates", "flight_rates", "origin_hour_rates"):
        stamps = dataset.rows(name).event_timestamp
        assert (stamps.dt.floor("D") + 8 * HOUR == stamps).all(), name


def last_leg(legs: pd.DataFrame, moment: pd.Timestamp) -> Expected | None:
    """The newest departure or landing of one aircraft; of two, the landing."""
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


def test_aircraft_leg_equals_the_oracle(dataset: Dataset, flights: pd.DataFrame) -> None:
    view = BY_NAME["aircraft_leg"]
    rows = dict(iter(dataset.rows(view.name).groupby("tailnum")))
    legs = dict(iter(flights.groupby("tailnum")))
    chance = random.Random(0)
    minutes = pd.date_range("2013-01-01 10:00Z", dataset.until, freq="min")
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


def test_aircraft_have_seats_and_age_from_the_registry(dataset: Dataset) -> None:
    planes, rows = dataset.tables["aircraft"].set_index("tailnum"), dataset.rows("aircraft")
    found = rows.set_index("tailnum")
    assert found.aircraft_n_seats.to_dict() == planes.n_seats.to_dict()
    pd.testing.assert_series_equal(
        found.aircraft_age_years, 2013 - planes.built_year, check_names=False, check_like=True
    )
    assert rows.event_timestamp.unique().tolist() == [pd.Timestamp("2013-01-01 00:00Z")]


def test_weather_of_an_hour_is_the_observation_filed_under_the_hour_before(
    dataset: Dataset,
) -> None:
    raw = pd.read_csv(source_dir() / "weather.csv")
    raw["known_at"] = pd.to_datetime(raw.time_hour) + HOUR
    raw = raw[raw.known_at < dataset.until].set_index(["origin", "known_at"]).sort_index()
    rows = dataset.rows("origin_weather").set_index(["origin", "event_timestamp"]).sort_index()
    assert rows.index.tolist() == raw.index.tolist()
    for ours, theirs in (("humidity_pct", "humid"), ("precipitation_in", "precip")):
        np.testing.assert_array_equal(rows[ours], raw[theirs].to_numpy("float32"))
    angle, speed = np.radians(raw.wind_dir), raw.wind_speed.where(raw.wind_speed < 100)
    for ours, part in (("wind_from_north_mph", np.cos), ("wind_from_east_mph", np.sin)):
        np.testing.assert_allclose(rows[ours], speed * part(angle), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["origin_state", "carrier_origin_state", "dest_state"])
def test_a_live_state_has_every_hour_from_its_first_to_the_end(dataset: Dataset, name: str) -> None:
    keys = list(BY_NAME[name].keys)
    spans = dataset.rows(name).groupby(keys).event_timestamp.agg(["min", "max", "size"])
    assert (spans["max"] == dataset.until).all()
    assert (spans["size"] == (spans["max"] - spans["min"]) / HOUR + 1).all()
    assert BY_NAME[name].ttl == 2 * HOUR, "an update that is an hour late marks it as stale"


def test_the_security_page_states_how_long_the_rows_of_each_view_are_used() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    stated: dict[str, pd.Timedelta] = {}
    for names, period in re.findall(r"^\| (`.+`) \|.+\| (\d+ (?:hours|days))", text, re.MULTILINE):
        stated |= dict.fromkeys(re.findall(r"`(\w+)`", names), pd.Timedelta(period))
    assert stated == {view.name: view.ttl for view in VIEWS}
