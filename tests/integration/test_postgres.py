"""The prediction log on Postgres: same migrations, same rows, and no response without its row."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from starlette.testclient import TestClient

from ontime.errors import ChampionChanged
from ontime.storage.decision_log import ChampionChange, DecisionLog
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import METADATA
from serving.app import create_app
from tests.integration.conftest import RealPostgres
from tests.unit.serving.conftest import client_of
from tests.unit.serving.fakes import (
    AS_OF,
    FakeFeatures,
    FakeRegistry,
    fake_settings,
    load_fake,
    request_body,
)
from tests.unit.storage.old_database import make_old_database, read_tables

# Six seconds of silence on the existing connection, and five to open a new one.
BOUND_S = 12.0
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def log(postgres: RealPostgres) -> Iterator[PredictionLog]:
    log = PredictionLog(postgres.url("ontime"))
    log.migrate()
    yield log
    log.close()


@pytest.fixture
def api(log: PredictionLog, postgres: RealPostgres, tmp_path: Path) -> Iterator[TestClient]:
    """An app that predicts 0.25, without the feature `signal` of the second instance."""
    registry = FakeRegistry(tmp_path / "registry")
    registry.add("1", probability=0.25)
    registry.set_alias("champion", "1")
    app = create_app(
        fake_settings(tmp_path, prediction_db_url=postgres.url("ontime")),
        features=FakeFeatures(missing=frozenset({1})),
        registry=registry,
        load_model=load_fake,
    )
    with client_of(app) as client:
        yield client


def test_an_old_database_is_converted_as_on_sqlite(postgres: RealPostgres, tmp_path: Path) -> None:
    url, sqlite = postgres.url("old"), f"sqlite:///{tmp_path}/old.db"
    assert make_old_database(url) == make_old_database(sqlite)
    logs = [PredictionLog(url) for _ in range(3)]

    with ThreadPoolExecutor(3) as processes:
        list(processes.map(PredictionLog.migrate, logs))
    with closing(PredictionLog(sqlite)) as embedded:
        embedded.migrate()

    assert read_tables(url) == read_tables(sqlite)
    with logs[-1].engine.connect() as connection:
        connection.dialect.supports_comments = False  # they are in the schema only
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    for log in logs:
        log.close()


def test_what_is_written_reads_back_equal(api: TestClient, log: PredictionLog) -> None:
    headers = {"Idempotency-Key": "postgres-1", "X-Request-ID": "traced-1"}
    first = api.post("/predict", json=request_body(2), headers=headers)
    again = api.post("/predict", json=request_body(2), headers=headers)

    assert first.status_code == 200
    assert first.json() == again.json()
    frame = log.served(AS_OF, AS_OF + HOUR).set_index("request_id").loc[["local:postgres-1"]]
    assert frame.position.tolist() == [0, 1]
    assert frame.features_missing.tolist() == [[], ["signal"]]
    assert frame.signal.isna().tolist() == [False, True]
    assert frame.trace_id.unique().tolist() == ["traced-1"]
    assert frame.as_of.unique().tolist() == [AS_OF]


def test_concurrent_retries_get_one_prediction(api: TestClient, log: PredictionLog) -> None:
    def post(_: int) -> dict[str, object]:
        headers = {"Idempotency-Key": "postgres-race"}
        return dict(api.post("/predict", json=request_body(), headers=headers).json())

    with ThreadPoolExecutor(8) as clients:
        responses = list(clients.map(post, range(8)))

    assert all(response == responses[0] for response in responses)
    assert len(log.responses(["local:postgres-race"])["local:postgres-race"]) == 1


def test_two_promotions_cannot_reserve_the_same_change(log: PredictionLog) -> None:
    decisions = DecisionLog(log)
    decisions.reserve_change(ChampionChange(1, "promotion", "1", None, AS_OF, []))
    with pytest.raises(ChampionChanged):
        decisions.reserve_change(ChampionChange(1, "promotion", "2", None, AS_OF, []))


def test_when_postgres_is_killed_under_load_no_response_is_without_its_row(
    api: TestClient, log: PredictionLog, postgres: RealPostgres
) -> None:
    def post(i: int) -> tuple[str, int, float]:
        start = time.monotonic()
        headers = {"Idempotency-Key": f"killed-{i}"}
        status = api.post("/predict", json=request_body(), headers=headers).status_code
        return f"killed-{i}", status, time.monotonic() - start

    with ThreadPoolExecutor(4) as clients:
        futures = [clients.submit(post, i) for i in range(40)]
        futures[5].result()
        postgres.server.kill()
        futures += [clients.submit(post, i) for i in range(40, 60)]
        responses = [future.result() for future in futures]
    postgres.server.start()

    assert {status for _, status, _ in responses} == {200, 503}
    assert max(seconds for _, _, seconds in responses) < BOUND_S
    for key, status, _ in responses:
        # A commit whose confirmation was lost may be in the log; the opposite is an error.
        assert status != 200 or len(log.responses([f"local:{key}"])[f"local:{key}"]) == 1
    for key, status, _ in responses:
        if status == 503:  # a retry with the same key in the same process
            headers = {"Idempotency-Key": key}
            assert api.post("/predict", json=request_body(), headers=headers).status_code == 200
            assert len(log.responses([f"local:{key}"])[f"local:{key}"]) == 1


def test_when_postgres_is_suspended_a_request_fails_in_seconds_and_later_ones_work(
    api: TestClient, log: PredictionLog, postgres: RealPostgres
) -> None:
    assert api.post("/predict", json=request_body()).status_code == 200
    headers = {"Idempotency-Key": "suspended"}
    postgres.server.send(signal.SIGSTOP)
    try:
        start = time.monotonic()
        failed = api.post("/predict", json=request_body(), headers=headers)
        seconds = time.monotonic() - start
    finally:
        postgres.server.send(signal.SIGCONT)
    assert failed.status_code == 503
    assert seconds < BOUND_S
    assert api.post("/predict", json=request_body(), headers=headers).status_code == 200
    assert len(log.responses(["local:suspended"])["local:suspended"]) == 1


def test_an_app_without_a_database_starts_unready_and_recovers(
    log: PredictionLog, postgres: RealPostgres, tmp_path: Path
) -> None:
    registry = FakeRegistry(tmp_path / "registry")
    registry.add("1", probability=0.25)
    registry.set_alias("champion", "1")
    app = create_app(
        fake_settings(tmp_path, prediction_db_url=postgres.url("absent"), champion_poll_s=0.1),
        features=FakeFeatures(),
        registry=registry,
        load_model=load_fake,
    )
    postgres.server.kill()
    try:
        with client_of(app) as client:
            assert client.get("/health").status_code == 200
            assert client.get("/ready").status_code == 503
            postgres.server.start()
            deadline = time.monotonic() + BOUND_S
            while client.get("/ready").status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert client.post("/predict", json=request_body()).status_code == 200
    finally:
        if not postgres.responds():
            postgres.server.start()
