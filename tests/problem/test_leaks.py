"""The no-look-ahead comparison finds leaks: each case breaks one rule in one SQL file."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from ontime.features import builder
from ontime.problem import SOURCE_TABLES, VIEWS, hide_after
from tests.conftest import Dataset, before

LEAKS = {
    "weather one hour too early": (
        "origin_weather",
        "2013-01-20 15:00",
        "origin_weather",
        "known_at AS",
        "known_at - INTERVAL 1 HOUR AS",
    ),
    "a departure counted at its schedule": (
        "dest_state",
        "2013-01-20 15:00",
        "flight_hours",
        "ceil_hour(departed_at)",
        "ceil_hour(scheduled_departure)",
    ),
    "an outcome counted at the daily tick after the departure": (
        "carrier_rates",
        "2013-01-20 08:00",
        "outcome_days",
        "ceil_daily_tick(outcome_known_at)",
        "ceil_daily_tick(scheduled_departure)",
    ),
    "a leg stamped with its schedule": (
        "aircraft_leg",
        "2013-01-20 15:00",
        "aircraft_leg",
        "departed_at AS event",
        "scheduled_departure AS event",
    ),
    "the arrival delay of a last flight before it has landed": (
        "carrier_dest_state",
        "2013-01-20 15:00",
        "last_flights",
        "WHEN outcome_known_at <= tick THEN",
        "WHEN outcome_known_at IS NOT NULL THEN",
    ),
    "a last flight counted two hours before its departure": (
        "dest_state",
        "2013-01-20 15:00",
        "last_flights",
        "least(scheduled_departure, departed_at)",
        "least(scheduled_departure, departed_at) - INTERVAL 2 HOUR",
    ),
    # No wrong value, but a row too early.
    "hours of a destination before its first flight": (
        "dest_state",
        "2013-01-04 12:00",
        "dest_state",
        "generate_series(min(tick),",
        "generate_series(TIMESTAMPTZ '2013-01-01 10:00:00+00',",
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_found(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, leak: str) -> None:
    view, moment, file, correct, leaky = LEAKS[leak]
    read_sql = builder.read_sql
    assert correct in read_sql(file)
    monkeypatch.setattr(
        builder,
        "read_sql",
        lambda name: read_sql(name).replace(correct, leaky if name == file else correct),
    )
    until = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    leaking = [each for each in VIEWS if each.name == view]

    def rows(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
        ((_, built),) = builder.build_features(tables, until, leaking)
        return built

    week_later = until + timedelta(days=7)  # later rows only take time
    tables = {
        table.name: before(week_later, dataset.tables[table.name], table) for table in SOURCE_TABLES
    }
    assert not rows(tables).equals(rows(hide_after(tables, until)))


def test_hidden_outcomes_change_every_view_but_the_registry(dataset: Dataset) -> None:
    """What `hide_after` removes matters: all views differ after the moment."""
    moment = datetime(2013, 2, 9, 0, 37, tzinfo=UTC)
    hidden = hide_after(dataset.tables, moment)
    unchanged = {
        view.name
        for view, rows in builder.build_features(hidden, dataset.until)
        if rows.equals(dataset.rows(view.name))
    }
    assert unchanged == {"aircraft"}
