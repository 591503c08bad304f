"""Changing the champion: no request fails, and log and serving history agree."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ontime.errors import PredictionLogUnavailable
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.serving_history import ServingHistory
from serving.model_cache import CHECKSUMS, _checksums
from tests.unit.serving.conftest import OpenApi, deployed_version, state_of
from tests.unit.serving.fakes import AS_OF, FakeModel, FakeRegistry, load_fake, request_body


def promote(registry: FakeRegistry, version: str, probability: float) -> None:
    registry.add(version, probability)
    registry.set_alias("champion", version)


def test_a_promotion_and_a_rollback_are_deployed(api: TestClient, registry: FakeRegistry) -> None:
    registry.add("2", probability=0.75)
    for version, probability in (("2", 0.75), ("1", 0.25)):
        registry.set_alias("champion", version)
        assert api.post("/model/reload").json() == {"model_version": version, "swapped": True}
        assert api.post("/model/reload").json() == {"model_version": version, "swapped": False}
        (prediction,) = api.post("/predict", json=request_body()).json()["predictions"]
        assert prediction["probability"] == probability

    history = api.get("/model/history").json()
    assert [row["version"] for row in history] == ["1", "2", "1"]
    assert [row["reason"] for row in history] == ["start", "promotion", "rollback"]
    assert [row["until"] for row in history[:-1]] == [row["serving_since"] for row in history[1:]]
    metrics = api.get("/metrics").text
    info = re.findall(r'champion_info\{model_version="(\d)".*\} (\d)', metrics)
    assert info == [("1", "1"), ("2", "0")]
    assert "ontime_model_swaps_total 3.0" in metrics
    assert registry.n_downloads == 2  # the rollback needs no download


def test_a_full_disk_does_not_prevent_a_swap(
    api: TestClient, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any, version: str) -> None:
        raise OSError(28, "No space left on device")

    promote(registry, "2", probability=0.75)
    monkeypatch.setattr("serving.model_cache.ModelCache.mark_deployed", full)

    assert api.post("/model/reload").json() == {"model_version": "2", "swapped": True}
    assert [row["version"] for row in api.get("/model/history").json()] == ["1", "2"]


def test_swaps_under_load_fail_no_request_and_history_and_log_agree(
    api: TestClient, registry: FakeRegistry, log: PredictionLog
) -> None:
    registry.add("2", probability=0.75)
    probability = {"1": 0.25, "2": 0.75}
    stop = threading.Event()

    def predict_until_stopped(_: int) -> list[Any]:
        responses = []
        while not stop.is_set():
            responses.append(api.post("/predict", json=request_body()))
        return responses

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(predict_until_stopped, client) for client in range(4)]
        for version in "2121212121":
            registry.set_alias("champion", version)
            assert api.post("/model/reload").json()["swapped"]
        stop.set()
        responses = [response for future in running for response in future.result()]

    assert {response.status_code for response in responses} == {200}
    logged = log.served(AS_OF, AS_OF + timedelta(hours=1)).set_index("prediction_id")
    assert len(logged) == len(responses)
    for response in responses:
        body = response.json()
        row = logged.loc[body["predictions"][0]["prediction_id"]]
        assert row.model_version == body["model_version"]
        assert row.probability == probability[body["model_version"]]
    history = ServingHistory(log).rows()
    assert [row["version"] for row in history] == list("12121212121")
    for row in logged.itertuples():
        (deployed,) = [
            period["version"]
            for period in history
            if period["serving_since"] <= row.predicted_at
            and (period["until"] is None or row.predicted_at < period["until"])
        ]
        assert deployed == row.model_version


def test_a_request_in_progress_finishes_with_the_model_it_took(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    started, resume = threading.Event(), threading.Event()
    old = FakeModel(0.25)
    api = open_api(load_model=lambda path: old if path.name == "1" else load_fake(path))

    def wait() -> None:
        started.set()
        assert resume.wait(60)

    old.before_predict = wait

    with ThreadPoolExecutor(2) as clients:
        in_progress = clients.submit(api.post, "/predict", json=request_body())
        assert started.wait(60)
        promote(registry, "2", probability=0.75)
        assert api.post("/model/reload").json()["swapped"]
        next_batch = clients.submit(api.post, "/predict", json=request_body())
        resume.set()

    assert in_progress.result().json()["model_version"] == "1"
    assert next_batch.result().json()["model_version"] == "2"


def test_a_rejected_version_is_tried_again_by_reload_only(
    api: TestClient, registry: FakeRegistry
) -> None:
    promote(registry, "2", probability=1.5)
    for _ in range(3):
        state_of(api).manager.poll()
    assert registry.n_downloads == 2  # version 1, and version 2 once
    assert api.get("/model").json()["last_sync_error"]

    (registry.root / "2" / "model.json").write_text('{"probability": 0.75}')
    assert api.post("/model/reload").json() == {"model_version": "2", "swapped": True}
    assert api.get("/model").json()["last_sync_error"] is None


def test_without_the_registry_the_model_stays_and_survives_a_restart(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    since = open_api().get("/model").json()["serving_since"]
    registry.down = True

    api = open_api()

    assert api.post("/model/reload").json()["type"] == "/problems/registry-unavailable"
    assert api.post("/predict", json=request_body()).json()["model_version"] == "1"
    model = api.get("/model").json()
    assert model["serving_since"] == since  # a restart continues the row of the history
    assert "registry" in model["last_sync_error"]["detail"]

    registry.down = False
    state_of(api).manager.poll()
    assert api.get("/model").json()["last_sync_error"] is None


def test_a_start_with_a_broken_champion_deploys_the_last_good_version(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    assert deployed_version(open_api()) == "1"
    promote(registry, "2", probability=1.5)

    assert deployed_version(open_api()) == "1"


def test_a_damaged_copy_is_never_deployed(
    open_api: OpenApi, registry: FakeRegistry, tmp_path: Path
) -> None:
    assert deployed_version(open_api()) == "1"
    copy = tmp_path / "champion" / "1" / "model.json"
    copy.write_text(copy.read_text().replace("0.25", "0.99"))

    registry.down = True
    assert deployed_version(open_api()) is None

    registry.down = False
    (prediction,) = open_api().post("/predict", json=request_body()).json()["predictions"]
    assert prediction["probability"] == 0.25
    assert registry.n_downloads == 2


def test_a_copy_that_was_exchanged_with_its_checksums_is_downloaded_again(
    open_api: OpenApi, registry: FakeRegistry, tmp_path: Path
) -> None:
    open_api()
    copy = tmp_path / "champion" / "1"
    (copy / "model.json").write_text('{"probability": 0.99, "metadata": {"threshold": 0.3}}')
    (copy / CHECKSUMS).write_text(json.dumps(_checksums(copy)))

    api = open_api()

    (prediction,) = api.post("/predict", json=request_body()).json()["predictions"]
    assert prediction["probability"] == 0.25
    registry.down = True
    assert deployed_version(open_api()) == "1", "without the registry the copy is enough"


def test_a_swap_that_is_not_in_the_history_is_written_by_the_next_poll(
    api: TestClient, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: Any) -> None:
        raise PredictionLogUnavailable("the prediction log does not work")

    promote(registry, "2", probability=0.75)
    with monkeypatch.context() as patch:
        patch.setattr(ServingHistory, "record", unavailable)
        assert api.post("/model/reload").status_code == 503
    assert len(api.get("/model/history").json()) == 1

    state_of(api).manager.poll()

    assert [row["version"] for row in api.get("/model/history").json()] == ["1", "2"]
    assert deployed_version(api) == "2"
    assert api.get("/model").json()["last_sync_error"] is None


def test_a_start_with_bad_metadata_deploys_the_last_good_version(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    assert deployed_version(open_api()) == "1"
    promote(registry, "2", probability=0.75)
    model = registry.root / "2" / "model.json"
    model.write_text('{"probability": 0.75, "metadata": {"threshold": 0.3, "trained_through": {}}}')

    api = open_api()

    assert deployed_version(api) == "1"
    assert [row["version"] for row in api.get("/model/history").json()] == ["1"]
    assert api.get("/model").json()["last_sync_error"]["model_version"] == "2"


def test_a_history_that_cannot_be_written_does_not_prevent_the_next_swap(
    api: TestClient, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("a value that the database cannot hold")

    with monkeypatch.context() as patch:
        patch.setattr(ServingHistory, "record", broken)
        for version in ("2", "3"):
            promote(registry, version, probability=0.75)
            assert api.post("/model/reload").status_code == 500
            assert deployed_version(api) == version

    assert api.post("/model/reload").json() == {"model_version": "3", "swapped": False}
    assert [row["version"] for row in api.get("/model/history").json()] == ["1", "2", "3"]


def test_whatever_fails_before_the_swap_leaves_the_old_model(
    api: TestClient, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise TypeError("a label is text")

    promote(registry, "2", probability=0.75)
    monkeypatch.setattr(state_of(api).metrics, "record_swap", broken)

    assert api.post("/model/reload").status_code == 500
    assert api.post("/predict", json=request_body()).json()["model_version"] == "1"
    assert len(api.get("/model/history").json()) == 1
