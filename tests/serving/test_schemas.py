"""Each rule of a request: broken once, the whole request is refused and nothing predicted."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.schemas import PredictRequest
from tests.serving.fakes import AS_OF, FLIGHT, FakeFeatures, question

BROKEN_FLIGHTS = [
    ({"carrier": "XX"}, "carrier", "XX"),
    ({"carrier": None}, "carrier", None),
    ({"origin": "BOS"}, "origin", "BOS"),
    ({"dest": "XXX"}, "dest", "XXX"),
    ({"dest": "iah"}, "dest", "iah"),
    ({"flight": 0}, "flight", 0),
    ({"flight": 10_000}, "flight", 10_000),
    ({"flight": True}, "flight", True),
    ({"flight": "1545"}, "flight", "1545"),
    ({"flight": 1545.5}, "flight", 1545.5),
    ({"tailnum": ""}, "tailnum", ""),
    ({"tailnum": "N1\u0000"}, "tailnum", "N1\u0000"),
    ({"scheduled_departure": "2013-05-01T08:15:00"}, "scheduled_departure", "2013-05-01T08:15:00"),
    ({"scheduled_departure": "2013-05-01"}, "scheduled_departure", "2013-05-01"),
    ({"scheduled_departure": "8 o'clock"}, "scheduled_departure", "8 o'clock"),
    ({"scheduled_departure": 1367410500}, "scheduled_departure", 1367410500),
    (
        {"scheduled_arrival": "9999-12-31T23:59-12:00"},
        "scheduled_arrival",
        "9999-12-31T23:59-12:00",
    ),
    (
        {"scheduled_arrival": "0001-01-01T00:00+12:00"},
        "scheduled_arrival",
        "0001-01-01T00:00+12:00",
    ),
    ({"gate": "C71"}, "gate", "C71"),
    ({"scheduled_departure": AS_OF.isoformat()}, None, "+0 min"),
    ({"scheduled_departure": "2013-05-01T05:45:00-04:00"}, None, "-15 min"),
    ({"scheduled_arrival": FLIGHT["scheduled_departure"]}, None, "+0 min"),
    ({"scheduled_arrival": "2013-05-02T08:16:00-04:00"}, None, "+1441 min"),
]


@pytest.mark.parametrize(("change", "field", "value"), BROKEN_FLIGHTS)
def test_one_broken_flight_refuses_the_request_and_is_named(
    api: TestClient, features: FakeFeatures, change: dict[str, Any], field: str | None, value: Any
) -> None:
    answer = api.post("/predict", json=question(FLIGHT, FLIGHT, FLIGHT | change))

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["flight"] == 2
    assert error.get("field") == field
    assert error.get("value") == value
    assert len(error["rule"]) > 10
    assert features.n_reads == 0


@pytest.mark.parametrize("field", FLIGHT)
def test_every_field_of_a_flight_is_needed(api: TestClient, field: str) -> None:
    flight = {name: value for name, value in FLIGHT.items() if name != field}

    answer = api.post("/predict", json=question(flight))

    assert answer.status_code == 422
    assert [(e["field"], e["flight"]) for e in answer.json()["errors"]] == [(field, 0)]


@pytest.mark.parametrize("n", [0, 513])
def test_a_request_has_1_to_512_flights(api: TestClient, n: int) -> None:
    answer = api.post("/predict", json=question() | {"flights": [FLIGHT] * n})

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "flights"
    assert "at least 1 item" in error["rule"] or "at most 512 items" in error["rule"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_has_no_nan_and_no_infinity(api: TestClient, number: str) -> None:
    body = json.dumps(question()).replace("1545", number)

    answer = api.post("/predict", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "flight"


@pytest.mark.parametrize(
    "body", ["", "{", "null", "[]", "7", '"flights"', "{}", '{"flights": {}}', '{"flights": [7]}']
)
def test_what_is_no_request_is_refused_with_a_rule(api: TestClient, body: str) -> None:
    answer = api.post("/predict", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["rule"]


@pytest.mark.parametrize("as_of", ["yesterday", "2013-05-01T06:00", None, 0, "3000-01-01T00:00Z"])
def test_as_of_is_a_moment_with_an_offset(api: TestClient, as_of: Any) -> None:
    answer = api.post("/predict", json=question() | {"as_of": as_of})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "as_of"


def test_without_as_of_a_flight_of_2013_has_left(api: TestClient) -> None:
    answer = api.post("/predict", json={"flights": [FLIGHT]})

    assert answer.status_code == 422
    assert "after as_of" in answer.json()["errors"][0]["rule"]


def test_times_become_utc_and_make_the_flight_id() -> None:
    late = {
        "scheduled_departure": "2013-05-01T23:30:00-04:00",
        "scheduled_arrival": "2013-05-02T05:00:00Z",
    }

    (flight,) = PredictRequest.model_validate(question(**late)).flights

    assert flight.scheduled_departure.isoformat() == "2013-05-02T03:30:00+00:00"
    assert flight.flight_id == "2013-05-01-UA-1545-EWR"


def test_a_huge_value_is_not_echoed_whole(api: TestClient) -> None:
    answer = api.post("/predict", json=question(carrier="X" * 100_000))

    assert answer.status_code == 422
    assert len(answer.content) < 1_000


def test_a_value_that_is_no_text_does_not_break_the_answer(api: TestClient) -> None:
    body = json.dumps(question() | {"\ud800": "\ud800"})

    answer = api.post("/predict", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422


BROKEN_OUTCOMES = [
    ({"status": "lost"}, "status"),
    ({"status": "cancelled"}, None),
    ({"arrival_delay_min": None}, None),
    ({"arrival_delay_min": True}, "arrival_delay_min"),
    ({"arrival_delay_min": "12"}, "arrival_delay_min"),
    ({"arrival_delay_min": 1e9}, "arrival_delay_min"),
    ({"known_at": "2013-05-01T12:00"}, "known_at"),
    ({"carrier": "XX"}, "carrier"),
    ({"dest": "IAH"}, "dest"),
]
OUTCOME: dict[str, Any] = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "scheduled_departure": FLIGHT["scheduled_departure"],
    "status": "arrived",
    "arrival_delay_min": 12,
    "known_at": "2013-05-01T16:00Z",
}


@pytest.mark.parametrize(("change", "field"), BROKEN_OUTCOMES)
def test_one_broken_outcome_refuses_the_report(
    api: TestClient, change: dict[str, Any], field: str | None
) -> None:
    answer = api.post("/outcomes", json={"outcomes": [OUTCOME, OUTCOME | change]})

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["flight"], error.get("field")) == (1, field)
    assert api.post("/outcomes", json={"outcomes": [OUTCOME]}).json()["accepted"] == 1
