"""Rules of requests that hold for every problem; one invalid instance rejects the request."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from ontime.data.api_types import rule_error
from ontime.problem import EXAMPLE_AS_OF, EXAMPLE_INSTANCE, EXAMPLE_OUTCOME, Instance, Outcome
from serving.schemas import MAX_INSTANCES
from tests.unit.serving.conftest import metric
from tests.unit.serving.fakes import FakeFeatures, request_body

UNKNOWN = {"no_such_field": 1}


def required(model: type[Instance] | type[Outcome]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def without(example: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in example.items() if key != name}


def errors_of(api: TestClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = api.post(path, json=body)
    assert response.status_code == 422
    errors: list[dict[str, Any]] = response.json()["errors"]
    return errors


def test_an_invalid_instance_is_named_by_its_index(api: TestClient, features: FakeFeatures) -> None:
    instances = [EXAMPLE_INSTANCE, EXAMPLE_INSTANCE, EXAMPLE_INSTANCE | UNKNOWN]

    (error,) = errors_of(api, "/predict", request_body(instances=instances))

    assert (error["field"], error["value"]) == ("instances[2].no_such_field", 1)
    assert features.n_reads == 0


@pytest.mark.parametrize("name", required(Instance))
def test_every_field_of_an_instance_is_required(api: TestClient, name: str) -> None:
    instances = [without(EXAMPLE_INSTANCE, name)]

    (error,) = errors_of(api, "/predict", request_body(instances=instances))

    assert error["field"] == f"instances[0].{name}"


def test_a_rule_between_instance_and_as_of_is_checked(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_early(self: Instance, as_of: Any) -> None:
        raise rule_error("too_early", "as_of is not too early", as_of.isoformat())

    monkeypatch.setattr(Instance, "check_as_of", too_early)
    body = {"as_of": EXAMPLE_AS_OF, "instance": EXAMPLE_INSTANCE}

    errors = errors_of(api, "/predict", request_body(2))

    assert [error["field"] for error in errors] == ["instances[0]"]
    assert errors[0]["detail"] == "as_of is not too early" and errors[0]["value"]
    assert errors_of(api, "/explain", body)[0]["field"] == "instance"


@pytest.mark.parametrize("n", [0, MAX_INSTANCES + 1])
def test_the_number_of_instances_is_limited(api: TestClient, n: int) -> None:
    (error,) = errors_of(api, "/predict", request_body(n))

    assert error["field"] == "instances"
    assert "at least 1 item" in error["detail"] or "at most 512 items" in error["detail"]


@pytest.mark.parametrize("as_of", ["yesterday", "2024-05-01T06:00", None, 0, "3000-01-01T00:00Z"])
def test_as_of_is_a_time_with_an_offset(api: TestClient, as_of: Any) -> None:
    (error,) = errors_of(api, "/predict", request_body(as_of=as_of))

    assert error["field"] == "as_of"


def test_without_as_of_the_instances_are_checked_against_now(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(Instance, "check_as_of", lambda self, as_of: checked.append(as_of))

    assert api.post("/predict", json={"instances": [EXAMPLE_INSTANCE]}).status_code == 200

    assert checked[0].year >= 2024


@pytest.mark.parametrize("name", required(Outcome))
def test_an_invalid_outcome_rejects_the_report(api: TestClient, name: str) -> None:
    api.post("/predict", json=request_body())
    outcomes = [EXAMPLE_OUTCOME, without(EXAMPLE_OUTCOME, name)]

    (error,) = errors_of(api, "/outcomes", {"outcomes": outcomes})

    assert error["field"] == f"outcomes[1].{name}"
    assert api.post("/outcomes", json={"outcomes": [EXAMPLE_OUTCOME]}).json()["accepted"] == 1


def test_as_of_is_not_in_the_future(api: TestClient) -> None:
    before = metric(api, "ontime_newest_prediction_request_seconds")
    (error,) = errors_of(api, "/predict", request_body(as_of="2099-01-01T00:00Z"))
    assert error["field"] == "as_of" and "future" in error["detail"]
    assert metric(api, "ontime_newest_prediction_request_seconds") == before


def test_an_outcome_from_the_future_is_rejected_and_moves_no_metric(api: TestClient) -> None:
    api.post("/predict", json=request_body())
    reported = api.post("/outcomes", json={"outcomes": [EXAMPLE_OUTCOME]})
    before = metric(api, "ontime_newest_outcome_seconds")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for known_at in ("2099-01-01T00:00Z", tomorrow):
        (error,) = errors_of(
            api, "/outcomes", {"outcomes": [EXAMPLE_OUTCOME | {"known_at": known_at}]}
        )
        assert error["field"] == "outcomes[0]" and "future" in error["detail"]

    assert reported.status_code == 200
    assert metric(api, "ontime_newest_outcome_seconds") == before


def test_a_clock_that_is_a_minute_ahead_is_tolerated(api: TestClient) -> None:
    api.post("/predict", json=request_body())
    ahead = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    body = {"outcomes": [EXAMPLE_OUTCOME | {"known_at": ahead}]}

    assert api.post("/outcomes", json=body).json()["accepted"] == 1
