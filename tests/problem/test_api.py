"""The rules of a flight in a prediction request, and of the outcome of a flight."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from ontime.data.timestamps import parse_utc
from ontime.problem import (
    EXAMPLE_AS_OF,
    EXAMPLE_INSTANCE,
    EXAMPLE_OUTCOME,
    Instance,
    Outcome,
    examples,
)
from ontime.problem.api import EARLY_BY
from ontime.problem.definition import LABEL_DUE_AFTER
from tests.conftest import Source

DEPARTURE = EXAMPLE_INSTANCE["scheduled_departure"]
CANCELLED = {"status": "cancelled", "arrival_delay_min": None}


def broken_rule(model: type[BaseModel], values: dict[str, Any]) -> tuple[str | None, Any]:
    """The field and the value of the one rule that the values break."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    (error,) = caught.value.errors()
    assert len(error["msg"]) > 10
    field = str(error["loc"][0]) if error["loc"] else None
    return field, error.get("ctx", {}).get("value", error["input"])


def outcome(**changes: Any) -> Outcome:
    return Outcome.model_validate(EXAMPLE_OUTCOME | changes)


def test_the_examples_are_valid_and_of_one_flight() -> None:
    instance = Instance.model_validate(EXAMPLE_INSTANCE)

    instance.check_as_of(parse_utc(EXAMPLE_AS_OF))

    assert instance.instance_id == outcome().instance_id == "2013-05-01-UA-1545-EWR"
    assert instance.due_at == instance.scheduled_departure + LABEL_DUE_AFTER


def test_times_become_utc_and_the_id_has_the_local_date() -> None:
    evening = {
        "scheduled_departure": "2013-05-01T23:30:00-04:00",
        "scheduled_arrival": "2013-05-02T05:00:00Z",
    }

    instance = Instance.model_validate(EXAMPLE_INSTANCE | evening)

    assert instance.scheduled_departure.isoformat() == "2013-05-02T03:30:00+00:00"
    assert instance.instance_id == "2013-05-01-UA-1545-EWR"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("carrier", "ua"),
        ("carrier", "PA (1)"),
        ("carrier", None),
        ("origin", "LHR"),
        ("origin", "XXX"),
        ("dest", "XXX"),
        ("dest", "iah"),
        ("flight", 0),
        ("flight", 10_000),
        ("flight", True),
        ("flight", "1545"),
        ("flight", 1545.5),
        ("flight", float("inf")),
        ("tailnum", ""),
        ("tailnum", "N1\u0000"),
        ("scheduled_departure", "2013-05-01T08:15:00"),
        ("scheduled_departure", "2013-05-01"),
        ("scheduled_departure", "8 o'clock"),
        ("scheduled_departure", 1367410500),
        ("scheduled_arrival", "9999-12-31T23:59-12:00"),
        ("scheduled_arrival", "0001-01-01T00:00+12:00"),
        ("gate", "C71"),
    ],
)
def test_an_invalid_field_of_a_flight_is_named_with_its_value(field: str, value: Any) -> None:
    assert broken_rule(Instance, EXAMPLE_INSTANCE | {field: value}) == (field, value)


def test_a_flight_number_is_not_nan() -> None:
    field, value = broken_rule(Instance, EXAMPLE_INSTANCE | {"flight": float("nan")})

    assert field == "flight" and value != value


@pytest.mark.parametrize("field", EXAMPLE_INSTANCE)
def test_every_field_of_a_flight_is_required(field: str) -> None:
    values = {name: value for name, value in EXAMPLE_INSTANCE.items() if name != field}

    assert broken_rule(Instance, values)[0] == field


def test_the_tail_number_may_be_unknown() -> None:
    assert Instance.model_validate(EXAMPLE_INSTANCE | {"tailnum": None}).tailnum is None


@pytest.mark.parametrize(
    ("arrival", "value"), [(DEPARTURE, "+0 min"), ("2013-05-02T08:16:00-04:00", "+1441 min")]
)
def test_a_flight_arrives_within_a_day_of_its_departure(arrival: str, value: str) -> None:
    values = EXAMPLE_INSTANCE | {"scheduled_arrival": arrival}

    assert broken_rule(Instance, values) == (None, value)


@pytest.mark.parametrize(("ahead_min", "value"), [(0, "+0 min"), (-15, "-15 min")])
def test_a_departed_flight_cannot_be_predicted(ahead_min: int, value: str) -> None:
    instance = Instance.model_validate(EXAMPLE_INSTANCE)
    as_of = instance.scheduled_departure - timedelta(minutes=ahead_min)

    with pytest.raises(PydanticCustomError, match="scheduled_departure is after as_of") as caught:
        instance.check_as_of(as_of)

    assert caught.value.context == {"value": f"{value} from {as_of.isoformat()}"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"status": "lost"}, "status"),
        ({"status": "cancelled"}, None),
        ({"status": "diverted"}, None),
        ({"arrival_delay_min": None}, None),
        ({"arrival_delay_min": True}, "arrival_delay_min"),
        ({"arrival_delay_min": "12"}, "arrival_delay_min"),
        ({"arrival_delay_min": 1e9}, "arrival_delay_min"),
        ({"arrival_delay_min": float("inf")}, "arrival_delay_min"),
        ({"known_at": "2013-05-01T12:00"}, "known_at"),
        ({"carrier": "ua"}, "carrier"),
        ({"dest": "IAH"}, "dest"),
    ],
)
def test_an_invalid_outcome_is_named(changes: dict[str, Any], field: str | None) -> None:
    assert broken_rule(Outcome, EXAMPLE_OUTCOME | changes)[0] == field


@pytest.mark.parametrize("field", EXAMPLE_OUTCOME)
def test_every_field_of_an_outcome_is_required(field: str) -> None:
    values = {name: value for name, value in EXAMPLE_OUTCOME.items() if name != field}

    assert broken_rule(Outcome, values)[0] == field


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"arrival_delay_min": -20.0}, False),
        ({"arrival_delay_min": 14.9}, False),
        ({"arrival_delay_min": 15.0}, True),
        (CANCELLED, True),
        (CANCELLED | {"status": "diverted"}, True),
    ],
)
def test_the_label_is_late_cancelled_or_diverted(changes: dict[str, Any], label: bool) -> None:
    assert outcome(**changes).label is label


def test_two_reports_agree_if_status_and_delay_do() -> None:
    first = outcome()

    assert outcome(known_at="2013-05-01T20:00Z").details == first.details
    assert outcome(arrival_delay_min=22.0).details != first.details
    assert outcome(**CANCELLED).details != first.details


@pytest.mark.parametrize(
    ("status", "delay", "earliest"),
    [("arrived", 21.0, "2013-05-01T12:15:00Z"), ("cancelled", None, "2013-05-01T12:15:00Z")],
)
def test_a_short_flight_has_no_outcome_before_its_departure(
    status: str, delay: float | None, earliest: str
) -> None:
    instance = Instance.model_validate(
        EXAMPLE_INSTANCE | {"scheduled_arrival": "2013-05-01T09:15:00-04:00"}
    )
    found = outcome(status=status, arrival_delay_min=delay).earliest_known_at(instance)
    assert found == datetime.fromisoformat(earliest)


def test_an_arrival_is_known_at_most_two_hours_before_its_schedule(source: Source) -> None:
    instance = Instance.model_validate(EXAMPLE_INSTANCE)
    assert outcome().earliest_known_at(instance) == datetime(2013, 5, 1, 13, 19, tzinfo=UTC)
    rows = examples(source.tables)
    early = rows.scheduled_arrival - rows.outcome_known_at
    assert early[rows.status == "arrived"].max() < EARLY_BY
    assert (rows.outcome_known_at >= rows.scheduled_departure).all()


def test_models_are_trained_from_two_to_three_hours_before_departure(source: Source) -> None:
    instance = Instance.model_validate(EXAMPLE_INSTANCE)
    departure = instance.scheduled_departure
    leads = {60: False, 119: False, 120: True, 179: True, 180: False, 45 * 24 * 60: False}
    for minutes, trained in leads.items():
        assert instance.is_trained_for(departure - timedelta(minutes=minutes)) is trained
    rows = examples(source.tables)
    lead = rows.scheduled_departure - rows.event_timestamp
    assert lead.between(timedelta(hours=2), timedelta(hours=3), inclusive="left").all()
