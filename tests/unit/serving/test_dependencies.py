"""Start-up and the background thread: the API runs, and is not ready, without its services."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
from starlette.testclient import TestClient

from ontime.storage.prediction_log import PredictionLog
from tests.unit.serving.conftest import OpenApi, deployed_version
from tests.unit.serving.fakes import FakeRegistry, request_body

TIMEOUT_S = 60


def wait_until_ready(api: TestClient, version: str) -> None:
    deadline = monotonic() + TIMEOUT_S
    while api.get("/ready").json().get("model_version") != version:
        assert monotonic() < deadline
        sleep(0.01)


def test_without_a_champion_the_api_runs_and_says_what_to_do(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    (registry.root / "aliases.json").unlink()
    api = open_api()

    response = api.post("/predict", json=request_body())

    assert (response.status_code, api.get("/ready").status_code) == (503, 503)
    assert response.json()["type"] == "/problems/no-champion"
    assert "make train" in response.json()["hint"]
    assert api.get("/health").json() == {"status": "alive"}
    assert deployed_version(api) is None

    registry.set_alias("champion", "1")
    assert api.post("/model/reload").json() == {"model_version": "1", "swapped": True}
    assert api.post("/predict", json=request_body()).status_code == 200


def test_the_background_thread_deploys_a_new_champion(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    api = open_api(settings={"champion_poll_s": 0.001})
    registry.add("2", probability=0.75)
    registry.set_alias("champion", "2")

    wait_until_ready(api, "2")


def test_the_prediction_log_is_migrated_as_soon_as_its_database_responds(
    open_api: OpenApi, tmp_path: Path
) -> None:
    database = tmp_path / "log" / "predictions.db"
    database.mkdir(parents=True)  # SQLite cannot open a folder
    api = open_api(settings={"champion_poll_s": 0.01})

    assert api.get("/health").status_code == 200
    assert api.get("/ready").status_code == 503
    response = api.post("/predict", json=request_body())
    assert response.status_code == 503 and "prediction log" in response.json()["detail"]

    database.rmdir()
    wait_until_ready(api, "1")
    assert api.post("/predict", json=request_body()).status_code == 200


@contextmanager
def full_disk() -> Iterator[None]:
    """Every write to a file fails, also those of pytest: the block is as short as can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_of_the_log_is_not_ready(
    api: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """`capsys` holds log lines in memory: their file could not be written either."""
    assert api.get("/ready").status_code == 200

    with full_disk():
        response = api.get("/ready")

    assert response.status_code == 503
    assert response.json()["type"] == "/problems/prediction-log-unavailable"
    assert api.get("/ready").status_code == 200


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_log_is_not_ready(
    api: TestClient, log: PredictionLog, tmp_path: Path, share: float
) -> None:
    api.post("/predict", json=request_body(200))
    with log.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert api.get("/ready").status_code == 200

    database = tmp_path / "log" / "predictions.db"
    os.truncate(database, int(database.stat().st_size * share))

    assert api.get("/ready").status_code == 503
