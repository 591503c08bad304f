"""A large or malicious body costs neither memory nor many errors."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.testclient import TestClient

from ontime.data.api_types import MAX_UNKNOWN_FIELDS
from ontime.problem import EXAMPLE_INSTANCE, EXAMPLE_OUTCOME
from serving import errors
from serving.errors import MAX_ERRORS
from serving.schemas import MAX_OUTCOMES
from tests.unit.serving.conftest import OpenApi
from tests.unit.serving.fakes import request_body

MANY_FIELDS = {f"field{i}": i for i in range(1_000)}
MALICIOUS = {
    "fields of the request": ("/predict", request_body() | MANY_FIELDS),
    "fields of an instance": ("/predict", request_body(instances=[EXAMPLE_INSTANCE | MANY_FIELDS])),
    "fields of every instance": ("/predict", request_body(instances=[MANY_FIELDS] * 50)),
    "instances": ("/predict", {"instances": [7] * 100_000}),
    "empty outcomes": ("/outcomes", {"outcomes": [{}] * MAX_OUTCOMES}),
    "outcomes": ("/outcomes", {"outcomes": [EXAMPLE_OUTCOME | MANY_FIELDS] * 50}),
}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The errors that validation built, also those that are not in the response."""
    collected: list[Any] = []

    def collect(request: Any, error: Exception) -> Any:
        assert isinstance(error, RequestValidationError)
        collected.extend(error.errors())
        return handle(request, error)

    handle: Callable[..., Any] = errors._handle_invalid_request
    monkeypatch.setattr(errors, "_handle_invalid_request", collect)
    return collected


@pytest.mark.parametrize(("path", "body"), MALICIOUS.values(), ids=MALICIOUS)
def test_few_errors_are_built_whatever_the_body_holds(
    built: list[Any], open_api: OpenApi, path: str, body: dict[str, Any]
) -> None:
    response = open_api().post(path, json=body)

    assert response.status_code == 422
    assert 1 <= len(built) <= MAX_ERRORS
    assert len(response.json()["errors"]) == len(built)
    assert len(response.content) < 5_000


def test_the_first_unknown_fields_are_named(api: TestClient) -> None:
    found = api.post("/predict", json=request_body() | MANY_FIELDS).json()["errors"]

    assert [error["field"] for error in found] == list(MANY_FIELDS)[:MAX_UNKNOWN_FIELDS]
    assert [error["value"] for error in found] == [0, 1, 2]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_a_deeply_nested_body_is_an_error_of_the_request(api: TestClient, text: str) -> None:
    response = api.post("/predict", content=text, headers={"Content-Type": "application/json"})

    assert response.status_code in {400, 422}


def test_a_nested_value_is_shown_in_part(api: TestClient) -> None:
    nested = json.dumps(request_body(as_of=0)).replace("0", "[" * 900 + "]" * 900, 1)
    response = api.post("/predict", content=nested, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    assert len(response.content) < 1_000


def in_chunks(body: bytes) -> Iterator[bytes]:
    """A body that is sent without a Content-Length."""
    yield from (body[i : i + 100] for i in range(0, len(body), 100))


@pytest.mark.parametrize("send", [bytes, in_chunks], ids=["declared", "chunked"])
def test_a_body_above_the_limit_is_rejected(
    open_api: OpenApi, send: Callable[[bytes], Any]
) -> None:
    body = json.dumps(request_body()).encode()
    headers = {"Content-Type": "application/json"}
    api = open_api(settings={"max_body_bytes": len(body)})

    accepted = api.post("/predict", content=send(body), headers=headers)
    rejected = api.post("/predict", content=send(body + b" "), headers=headers)

    assert accepted.status_code == 200
    assert rejected.status_code == 413
    assert rejected.headers["Content-Type"] == "application/problem+json"
    assert f"at most {len(body)} bytes" in rejected.json()["detail"]
