"""A real server is killed under load: what was answered is logged, and a retry doubles nothing."""

import os
import queue
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx2

from ontime.prediction_log import PredictionLog
from tests.serving.fakes import AS_OF, FLIGHT, FakeRegistry, question

ROOT = Path(__file__).resolve().parents[2]


def serve(var: Path) -> tuple[subprocess.Popen[str], str]:
    """A real server on a free port, and its address once it listens."""
    command = [sys.executable, "-m", "uvicorn", "--factory"]
    process = subprocess.Popen(
        [*command, "tests.serving.fakes:app_of_the_environment", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"ONTIME_VAR": str(var)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if listening := re.search(r"http://127\.0\.0\.1:\d+", line):
            return process, listening[0]
    raise AssertionError("the server ended before it listened")


def test_after_kill_9_no_answered_prediction_is_missing(
    tmp_path: Path, registry: FakeRegistry, log: PredictionLog
) -> None:
    process, url = serve(tmp_path)
    answered: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask_until_it_dies(client: int) -> tuple[int, int]:
        with httpx2.Client(base_url=url) as http:
            for i in range(100_000):
                key = {"Idempotency-Key": f"client{client}-{i}"}
                try:
                    answer = http.post("/predict", json=question(FLIGHT, FLIGHT), headers=key)
                except httpx2.TransportError:
                    return client, i
                for prediction in answer.json()["predictions"]:
                    answered.put(prediction["prediction_id"])
        raise AssertionError("the server was not killed")

    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask_until_it_dies, client) for client in range(4)]
        seen = {answered.get(timeout=60) for _ in range(100)}
        process.send_signal(signal.SIGKILL)
        last = [future.result() for future in asking]
    process.communicate()
    while not answered.empty():
        seen.add(answered.get())

    frame = log.served(AS_OF, AS_OF + timedelta(hours=1))
    assert seen <= set(frame.prediction_id)
    assert frame.prediction_id.is_unique and frame.groupby("request_id").size().eq(2).all()

    # Whoever got no answer asks again under the same key: nothing is doubled, nothing is lost.
    process, url = serve(tmp_path)
    for client, i in last:
        key = {"Idempotency-Key": f"client{client}-{i}"}
        answer = httpx2.post(f"{url}/predict", json=question(FLIGHT, FLIGHT), headers=key)
        assert answer.status_code == 200
        assert len(log.answered(f"client{client}-{i}")) == 2
    process.kill()
    process.communicate()
