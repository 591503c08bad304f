"""A valid request is answered without FastAPI's handler, and as the handler would answer it."""

import json
from typing import Any

import fastapi.routing
import pytest
from starlette.testclient import TestClient

from ontime.problem import EXAMPLE_INSTANCE
from tests.unit.serving.fakes import request_body

# FastAPI's handler takes every JSON type, the short way only the plain one.
JSON, OTHER_JSON = "application/json", "application/json; charset=utf-8"
BODY = json.dumps(request_body())
NUMBERS = [name for name, value in EXAMPLE_INSTANCE.items() if isinstance(value, int)]  # or none
NOT_INTEGERS = ("1545.0", "true", '"1545"', "NaN", "1" + "0" * 400)
TEXT = next(name for name, value in EXAMPLE_INSTANCE.items() if isinstance(value, str))


def post(api: TestClient, body: str | bytes, content_type: str, **headers: str) -> Any:
    return api.post("/predict", content=body, headers={"Content-Type": content_type} | headers)


def changed(name: str, value: str) -> str:
    """The example with a field of its instance replaced by a JSON text."""
    return BODY.replace(f'"{name}": {json.dumps(EXAMPLE_INSTANCE[name])}', f'"{name}": {value}')


def test_a_valid_request_does_not_need_fastapis_handler(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise AssertionError("FastAPI resolves parameters")

    monkeypatch.setattr(fastapi.routing, "solve_dependencies", refuse)

    assert post(api, BODY, JSON).status_code == 200
    assert post(api, BODY, OTHER_JSON).status_code == 500


def test_both_ways_give_the_same_response(api: TestClient) -> None:
    short, long = (post(api, BODY, content_type) for content_type in (JSON, OTHER_JSON))

    bodies = [response.json() for response in (short, long)]
    ids = {body["predictions"][0].pop("prediction_id") for body in bodies}
    assert len(ids) == 2 and bodies[0] == bodies[1]
    assert list(bodies[0]["predictions"][0]) == list(bodies[1]["predictions"][0])
    assert short.headers["content-type"] == long.headers["content-type"] == JSON
    assert short.headers.keys() == long.headers.keys()


def test_a_key_is_one_key_on_both_ways(api: TestClient) -> None:
    key = {"Idempotency-Key": "retry-1"}
    short, long = (post(api, BODY, content_type, **key) for content_type in (JSON, OTHER_JSON))

    assert short.status_code == 200 and short.content == long.content


@pytest.mark.parametrize("key", ["", "two words", "k" * 101])
def test_an_invalid_key_gets_the_error_of_fastapis_handler(api: TestClient, key: str) -> None:
    header = {"Idempotency-Key": key}
    short, long = (post(api, BODY, content_type, **header) for content_type in (JSON, OTHER_JSON))

    assert short.status_code == long.status_code == 422
    assert short.json() == long.json()


@pytest.mark.parametrize("body", ["\ufeff" + BODY, BODY.encode("utf-16")])
def test_other_encodings_are_valid_as_before(api: TestClient, body: str | bytes) -> None:
    assert post(api, body, JSON).status_code == post(api, body, OTHER_JSON).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        BODY[:-1],
        BODY + "{}",
        BODY.encode() + b"\xff",
        *(changed(name, value) for name in NUMBERS for value in NOT_INTEGERS),
        changed(TEXT, "7"),
        changed(TEXT, '"\\ud800"'),
        changed(TEXT, '"A", "unknown": 1'),
        changed(TEXT, "[" * 5_000 + "]" * 5_000),
    ],
)
def test_an_invalid_request_gets_the_error_of_fastapis_handler(
    api: TestClient, body: str | bytes
) -> None:
    short, long = (post(api, body, content_type) for content_type in (JSON, OTHER_JSON))

    assert 400 <= short.status_code < 500
    assert (short.status_code, short.json()) == (long.status_code, long.json())
