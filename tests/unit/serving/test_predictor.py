"""Predictions: ordered, logged before the response, and safe to retry, also after ``kill -9``."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from ontime.errors import DuplicateRequest, PredictionLogUnavailable
from ontime.problem import EXAMPLE_INSTANCE, FEATURE_SPEC, Instance
from ontime.storage.prediction_log import PredictionLog
from tests.unit.serving.conftest import OpenApi, metric, state_of
from tests.unit.serving.fakes import (
    AS_OF,
    AUTHENTICATED,
    INSTANCE_ID,
    KNOWN,
    FakeFeatures,
    FakeModel,
    FakeRegistry,
    fake_settings,
    request_body,
)

ROOT = Path(__file__).resolve().parents[3]
HOUR = timedelta(hours=1)
KEY = {"Idempotency-Key": "replay-10:00"}


class ReadOnlyLog(PredictionLog):
    def record(self, predictions: Any, feature_names: Any) -> None:
        raise PredictionLogUnavailable("the prediction log does not work: disk is full")


def test_predictions_keep_the_order_and_name_unusable_features(
    api: TestClient, features: FakeFeatures
) -> None:
    features.missing, features.stale = frozenset({0}), frozenset({2})
    features.not_yet_known = frozenset({1})

    response = api.post("/predict", json=request_body(3))

    assert response.status_code == 200
    predictions = response.json()["predictions"]
    assert response.json()["model_version"] == "1"
    assert [p["probability"] for p in predictions] == [0.25] * 3
    assert [p["uncertainty"] for p in predictions] == [pytest.approx(0.05)] * 3
    assert [p["features_missing"] for p in predictions] == [["signal"], [], []]
    assert [p["features_stale"] for p in predictions] == [[], [], ["signal"]]
    assert [p["features_not_yet_known"] for p in predictions] == [[], ["signal"], []]
    assert metric(api, 'ontime_features_missing_total{feature="signal"}') == 1
    assert metric(api, 'ontime_features_stale_total{feature="signal"}') == 1
    assert metric(api, 'ontime_features_not_yet_known_total{feature="signal"}') == 1
    assert metric(api, 'ontime_predictions_total{model_version="1"}') == 3
    assert metric(api, 'ontime_feature_age_seconds{view="a_view"}') == 1800


@pytest.mark.parametrize(("threshold", "decision"), [(0.24, True), (0.25, True), (0.26, False)])
def test_the_decision_is_positive_from_the_models_threshold_on(
    open_api: OpenApi, log: PredictionLog, threshold: float, decision: bool
) -> None:
    api = open_api(load_model=lambda _: FakeModel(0.25, {"threshold": threshold}))

    (prediction,) = api.post("/predict", json=request_body()).json()["predictions"]

    assert prediction["decision"] is decision
    assert log.served(AS_OF, AS_OF + HOUR).decision.tolist() == [decision]


def test_every_prediction_is_logged_with_its_inputs(api: TestClient, log: PredictionLog) -> None:
    response = api.post("/predict", json=request_body(2), headers={"X-Request-ID": "abc"})

    frame = log.served(AS_OF, AS_OF + HOUR)

    ids = [p["prediction_id"] for p in response.json()["predictions"]]
    instance = Instance.model_validate(EXAMPLE_INSTANCE)
    assert frame.prediction_id.tolist() == ids
    assert frame.instance_id.tolist() == [INSTANCE_ID] * 2
    assert frame.trace_id.tolist() == ["abc"] * 2 and response.headers["X-Request-ID"] == "abc"
    assert frame.signal.tolist() == [0.0, 1.0]
    assert frame.model_version.tolist() == ["1"] * 2
    assert frame.due_at.tolist() == [instance.due_at] * 2
    assert all(frame[name].tolist() == [value] * 2 for name, value in instance)


def test_a_prediction_at_a_time_of_no_training_is_flagged_and_counted(
    api: TestClient, log: PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = api.post("/predict", json=request_body()).json()["predictions"]
    monkeypatch.setattr(Instance, "is_trained_for", lambda self, as_of: as_of != AS_OF)
    other = api.post("/predict", json=request_body(2), headers=KEY).json()["predictions"]
    again = api.post("/predict", json=request_body(2), headers=KEY).json()["predictions"]

    flags = [[p["outside_training"] for p in each] for each in (trained, other, again)]
    assert flags == [[False], [True, True], [True, True]]
    assert metric(api, "ontime_predictions_outside_training_total") == 2
    assert log.served(AS_OF, AS_OF + HOUR).outside_training.sum() == 2


def test_a_value_that_the_model_has_never_seen_is_flagged(open_api: OpenApi) -> None:
    name = FEATURE_SPEC.categorical[0]
    api = open_api(load_model=lambda _: FakeModel(0.25, vocabularies=KNOWN | {name: ["another"]}))

    (prediction,) = api.post("/predict", json=request_body()).json()["predictions"]

    assert prediction["outside_training"] is True
    assert api.get("/model").json()["vocabularies"] == KNOWN | {name: ["another"]}


def test_a_retry_gets_the_logged_response_without_a_prediction(
    api: TestClient, features: FakeFeatures, registry: FakeRegistry
) -> None:
    features.missing = features.not_yet_known = frozenset({0})
    first = api.post("/predict", json=request_body(), headers=KEY)
    registry.add("2", probability=0.75)
    registry.set_alias("champion", "2")
    api.post("/model/reload")

    second = api.post("/predict", json=request_body(), headers=KEY)

    assert second.status_code == 200 and second.json() == first.json()
    assert first.json()["predictions"][0]["prediction_id"] == "local:replay-10:00-0"
    assert features.n_reads == 1


def test_a_retry_needs_the_prediction_log_only(
    open_api: OpenApi, features: FakeFeatures, registry: FakeRegistry
) -> None:
    first = open_api().post("/predict", json=request_body(), headers=KEY)
    registry.set_alias("champion", "no such version")
    features.down = True

    assert open_api().post("/predict", json=request_body(), headers=KEY).json() == first.json()


def test_a_key_belongs_to_one_request(api: TestClient) -> None:
    assert api.post("/predict", json=request_body(1), headers=KEY).status_code == 200

    conflict = api.post("/predict", json=request_body(2), headers=KEY)

    assert conflict.status_code == 409
    assert conflict.json()["type"] == "/problems/idempotency-key-conflict"
    assert "Idempotency-Key" in conflict.json()["detail"] and conflict.json()["hint"]


def test_a_conflict_that_stays_is_an_error_and_the_next_request_works(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says "duplicate" and has no such request; the thread of the batches must survive."""
    log = state_of(api).log
    record, calls = log.record, []

    def refuse(*arguments: Any) -> None:
        calls.append(arguments)
        raise DuplicateRequest("a request id is in the prediction log already")

    monkeypatch.setattr(log, "record", refuse)
    assert api.post("/predict", json=request_body(), headers=KEY).status_code == 500
    assert len(calls) == 2

    monkeypatch.setattr(log, "record", record)
    assert api.post("/predict", json=request_body()).status_code == 200


def test_ids_of_requests_are_in_the_order_of_time(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([9_999, 10_000, 10_000])
    monkeypatch.setattr("serving.predictor.time_ns", lambda: next(clock))

    first, *later = [
        api.post("/predict", json=request_body()).json()["predictions"][0]["prediction_id"]
        for _ in range(3)
    ]

    assert first < min(later)
    assert len(set(later)) == 2  # also within one tick of the clock


def test_an_invalid_key_is_rejected(api: TestClient) -> None:
    response = api.post("/predict", json=request_body(), headers={"Idempotency-Key": "two words"})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "idempotency-key"


def test_concurrent_retries_at_two_replicas_get_one_response(
    open_api: OpenApi, log: PredictionLog
) -> None:
    models = [FakeModel(0.25), FakeModel(0.25)]
    replicas = [open_api(load_model=lambda _, model=model: model) for model in models]
    for replica in replicas:  # FastAPI builds a route at its first request, in one thread only
        assert replica.post("/predict", json={}, headers=KEY).status_code == 422
    # Both are past the lookup of the key before one logs.
    both = threading.Barrier(2, timeout=60)
    for model in models:
        first = iter([both.wait])
        model.before_predict = lambda first=first: next(first, int)()  # type: ignore[misc]

    def predict(i: int) -> Any:
        return replicas[i % 2].post("/predict", json=request_body(), headers=KEY)

    with ThreadPoolExecutor(8) as clients:
        responses = list(clients.map(predict, range(8)))

    assert {response.status_code for response in responses} == {200}
    assert len({response.text for response in responses}) == 1
    assert log.counts()["predictions"] == 1


def test_no_prediction_is_returned_that_is_not_logged(open_api: OpenApi, tmp_path: Path) -> None:
    api = open_api(log=ReadOnlyLog(fake_settings(tmp_path).prediction_db_url))

    response = api.post("/predict", json=request_body())

    assert response.status_code == 503
    assert response.json()["type"] == "/problems/prediction-log-unavailable"
    assert "disk is full" not in response.text and "disk" in response.json()["hint"]
    assert metric(api, "ontime_prediction_log_failures_total") == 1
    assert metric(api, 'ontime_predictions_total{model_version="1"}') is None


def test_without_the_online_store_the_api_is_not_ready_until_it_responds(
    api: TestClient, features: FakeFeatures
) -> None:
    features.down = True
    response = api.post("/predict", json=request_body())
    assert (response.status_code, api.get("/ready").status_code) == (503, 503)
    assert response.json()["type"] == "/problems/online-store-unavailable"
    assert api.get("/health").status_code == 200
    assert metric(api, "ontime_online_store_failures_total") == 2

    features.down = False
    assert api.post("/predict", json=request_body()).status_code == 200
    assert api.get("/ready").json() == {"status": "ready", "model_version": "1"}


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.5])
def test_a_value_that_is_no_probability_is_not_returned(
    open_api: OpenApi, log: PredictionLog, value: float
) -> None:
    model = FakeModel(0.25)
    api = open_api(load_model=lambda _: model)
    model.probability = value

    response = api.post("/predict", json=request_body(), headers={"X-Request-ID": "trace-1"})

    assert response.status_code == 500
    assert "trace_id trace-1" in response.json()["hint"]
    assert log.counts()["predictions"] == 0


def start_server(data_dir: Path) -> tuple[subprocess.Popen[str], str]:
    """A server process on a free port, and its address."""
    command = [sys.executable, "-m", "uvicorn", "--factory"]
    process = subprocess.Popen(
        [*command, "tests.unit.serving.fakes:app_from_environment", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"ONTIME_DATA_DIR": str(data_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if listening := re.search(r"http://127\.0\.0\.1:\d+", line):
            return process, listening[0]
    raise AssertionError("the server ended before it listened")


@pytest.mark.slow
def test_after_kill_9_every_returned_prediction_is_logged_once(
    tmp_path: Path, registry: FakeRegistry, log: PredictionLog
) -> None:
    process, url = start_server(tmp_path)
    returned: queue.SimpleQueue[str] = queue.SimpleQueue()

    def predict_until_killed(client: int) -> tuple[int, int]:
        with httpx2.Client(base_url=url, headers=AUTHENTICATED) as http:
            for i in range(100_000):
                key = {"Idempotency-Key": f"client{client}-{i}"}
                try:
                    response = http.post("/predict", json=request_body(2), headers=key)
                except httpx2.TransportError:
                    return client, i
                for prediction in response.json()["predictions"]:
                    returned.put(prediction["prediction_id"])
        raise AssertionError("the server was not killed")

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(predict_until_killed, client) for client in range(4)]
        ids = {returned.get(timeout=60) for _ in range(100)}
        process.send_signal(signal.SIGKILL)
        interrupted = [future.result() for future in running]
    process.communicate()
    while not returned.empty():
        ids.add(returned.get())

    frame = log.served(AS_OF, AS_OF + HOUR)
    assert ids <= set(frame.prediction_id)
    assert frame.prediction_id.is_unique and frame.groupby("request_id").size().eq(2).all()

    # The clients retry their last request with the same key.
    process, url = start_server(tmp_path)
    for client, i in interrupted:
        key = {"Idempotency-Key": f"client{client}-{i}"} | AUTHENTICATED
        response = httpx2.post(f"{url}/predict", json=request_body(2), headers=key)
        assert response.status_code == 200
        (rows,) = log.responses([f"local:client{client}-{i}"]).values()
        assert len(rows) == 2
    process.kill()
    process.communicate()
