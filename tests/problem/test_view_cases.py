"""Views of hand-made flights: one row each, of which only the named events happen."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ontime.features.builder import build_features, grid_end
from ontime.problem import VIEWS, hide_after
from tests.conftest import Dataset, Source

BY_NAME = {view.name: view for view in VIEWS}


def one_flight(source: Source, **values: Any) -> pd.DataFrame:
    """A flight scheduled from 10:30 to 13:00 of which nothing else is known, with changes."""
    like = source.tables["flights"].head(1)
    unknown = dict.fromkeys(("dep_delay_min", "arr_delay_min"), np.nan)
    times = dict.fromkeys(("departed_at", "arrived_at", "outcome_known_at"), pd.NaT)
    schedule = {"scheduled_departure": "2013-01-01 10:30", "scheduled_arrival": "2013-01-01 13:00"}
    changed = like.assign(**unknown, **(times | schedule), is_late=False).assign(**values)
    stamps = [*times, *schedule]
    changed[stamps] = changed[stamps].apply(pd.to_datetime, utc=True)
    return changed.astype(like.dtypes)


def late_flight(source: Source) -> pd.DataFrame:
    """One that departs at 12:15 and lands at 14:20, known at once."""
    return one_flight(
        source,
        departed_at="2013-01-01 12:15",
        dep_delay_min=105,
        arrived_at="2013-01-01 14:20",
        arr_delay_min=80,
        outcome_known_at="2013-01-01 14:20",
        is_late=True,
    )


def built_by_hand(
    source: Source,
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


def test_a_cancelled_flight_is_overdue_until_its_cancellation_is_known(
    source: Source,
) -> None:
    cancelled = one_flight(source, outcome_known_at="2013-01-01 14:30", is_late=True)
    rows = built_by_hand(source, [cancelled], "origin_state")
    assert by_hour(rows, "origin_n_overdue") == dict.fromkeys([11, 12, 13, 14], 1) | dict.fromkeys(
        [15, 16, 17, 18], 0
    )
    minutes = by_hour(rows, "origin_mean_overdue_min")
    assert [minutes[hour] for hour in (11, 14, 15)] == [30 / 3, 210 / 3, 0]
    assert set(by_hour(rows, "network_n_departed_3h").values()) == {0}


def test_a_flight_counts_as_departed_at_the_hour_of_its_departure(source: Source) -> None:
    left = one_flight(source, departed_at="2013-01-01 12:00", dep_delay_min=90)
    rows = built_by_hand(source, [left], "origin_state")
    assert [by_hour(rows, "origin_n_overdue")[hour] for hour in (11, 12, 13)] == [1, 0, 0]
    assert [by_hour(rows, "origin_n_departed_1h")[hour] for hour in (11, 12, 13)] == [0, 1, 0]
    three = by_hour(rows, "origin_n_departed_3h")
    assert [three[hour] for hour in (11, 12, 13, 14, 15)] == [0, 1, 1, 1, 0]


def test_a_departure_one_second_after_the_hour_counts_at_the_next_hour(source: Source) -> None:
    left = one_flight(source, departed_at="2013-01-01 12:00:01", dep_delay_min=90)
    rows = built_by_hand(source, [left], "origin_state")
    assert [by_hour(rows, "origin_n_departed_1h")[hour] for hour in (12, 13)] == [0, 1]


def test_a_flight_without_departure_is_overdue_up_to_the_last_tick(source: Source) -> None:
    rows = built_by_hand(source, [one_flight(source)], "origin_state")
    assert by_hour(rows, "origin_n_overdue")[18] == 1


def log_delay(minutes: float) -> float:
    return round(1000 * math.log(1 + minutes / 10)) / 1000


def test_the_delay_of_a_last_flight_is_what_is_known_of_it_at_the_hour(source: Source) -> None:
    late = late_flight(source)
    rows = built_by_hand(source, [late], "carrier_dest_state")
    newest_of_six = 6 / 21
    minutes = {11: 30, 12: 90, 13: 105, 15: 80}  # overdue, overdue, departed, landed
    found = by_hour(rows, "carrier_dest_log_delay_last_6")
    expected = {hour: newest_of_six * log_delay(delay) for hour, delay in minutes.items()}
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_cancelled_last_flight_is_late_without_delay_and_stays_the_last(source: Source) -> None:
    cancelled = one_flight(source, outcome_known_at="2013-01-01 14:30", is_late=True)
    rows = built_by_hand(source, [cancelled], "carrier_origin_state")
    late, delay = (by_hour(rows, f"carrier_{name}_last_32") for name in ("share_late", "log_delay"))
    newest_of_32 = 32 / (32 * 33 / 2)
    assert delay[14] == pytest.approx(newest_of_32 * log_delay(210), rel=1e-6)
    assert [delay[hour] for hour in (15, 18)] == [0, 0]
    assert [late[hour] for hour in (14, 15, 18)] == pytest.approx([newest_of_32] * 3)


def test_a_flight_that_left_early_counts_from_its_departure(source: Source) -> None:
    early = one_flight(source, departed_at="2013-01-01 09:50", dep_delay_min=-40)
    rows = built_by_hand(source, [early], "dest_state")
    delay = by_hour(rows, "dest_log_delay_last_8")
    assert [delay[hour] for hour in (10, 18)] == pytest.approx([8 / 36 * -log_delay(40)] * 2)


def test_events_after_the_last_tick_make_no_row(source: Source) -> None:
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


def test_the_1_day_window_of_a_late_outcome_is_the_next_daily_tick_only(
    source: Source,
) -> None:
    late = one_flight(source, outcome_known_at="2013-01-05 08:00:00", is_late=True)
    rows = built_by_hand(source, [late], "carrier_rates", until=datetime(2013, 1, 9, tzinfo=UTC))
    expected = {"2013-01-05 08:00": 3 / 11, "2013-01-06 08:00": 2 / 10, "2013-01-07 08:00": 2 / 10}
    moments = rows.event_timestamp.dt.strftime("%Y-%m-%d %H:%M")
    found = dict(zip(moments, rows.carrier_late_rate_1d.astype(float), strict=True))
    assert found == pytest.approx(expected | {"2013-01-08 08:00": 2 / 10})


def test_of_two_events_of_an_aircraft_in_one_minute_the_landing_counts(source: Source) -> None:
    first = one_flight(source, tailnum="N1", arrived_at="2013-01-01 14:00", arr_delay_min=7)
    second = one_flight(source, tailnum="N1", departed_at="2013-01-01 14:00", dep_delay_min=99)
    rows = built_by_hand(source, [first, second], "aircraft_leg")
    (row,) = rows[rows.event_timestamp == pd.Timestamp("2013-01-01 14:00Z")].itertuples()
    assert (row.aircraft_is_landed, row.aircraft_delay_min) == (1, 7)


# Sources of other years and places: nothing is empty or misdated.


def shifted(table: pd.DataFrame, years: int) -> pd.DataFrame:
    """The table with every timestamp moved by whole years of 365 days."""
    moved = table.copy()
    for name in table.select_dtypes("datetimetz"):
        moved[name] = (table[name] + pd.Timedelta(days=365 * years)).astype(table[name].dtype)
    return moved


@pytest.mark.parametrize("years", [-6, 6])
def test_the_features_of_another_year_are_those_of_this_year_moved(
    dataset: Dataset, years: int
) -> None:
    known = hide_after(dataset.tables, dataset.start + timedelta(days=5))
    moved = {name: shifted(table, years) for name, table in known.items()}
    before = build_features(known, grid_end(known))
    after = build_features(moved, grid_end(moved))
    for (view, expected), (_, rows) in zip(before, after, strict=True):
        assert len(rows) > 20, view.name
        if view.name == "aircraft":  # one that is not built yet has no row, and ages differ
            assert len(rows) <= len(expected) and set(rows.tailnum) <= set(expected.tailnum)
            continue
        expected = shifted(expected, years)
        epoch_minutes = list(view.helper_columns)
        expected[epoch_minutes] += years * 365 * 24 * 60
        pd.testing.assert_frame_equal(rows, expected, check_exact=True)


def test_an_aircraft_is_stamped_every_400_days_and_not_before_it_is_built(source: Source) -> None:
    flights = pd.concat(
        [
            one_flight(source, scheduled_departure=day, scheduled_arrival=day)
            for day in ("2019-05-06 10:00", "2020-12-01 10:00")
        ]
    )
    aircraft = source.tables["aircraft"].head(3).assign(built_year=[2000, 2020, None])
    aircraft = aircraft.astype(source.tables["aircraft"].dtypes)
    tables = source.tables | {"flights": flights, "aircraft": aircraft}
    until = datetime(2021, 1, 1, tzinfo=UTC)
    ((_, rows),) = build_features(tables, until, [BY_NAME["aircraft"]])
    assert rows.event_timestamp.dt.strftime("%Y-%m-%d").tolist() == (
        ["2019-05-06"] * 2 + ["2020-06-09"] * 3
    )
    first, second = (rows[rows.tailnum == tail] for tail in aircraft.tailnum[:2])
    assert first.aircraft_age_years.tolist() == [19, 20]
    assert second.aircraft_age_years.tolist() == [0]
