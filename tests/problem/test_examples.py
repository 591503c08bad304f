"""One prediction request per flight: its time, its label, and the JSON that a client sends."""

from datetime import timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontime.data.timestamps import column_arrays
from ontime.problem import (
    ENTITY_KEYS,
    PREDICTION_INTERVAL,
    Instance,
    Outcome,
    entity_key_columns,
    local_day,
    outcome_of,
    request_of,
)
from ontime.problem.definition import PREDICTION_HORIZON, day_part
from ontime.problem.examples import prediction_time
from tests.conftest import Dataset

SECOND_OF_2013 = st.integers(0, 365 * 24 * 60 * 60)


def utc(*moments: str) -> pd.Series:
    return pd.Series(pd.to_datetime(list(moments), utc=True)).astype("datetime64[us, UTC]")


@pytest.mark.parametrize(
    ("departure", "predicted"),
    [
        ("2013-05-01 12:00", "2013-05-01 10:00"),  # on the hour: exactly two hours before
        ("2013-05-01 12:01", "2013-05-01 10:00"),
        ("2013-05-01 12:59", "2013-05-01 10:00"),
        ("2013-05-01 01:30", "2013-04-30 23:00"),
    ],
)
def test_a_flight_is_predicted_on_the_hour_two_to_three_hours_before(
    departure: str, predicted: str
) -> None:
    assert prediction_time(utc(departure)).tolist() == utc(predicted).tolist()


@given(second=SECOND_OF_2013)
def test_no_flight_is_predicted_later_than_two_or_earlier_than_three_hours_before(
    second: int,
) -> None:
    departure = pd.Timestamp("2013-01-01 00:00Z") + timedelta(seconds=second)
    (moment,) = prediction_time(pd.Series([departure]))
    assert PREDICTION_HORIZON <= departure - moment < PREDICTION_HORIZON + PREDICTION_INTERVAL
    assert (moment.minute, moment.second, moment.microsecond) == (0, 0, 0)


def test_the_prediction_hour_is_utc_also_at_a_clock_change() -> None:
    before, after = utc("2013-03-10 06:59", "2013-03-10 07:00")  # 01:59 and 03:00 local time
    assert prediction_time(pd.Series([before, after])).diff().iloc[1] == timedelta(hours=1)


def test_prediction_times_keep_microseconds_and_zone() -> None:
    assert prediction_time(utc("2013-05-01 12:34")).dtype == "datetime64[us, UTC]"


def test_flights_without_a_tail_number_are_not_eligible(dataset: Dataset) -> None:
    requests, flights = dataset.requests, dataset.tables["flights"]
    assert len(requests) == len(flights)
    assert (~requests.eligible).sum() > 300
    assert requests.eligible.equals(flights.tailnum.notna())


def test_cancelled_flights_with_a_tail_number_are_eligible_and_late(dataset: Dataset) -> None:
    requests = dataset.requests
    cancelled = requests[(requests.status == "cancelled") & requests.eligible]
    assert len(cancelled) > 300
    assert cancelled.label.all()


def test_every_example_is_predicted_before_it_departs(examples: pd.DataFrame) -> None:
    lead = examples.scheduled_departure - examples.event_timestamp
    assert lead.between(timedelta(hours=2), timedelta(hours=3), inclusive="left").all()


def test_an_example_carries_the_derived_entity_keys(dataset: Dataset) -> None:
    eligible = dataset.requests[dataset.requests.eligible]
    keys = entity_key_columns(column_arrays(eligible, Instance.model_fields))
    assert set(keys) == set(ENTITY_KEYS)
    for name, values in keys.items():
        assert (eligible[name].to_numpy() == values).all(), name


def test_a_client_sends_what_the_api_reads(dataset: Dataset) -> None:
    sample = dataset.requests[dataset.requests.eligible].iloc[::499]
    for row in sample.to_dict("records"):
        instance = Instance.model_validate(request_of(row))
        outcome = Outcome.model_validate(outcome_of(row))
        assert instance.instance_id == outcome.instance_id == row["instance_id"]
        assert instance.due_at == row["due_at"]
        assert outcome.label == row["label"]
        assert outcome.known_at == row["outcome_known_at"]
        instance.check_as_of(row["event_timestamp"].to_pydatetime())


def test_outcomes_cover_arrivals_cancellations_and_diversions(dataset: Dataset) -> None:
    for status, rows in dataset.requests.groupby("status"):
        outcome = Outcome.model_validate(outcome_of(rows.iloc[0].to_dict()))
        assert outcome.status == status
        assert (outcome.arrival_delay_min is None) == (status != "arrived")


def test_local_days_and_day_parts_are_those_of_the_departure() -> None:
    rows = pd.DataFrame(
        {
            "origin": ["JFK", "JFK", "JFK"],
            "scheduled_departure": utc("2013-07-02 03:59", "2013-07-02 04:00", "2013-07-02 14:00"),
        }
    )
    assert local_day(rows).astype(str).tolist() == ["2013-07-01", "2013-07-02", "2013-07-02"]
    assert day_part(rows).tolist() == ["evening", "night", "midday"]
    in_the_west = rows.assign(origin="LAX")
    assert day_part(in_the_west).tolist() == ["evening", "evening", "morning"]
