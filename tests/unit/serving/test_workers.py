"""Several workers on one port: one history, one log, and metrics that are the sum."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx2
import psutil
import pytest

from ontime.settings import ROOT
from ontime.storage.decision_log import ChampionChange, DecisionLog
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.serving_history import ServingHistory
from tests.unit.serving.fakes import (
    AS_OF,
    AUTHENTICATED,
    FakeRegistry,
    fake_settings,
    request_body,
)
from tests.unit.serving.page_fakes import instance_id, prediction_request

pytestmark = pytest.mark.slow

N_WORKERS, N_REQUESTS = 2, 60
CANARY = ChampionChange(1, "canary", "2", "1", AS_OF, ["why"], 0.5)
PROGRAM = """
from serving.server import run_workers
run_workers({n}, "127.0.0.1", {port}, app="tests.unit.serving.fakes:app_from_environment")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    registry = FakeRegistry(folder / "registry")
    registry.add("1", probability=0.25)
    registry.add("2", probability=0.75)
    registry.set_alias("champion", "1")
    log = PredictionLog(fake_settings(folder).prediction_db_url)
    log.migrate()
    DecisionLog(log).reserve_change(CANARY)
    log.close()
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = PROGRAM.format(n=N_WORKERS, port=port)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env=os.environ | {"ONTIME_DATA_DIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(f"http://127.0.0.1:{port}")
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=60)


def wait_for(url: str) -> None:
    deadline = monotonic() + 120
    while monotonic() < deadline:
        try:
            if httpx2.get(f"{url}/ready", timeout=5).is_success:
                return
        except httpx2.HTTPError:
            sleep(0.1)
    raise AssertionError("the workers did not become ready")


def predict(url: str, key: str) -> Any:
    """One request on a connection of its own, which any worker may accept."""
    headers = {"Idempotency-Key": key} | AUTHENTICATED
    return httpx2.post(f"{url}/predict", json=request_body(), headers=headers, timeout=60)


def predictions_of(url: str) -> float:
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    prefix = "ontime_predictions_total"
    return sum(float(line.split()[-1]) for line in lines if line.startswith(prefix))


def test_each_request_is_answered_once_whoever_answers(url: str, folder: Path) -> None:
    keys = [f"k{i % (N_REQUESTS // 2)}" for i in range(N_REQUESTS)]  # each key twice
    with ThreadPoolExecutor(8) as clients:
        responses = list(clients.map(lambda key: predict(url, key), keys))

    assert {response.status_code for response in responses} == {200}
    by_key: dict[str, set[str]] = {}
    for key, response in zip(keys, responses, strict=True):
        by_key.setdefault(key, set()).add(json.dumps(response.json(), sort_keys=True))
    assert all(len(texts) == 1 for texts in by_key.values())
    log = PredictionLog(fake_settings(folder).prediction_db_url)
    assert log.counts()["predictions"] == N_REQUESTS // 2
    assert [row["reason"] for row in ServingHistory(log).rows()] == ["start"]
    log.close()


def test_every_worker_answers_an_instance_by_the_same_version(url: str) -> None:
    def version(days: int) -> str:
        body = prediction_request(24 * days)
        response = httpx2.post(f"{url}/predict", json=body, headers=AUTHENTICATED, timeout=60)
        return str(response.raise_for_status().json()["model_version"])

    days = list(range(20)) * 6
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(version, days))
    assert found == ["2" if CANARY.takes(instance_id(24 * n)) else "1" for n in days]
    assert set(found) == {"1", "2"}


def test_any_worker_returns_the_metrics_of_all(url: str) -> None:
    before = predictions_of(url)
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda i: predict(url, f"metrics{i}"), range(N_REQUESTS)))

    assert {predictions_of(url) for _ in range(8)} == {before + N_REQUESTS}


def test_connections_that_arrive_together_are_distributed_among_the_workers(url: str) -> None:
    port = httpx2.URL(url).port
    with ExitStack() as connections:
        for _ in range(40):
            connections.enter_context(socket.create_connection(("127.0.0.1", port)))
        sleep(1)  # the workers accept
        owners = Counter(
            connection.pid
            for connection in psutil.net_connections("tcp4")
            if connection.status == "ESTABLISHED" and connection.laddr.port == port
        )
    counts = [n for pid, n in owners.items() if pid is not None]
    assert len(counts) == N_WORKERS and min(counts) >= 4  # fewer of 40 is one case in 10,000,000


def test_a_second_api_does_not_share_the_port(url: str, folder: Path) -> None:
    program = PROGRAM.format(n=N_WORKERS, port=httpx2.URL(url).port)
    environment = os.environ | {"ONTIME_DATA_DIR": str(folder / "second")}
    second = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT, env=environment, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    assert second.returncode != 0 and "Address already in use" in second.stderr


def test_a_killed_worker_is_replaced(url: str) -> None:
    (server,) = [
        child for child in psutil.Process().children() if "run_workers" in " ".join(child.cmdline())
    ]
    workers = [child for child in server.children() if "spawn_main" in " ".join(child.cmdline())]
    victim = max(workers, key=lambda process: process.memory_info().rss)
    victim.send_signal(signal.SIGKILL)
    victim.wait(timeout=120)  # the server has to reap it

    wait_for(url)
    assert predict(url, "after-the-kill").status_code == 200
