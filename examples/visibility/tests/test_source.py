"""The source tables and the examples, against the raw file read with pandas."""

from datetime import UTC, datetime

import pandas as pd
import pytest

from ontime.data.tables import check_table
from ontime.problem import (
    EXAMPLE_INSTANCE,
    SLICES,
    SOURCE_TABLES,
    Instance,
    Outcome,
    examples,
    hide_after,
    local_day,
    outcome_of,
    request_of,
)
from ontime.problem.source import source_file
from tests.conftest import Source

WINDOW = pd.Timedelta(hours=6)


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """The observations of the file; each is known an hour after the one it is filed under."""
    rows = pd.read_csv(source_file(), na_values=["NA"])
    return rows.assign(known_at=pd.to_datetime(rows.time_hour, utc=True) + pd.Timedelta(hours=1))


@pytest.fixture(scope="module")
def rows(source: Source) -> pd.DataFrame:
    return examples(source.tables)


def test_the_tables_keep_their_schemas_and_hold_every_observation(
    source: Source, raw: pd.DataFrame
) -> None:
    for table in SOURCE_TABLES:
        check_table(source.tables[table.name], table)
    weather = source.tables["weather"]
    assert len(weather) == len(raw) == 26_115
    assert weather.visibility_mi.sum() == pytest.approx(raw.visib.sum())
    assert len(source.printed) == len(source.counts) == 3


def test_an_impossible_wind_is_missing(source: Source) -> None:
    weather = source.tables["weather"]
    assert weather.wind_speed_mph.max() < 60
    at = (weather.airport == "EWR") & (weather.known_at == pd.Timestamp("2013-02-12 09:00Z"))
    assert weather[at].wind_speed_mph.isna().all()


def test_labels_are_those_of_the_raw_observations(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    some = pd.concat([rows[rows.label].iloc[::97], rows[~rows.eligible].iloc[::5], rows[::1999]])
    assert len(some) > 40
    for row in some.itertuples():
        seen = raw[(raw.origin == row.airport) & (raw.known_at > row.event_timestamp)]
        seen = seen[seen.known_at <= row.event_timestamp + WINDOW]
        assert row.label == (seen.visib < 3).any()
        assert row.eligible == (len(seen) >= 4)
        assert row.min_visibility_mi == pytest.approx(seen.visib.min())


def test_an_outcome_is_known_after_its_prediction_and_before_it_is_due(rows: pd.DataFrame) -> None:
    assert (rows.event_timestamp == rows.window_start).all()
    assert (rows.outcome_known_at == rows.event_timestamp + WINDOW).all()
    assert (rows.due_at > rows.outcome_known_at).all()


def test_the_year_has_the_published_size_and_rate(rows: pd.DataFrame) -> None:
    assert rows.instance_id.is_unique
    assert (len(rows), int((~rows.eligible).sum())) == (26_172, 42)
    assert rows[rows.eligible].label.mean() == pytest.approx(0.078, abs=0.0005)


def test_a_row_and_its_request_and_outcome_agree(rows: pd.DataFrame) -> None:
    for row in rows.iloc[::2999].to_dict("records"):
        instance = Instance.model_validate(request_of(row))
        outcome = Outcome.model_validate(outcome_of(row))
        assert instance.instance_id == outcome.instance_id == row["instance_id"]
        assert instance.due_at == row["due_at"]
        assert (outcome.label, outcome.known_at) == (row["label"], row["outcome_known_at"])


def test_nothing_unknown_at_the_moment_is_left(source: Source) -> None:
    moment = datetime(2013, 2, 9, 0, 37, tzinfo=UTC)
    hidden = hide_after(source.tables, moment)
    assert hidden["weather"].known_at.max() == pd.Timestamp("2013-02-09 00:00Z")
    assert hidden["visibility_windows"].window_start.max() == pd.Timestamp("2013-02-08 18:00Z")


@pytest.mark.parametrize(
    ("start", "day", "expected"),
    [
        ("2013-01-01 04:59", "2012-12-31", ("EWR", "evening", "winter")),
        ("2013-03-10 07:00", "2013-03-10", ("EWR", "night", "spring")),  # 03:00, clocks moved
        ("2013-08-31 16:00", "2013-08-31", ("EWR", "afternoon", "summer")),
        ("2013-11-30 11:00", "2013-11-30", ("EWR", "morning", "autumn")),
    ],
)
def test_days_and_slices_are_local(start: str, day: str, expected: tuple[str, ...]) -> None:
    row = pd.DataFrame({"airport": ["EWR"], "window_start": pd.to_datetime([start], utc=True)})
    assert str(local_day(row)[0]) == day
    assert tuple(values(row)[0] for values in SLICES.values()) == expected


def test_the_example_is_an_instance() -> None:
    assert Instance.model_validate(EXAMPLE_INSTANCE).instance_id == "EWR-2013-05-01T14Z"
