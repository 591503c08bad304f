"""The prediction log on a real Postgres: the same answers, and none without its row."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ontime.decision_log import ChampionChange, ChampionChanged, DecisionLog
from ontime.prediction_log import PredictionLog
from serving.app import create_app
from tests.integration.conftest import RealPostgres
from tests.serving.fakes import (
    AS_OF,
    FLIGHT,
    FakeFeatures,
    FakeRegistry,
    fake_settings,
    load_fake,
    question,
)

# Six seconds of silence on the connection it has, and five to open another.
BOUND_S = 12.0
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def log(postgres: RealPostgres) -> Iterator[PredictionLog]:
    log = PredictionLog(postgres.url("ontime"))
    yield log
    log.close()


@pytest.fixture
def api(postgres: RealPostgres, tmp_path: Path) -> Iterator[TestClient]:
    registry = FakeRegistry(tmp_path / "registry")
    registry.add("1", answer=0.25)
    registry.point("champion", "1")
    app = create_app(
        fake_settings(tmp_path, log_url=postgres.url("ontime")),
        features=FakeFeatures(),
        registry=registry,
        load_model=load_fake,
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_what_is_written_reads_back_equal(api: TestClient, log: PredictionLog) -> None:
    key = {"Idempotency-Key": "postgres-1", "X-Request-ID": "traced-1"}
    first = api.post("/predict", json=question(FLIGHT, FLIGHT | {"flight": 13}), headers=key)
    again = api.post("/predict", json=question(FLIGHT, FLIGHT | {"flight": 13}), headers=key)
    assert first.status_code == 200
    assert first.json() == again.json()
    frame = log.served(AS_OF, AS_OF + HOUR).set_index("request_id").loc[["postgres-1"]]
    missing = dict(zip(frame.flight, frame.features_missing, strict=True))
    assert missing == {1545: [], 13: ["wind_speed_mph"]}
    assert frame[frame.wind_speed_mph.isna()].flight.tolist() == [13]
    assert frame.trace_id.unique().tolist() == ["traced-1"]
    assert frame.as_of.unique().tolist() == [AS_OF]


def test_retries_that_race_are_answered_once(api: TestClient, log: PredictionLog) -> None:
    def ask(_: int) -> dict[str, object]:
        headers = {"Idempotency-Key": "postgres-race"}
        return dict(api.post("/predict", json=question(), headers=headers).json())

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert len(log.answered("postgres-race")) == 1


def test_two_promotions_cannot_take_the_same_place(log: PredictionLog) -> None:
    decisions = DecisionLog(log)
    decisions.claim(ChampionChange(1, "promotion", "1", None, AS_OF, []))
    with pytest.raises(ChampionChanged):
        decisions.claim(ChampionChange(1, "promotion", "2", None, AS_OF, []))


def test_killed_under_traffic_no_answer_is_without_its_row(
    api: TestClient, log: PredictionLog, postgres: RealPostgres
) -> None:
    def ask(i: int) -> tuple[str, int, float]:
        began = time.monotonic()
        headers = {"Idempotency-Key": f"killed-{i}"}
        status = api.post("/predict", json=question(), headers=headers).status_code
        return f"killed-{i}", status, time.monotonic() - began

    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask, i) for i in range(40)]
        asking[5].result()
        postgres.server.kill()
        asking += [clients.submit(ask, i) for i in range(40, 60)]
        asked = [future.result() for future in asking]
    postgres.server.start()

    statuses = {status for _, status, _ in asked}
    assert statuses == {200, 503}
    assert max(seconds for _, _, seconds in asked) < BOUND_S
    for key, status, _ in asked:
        # A commit whose confirmation was lost may stand in the log; the other way round, never.
        assert status != 200 or len(log.answered(key)) == 1
    for key, status, _ in asked:
        if status == 503:  # asked again, under the same key and by the same process
            headers = {"Idempotency-Key": key}
            assert api.post("/predict", json=question(), headers=headers).status_code == 200
            assert len(log.answered(key)) == 1


def test_frozen_it_costs_a_question_seconds_and_then_works_again(
    api: TestClient, log: PredictionLog, postgres: RealPostgres
) -> None:
    assert api.post("/predict", json=question()).status_code == 200
    headers = {"Idempotency-Key": "frozen"}
    postgres.server.send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        refused = api.post("/predict", json=question(), headers=headers)
        took = time.monotonic() - began
    finally:
        postgres.server.send(signal.SIGCONT)
    assert refused.status_code == 503
    assert took < BOUND_S
    assert api.post("/predict", json=question(), headers=headers).status_code == 200
    assert len(log.answered("frozen")) == 1
