"""The serving history: one row per period of a deployment, whichever replicas write it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ontime.storage.prediction_log import PredictionLog
from ontime.storage.serving_history import ServingHistory

TEN = datetime(2024, 5, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log/predictions.db"


@pytest.fixture
def history(url: str) -> Iterator[ServingHistory]:
    log = PredictionLog(url)
    log.migrate()
    yield ServingHistory(log)
    log.close()


def test_the_history_says_why_the_version_changed(history: ServingHistory) -> None:
    at = [TEN + i * HOUR for i in range(5)]
    for time, version in zip(at, ["9", "10", "9", "10"], strict=False):
        assert history.record(version, time, trained_through=None) == time

    rows = history.rows()

    assert [row["version"] for row in rows] == ["9", "10", "9", "10"]
    assert [row["reason"] for row in rows] == ["start", "promotion", "rollback", "promotion"]
    assert [row["serving_since"] for row in rows] == at[:4]
    assert [row["until"] for row in rows] == [*at[1:4], None]


def test_a_restart_continues_the_row_of_the_version(history: ServingHistory) -> None:
    history.record("1", TEN, trained_through="2024-05-01")

    assert history.record("1", TEN + HOUR, trained_through="2024-05-01") == TEN
    assert len(history.rows()) == 1


def test_replicas_that_start_together_write_one_row(history: ServingHistory, url: str) -> None:
    logs = [PredictionLog(url) for _ in range(8)]
    for version in "12345":
        at = TEN + int(version) * HOUR
        with ThreadPoolExecutor(len(logs)) as replicas:
            written = [
                replicas.submit(ServingHistory(log).record, version, at, None) for log in logs
            ]
        assert {future.result() for future in written} == {at}
    for log in logs:
        log.close()

    assert [row["version"] for row in history.rows()] == list("12345")
