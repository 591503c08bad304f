"""SageMaker's contract: the command `serve`, the port, /ping and /invocations."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from ontime.settings import ROOT
from ontime.storage.prediction_log import PredictionLog
from serving import sagemaker
from tests.unit.serving.fakes import (
    FakeFeatures,
    FakeRegistry,
    fake_settings,
    load_fake,
    request_body,
)

SERVE = ROOT / "infra" / "sagemaker" / "serve"


@pytest.fixture
def api(tmp_path: Path, features: FakeFeatures, registry: FakeRegistry) -> Iterator[TestClient]:
    app = sagemaker.create_app(
        fake_settings(tmp_path), features=features, registry=registry, load_model=load_fake
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_an_invocation_is_a_prediction(api: TestClient) -> None:
    found = api.post("/invocations", json=request_body(2)).json()
    assert [each["probability"] for each in found["predictions"]] == [0.25, 0.25]


def test_a_repeated_key_in_the_body_gets_the_logged_response(
    api: TestClient, log: PredictionLog
) -> None:
    body = request_body(idempotency_key="once")
    first, second = (api.post("/invocations", json=body).json() for _ in range(2))
    assert first == second
    assert log.counts()["predictions"] == 1


def test_callers_are_those_of_sagemaker_and_other_paths_need_a_key(
    api: TestClient, log: PredictionLog
) -> None:
    assert api.post("/invocations", json=request_body(idempotency_key="once")).status_code == 200
    assert api.post("/predict", json=request_body()).status_code == 401
    (row,) = log.responses(["sagemaker:once"])["sagemaker:once"]
    assert row["client"] == "sagemaker"


def test_a_key_of_another_request_is_a_conflict(api: TestClient) -> None:
    api.post("/invocations", json=request_body(1, idempotency_key="once"))
    assert api.post("/invocations", json=request_body(2, idempotency_key="once")).status_code == 409


@pytest.mark.parametrize("change", [{"idempotency_key": "a b"}, {"idempotencykey": "x"}])
def test_an_invalid_body_is_rejected_as_by_predict(api: TestClient, change: dict[str, Any]) -> None:
    found = api.post("/invocations", json=request_body() | change)
    assert (found.status_code, found.json()["type"]) == (422, "/problems/invalid-request")


def test_ping_succeeds_only_if_a_prediction_would(api: TestClient, features: FakeFeatures) -> None:
    assert api.get("/ping").status_code == 200
    features.down = True
    assert api.get("/ping").status_code == 503


def test_ping_does_not_wait_for_a_service_that_hangs(
    api: TestClient, features: FakeFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(sagemaker, "PING_TIMEOUT_S", 0.05)
    read: Callable[..., Any] = features.read
    monkeypatch.setattr(features, "read", lambda *rows: (released.wait(30), read(*rows))[1])
    assert api.get("/ping").status_code == 503
    assert not released.is_set()
    released.set()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """As in the image: `python` is the environment's, and the settings are variables."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}:{SERVE.parent}:{os.environ['PATH']}"
    folder = {"ONTIME_DATA_DIR": str(tmp_path), "SAGEMAKER_BIND_TO_PORT": str(port)}
    return os.environ | folder | {"PATH": path, "PYTHONWARNINGS": "ignore"}


def start(environment: dict[str, str], *command: str) -> "subprocess.Popen[bytes]":
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet)


def first_ping(environment: dict[str, str], process: "subprocess.Popen[bytes]") -> int:
    """The status of the first ping that is answered."""
    url = f"http://127.0.0.1:{environment['SAGEMAKER_BIND_TO_PORT']}/ping"
    deadline = monotonic() + 120
    while monotonic() < deadline and process.poll() is None:
        try:
            return httpx2.get(url, timeout=10).status_code
        except httpx2.TransportError:
            sleep(0.1)
    raise AssertionError(f"no response; the process returned {process.poll()}")


@pytest.mark.slow
def test_the_command_serve_answers_and_stops_on_sigterm(environment: dict[str, str]) -> None:
    """With real services and no champion, so that the endpoint is not ready."""
    process = start(environment, "serve")
    try:
        assert first_ping(environment, process) == 503
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.slow
def test_a_started_process_predicts_without_any_header_of_its_client(
    environment: dict[str, str], registry: FakeRegistry
) -> None:
    factory = "tests.unit.serving.fakes:sagemaker_app_from_environment"
    program = f"from serving import sagemaker; sagemaker.main({factory!r})"
    process = start(environment, "python", "-c", program)
    try:
        assert first_ping(environment, process) == 200
        url = f"http://127.0.0.1:{environment['SAGEMAKER_BIND_TO_PORT']}/invocations"
        body = request_body(idempotency_key="once")
        responses = [httpx2.post(url, json=body, timeout=60) for _ in range(2)]
        assert {response.status_code for response in responses} == {200}
        assert responses[0].json() == responses[1].json()
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_the_image_has_the_command() -> None:
    assert os.access(SERVE, os.X_OK)
    dockerfile = (ROOT / "infra" / "Dockerfile").read_text()
    copied = f"COPY {SERVE.relative_to(ROOT)} /usr/local/bin/{SERVE.name}"
    assert copied in dockerfile.split("FROM runtime AS serving")[1]
    assert "!infra/sagemaker\n" in (ROOT / ".dockerignore").read_text()
    assert "ENTRYPOINT" not in dockerfile, "an entrypoint would receive `serve` as an argument"
