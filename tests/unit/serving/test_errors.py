"""Every error is an RFC 9457 problem details object."""

import json
from typing import Any

import pytest
from sqlalchemy import create_engine
from starlette.testclient import TestClient

from tests.unit.serving.conftest import OpenApi, state_of
from tests.unit.serving.fakes import FakeFeatures, FakeModel, FakeRegistry, request_body


def post_text(api: TestClient, body: str) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    response = api.post("/predict", content=body, headers=headers)
    assert response.status_code == 422
    problem: dict[str, Any] = response.json()
    return problem


def test_every_error_has_the_same_shape(open_api: OpenApi, features: FakeFeatures) -> None:
    model = FakeModel(0.25)
    api = open_api(load_model=lambda _: model)
    responses = [api.get("/nowhere"), api.get("/predict"), api.post("/predict", json={})]
    features.down = True
    responses.append(api.post("/predict", json=request_body()))
    features.down = False
    model.before_predict = lambda: 1 / 0
    responses.append(api.post("/predict", json=request_body()))

    problems = [response.json() for response in responses]
    assert {r.headers["Content-Type"] for r in responses} == {"application/problem+json"}
    assert [problem["status"] for problem in problems] == [r.status_code for r in responses]
    assert [(problem["status"], problem["type"], problem["title"]) for problem in problems] == [
        (404, "about:blank", "Not Found"),
        (405, "about:blank", "Method Not Allowed"),
        (422, "/problems/invalid-request", "Invalid request"),
        (503, "/problems/online-store-unavailable", "Online store unavailable"),
        (500, "/problems/internal-error", "Internal error"),
    ]
    assert all(problem["detail"] for problem in problems)


def test_the_advice_names_the_part_that_failed_and_no_other(
    open_api: OpenApi,
    features: FakeFeatures,
    registry: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = {"online store": "online", "database": "prediction log", "registry": "registry"}
    api = open_api()

    def problem(path: str) -> dict[str, Any]:
        response = api.post(path, json=request_body() if path == "/predict" else None)
        assert response.status_code == 503
        return dict(response.json())

    features.down = True
    problems = {"online store": problem("/predict")}
    features.down, registry.down = False, True
    problems["registry"] = problem("/model/reload")
    monkeypatch.setattr(state_of(api).log, "engine", create_engine("sqlite:////nowhere/at/all.db"))
    problems["database"] = problem("/predict")
    for failed, found in problems.items():
        assert parts[failed] in found["detail"]
        assert [part for part in parts if part in found["hint"]] == [failed]


@pytest.mark.parametrize(
    "body",
    ["", "{", "null", "[]", "7", '"instances"', "{}", '{"instances": {}}', '{"instances": [7]}'],
)
def test_a_body_of_another_shape_is_rejected_with_the_rule(api: TestClient, body: str) -> None:
    assert post_text(api, body)["errors"][0]["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_outside_of_json_are_returned_as_text(api: TestClient, number: str) -> None:
    (error,) = post_text(api, json.dumps(request_body(as_of=0)).replace("0", number, 1))["errors"]

    assert error["field"] == "as_of" and error["value"] in {"nan", "inf", "-inf"}


def test_a_number_of_hundreds_of_digits_is_shown_as_text(api: TestClient) -> None:
    (error,) = post_text(api, json.dumps(request_body(as_of=0)).replace("0", "9" * 400, 1))[
        "errors"
    ]

    assert error["field"] == "as_of" and error["value"].startswith("999")
    assert len(error["value"]) < 100


def test_long_names_and_values_are_truncated(api: TestClient) -> None:
    response = api.post("/predict", json=request_body() | {"x" * 100_000: "y" * 100_000})

    assert response.status_code == 422
    assert len(response.content) < 1_000


def test_a_lone_surrogate_is_returned_escaped(api: TestClient) -> None:
    problem = post_text(api, json.dumps(request_body() | {"\ud800": "\ud800"}))

    assert problem["errors"][0]["value"] == "\ud800"
