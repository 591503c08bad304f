"""The sequences of last flights: against an oracle, and in cases made by hand."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from ontime.problem import VIEWS
from tests.conftest import Dataset, Source
from tests.problem.test_view_cases import built_by_hand, late_flight, one_flight
from tests.problem.test_views import BY_NAME, drawn, hours_between, of_key

SEQUENCES = [view.name for view in VIEWS if view.events]


def last_events(flights: pd.DataFrame, tick: pd.Timestamp, n: int) -> np.ndarray:
    """The columns of the last n flights scheduled up to the tick, as known then, [n, 5]."""
    last = flights[flights.scheduled_departure <= tick]
    last = last.sort_values(["scheduled_departure", "flight_id"]).tail(n)[::-1]
    known, gone = last.outcome_known_at <= tick, last.departed_at <= tick
    block = last.scheduled_arrival - last.scheduled_departure
    events = pd.DataFrame(
        {
            "scheduled_epoch_min": last.scheduled_departure.astype("int64") / 60e6,
            "dep_delay_min": last.dep_delay_min.where(gone),
            "arr_delay_min": last.arr_delay_min.where(known),
            "is_late": last.is_late.astype(float).where(known),
            "block_min": block / pd.Timedelta(minutes=1),
        }
    )
    found = np.full((n, 5), np.nan)
    found[: len(events)] = events.to_numpy(dtype=float)
    return found


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_sequence_equals_the_oracle_at_every_hour(dataset: Dataset, name: str) -> None:
    """At hours with a row, and at those between two rows, where nothing changed."""
    view, flights = BY_NAME[name], dataset.tables["flights"]
    groups, rows = of_key(flights, view), of_key(dataset.rows(name), view)
    wrong, n_changed, n_events = [], 0, 0
    for *key, tick in drawn(
        flights, view, hours_between(datetime(2013, 1, 1, 6, tzinfo=UTC), dataset.until)
    ):
        expected = last_events(groups[tuple(key)], tick, view.events)
        known = rows[tuple(key)]
        known = known[known.event_timestamp <= tick]
        if known.empty:
            wrong += [(key, tick)] if not np.isnan(expected).all() else []
            continue
        found = known[list(view.columns)].iloc[-1].to_numpy(dtype=float)
        n_changed += known.event_timestamp.iloc[-1] == tick
        n_events += np.isfinite(expected[:, 0]).sum()
        if not np.array_equal(found.reshape(view.events, -1), expected, equal_nan=True):
            wrong.append((key, tick))
    assert wrong == []
    assert n_changed > 3 and n_events > 1_000


def test_a_flight_is_in_the_sequence_from_its_schedule_on_with_what_is_known(
    source: Source,
) -> None:
    late = late_flight(source)
    rows = built_by_hand(source, [late], "dest_events")
    assert rows.event_timestamp.dt.hour.tolist() == [11, 13, 15]
    newest = rows[
        [f"dest_events_1_{name}" for name in ("dep_delay_min", "arr_delay_min", "is_late")]
    ]
    np.testing.assert_array_equal(
        newest.to_numpy(float), [[np.nan] * 3, [105, np.nan, np.nan], [105, 80, 1]]
    )
    assert rows[list(BY_NAME["dest_events"].columns)[5:]].isna().all(axis=None)


def test_the_newest_flight_is_first_and_only_so_many_are_kept(source: Source) -> None:
    flights = [
        one_flight(
            source,
            flight_id=f"{hour:02}",
            scheduled_departure=f"2013-01-01 {hour:02}:30",
            departed_at=f"2013-01-01 {hour:02}:30",
            dep_delay_min=float(hour),
        )
        for hour in range(17)
    ]
    rows = built_by_hand(source, flights, "dest_events").set_index("event_timestamp")
    view = BY_NAME["dest_events"]
    delays = rows[[f"dest_events_{i}_dep_delay_min" for i in range(1, view.events + 1)]]
    assert delays.iloc[-1].tolist() == [16, 15, 14, 13, 12, 11, 10, 9]
    assert delays.iloc[1].tolist()[:2] == [1, 0] and delays.iloc[1].isna().sum() == 6


def test_an_early_departure_is_not_known_before_the_flight_is_in_the_sequence(
    source: Source,
) -> None:
    early = one_flight(source, departed_at="2013-01-01 09:50", dep_delay_min=-40)
    rows = built_by_hand(source, [early], "flight_events")
    assert rows.event_timestamp.dt.hour.tolist() == [11]
    assert rows.flight_events_1_dep_delay_min.tolist() == [-40]
