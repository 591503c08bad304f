"""The running compose stack: a project of its own on free ports, taken down at the end.

A running stack of the project `ontime` is not touched. All measurements are written to
``var/reports/e2e.json`` of the repository.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml

from ontime.problem import DEMO_START, examples, read_source, request_of
from ontime.settings import DEVELOPMENT_SECRET, ROOT
from tests.integration.conftest import free_port

PORTS = ("API", "MLFLOW", "PREFECT", "EVIDENTLY", "PROMETHEUS", "GRAFANA")
UP_WITHIN_S = 900.0  # ends a run that hangs; the aim is 180 on two idle cores
# The key of docker-compose.yml, with which a development API knows the client `local`.
AUTHENTICATED = {"Authorization": f"Bearer {DEVELOPMENT_SECRET}"}
REVISION = "the-commit-under-test"
REPORT = ROOT / "var" / "reports" / "e2e.json"
# A part of the demo: three challengers are evaluated, and one is left in shadow.
REPLAY_END = DEMO_START + timedelta(days=24)


@dataclass
class Stack:
    """docker compose, and clients of its services."""

    env: dict[str, str]
    request: dict[str, Any]  # a prediction request of one instance, at the start of the demo
    measured: dict[str, Any] = field(default_factory=dict)

    def compose(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env=os.environ | self.env,
            check=False,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.env[f'{part}_PORT']}"

    def state(self, service: str) -> dict[str, Any]:
        container = self.compose("ps", "--all", "--quiet", service).strip()
        command = ["docker", "inspect", container]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return dict(json.loads(found)[0])

    def lines(self, service: str) -> list[str]:
        """The log of a container."""
        command = ["docker", "logs", self.state(service)["Id"]]
        both = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return both.stdout.splitlines()

    def is_healthy(self, service: str) -> bool:
        return bool(self.state(service)["State"]["Health"]["Status"] == "healthy")

    def crash(self, service: str) -> float:
        """Kill every process of a container but its init; seconds until it is healthy again.

        Docker restarts it, because it was not stopped by a command.
        """
        before = self.state(service)["RestartCount"]
        self.compose("exec", "-T", service, "sh", "-c", "kill -9 -1", check=False)
        began = time.monotonic()
        back = lambda: self.state(service)["RestartCount"] > before and self.is_healthy(service)  # noqa: E731
        wait_until(back, 120, f"{service} healthy again")
        return time.monotonic() - began

    def predict(self, key: str, timeout: float = 30) -> httpx.Response:
        headers = {"Idempotency-Key": key} | AUTHENTICATED
        return httpx.post(
            f"{self.url('API')}/predict", json=self.request, headers=headers, timeout=timeout
        )

    def sql(self, query: str) -> list[list[str]]:
        """Rows of the prediction log's database."""
        psql = ("psql", "-U", "postgres", "-d", "ontime", "--csv", "--tuples-only", "-c", query)
        lines = self.compose("exec", "-T", "postgres", *psql).splitlines()
        return [line.split(",") for line in lines]

    def in_postgres(self, script: str) -> None:
        """Run a shell script as the server's own user."""
        self.compose("exec", "-T", "--user", "postgres", "postgres", "sh", "-c", script)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The present value of an expression in Prometheus."""
        response = httpx.get(
            f"{self.url('PROMETHEUS')}/api/v1/query", params={"query": expression}, timeout=10
        ).raise_for_status()
        return list(response.json()["data"]["result"])

    def fires(self, alert: str) -> bool:
        return bool(self.query(ALERTS[alert]))


RULES = yaml.safe_load((ROOT / "infra/prometheus/alerts.yml").read_text())
ALERTS = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.2)


def prediction_request(rows: pd.DataFrame, at: datetime) -> dict[str, Any]:
    """The request for all instances of the first prediction time at or after a moment."""
    as_of = rows.event_timestamp[rows.event_timestamp >= at].min()
    instances = rows[rows.event_timestamp == as_of].to_dict("records")
    return {"as_of": as_of.isoformat(), "instances": [request_of(row) for row in instances]}


@dataclass
class Traffic:
    """Clients that predict all the time, and retry under the same key until they succeed."""

    stack: Stack
    name: str
    stop: threading.Event = field(default_factory=threading.Event)
    succeeded: list[str] = field(default_factory=list)  # keys
    statuses: list[int] = field(default_factory=list)  # 0: no connection
    seconds: list[float] = field(default_factory=list)  # per request

    def run(self, client: int) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            key = f"{self.name}-{client}-{number}"
            while self._predict(key) != httpx.codes.OK:
                time.sleep(0.1)
            self.succeeded.append(key)
            time.sleep(0.02)

    def _predict(self, key: str) -> int:
        began = time.monotonic()
        try:
            status = self.stack.predict(key).status_code
        except httpx.TransportError:
            status = 0
        self.seconds.append(time.monotonic() - began)
        self.statuses.append(status)
        return status


@contextmanager
def traffic(stack: Stack, name: str) -> Iterator[Traffic]:
    """Traffic for as long as the block runs; at its end every request succeeded."""
    clients = Traffic(stack, name)
    threads = [threading.Thread(target=clients.run, args=(client,)) for client in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(clients.succeeded) > 10, 60, "responses before the fault")
        yield clients
        before = len(clients.succeeded)
        wait_until(lambda: len(clients.succeeded) > before + 10, 60, "responses after the fault")
    finally:
        clients.stop.set()
        for thread in threads:
            thread.join(timeout=60)


@pytest.fixture(scope="session")
def rows() -> pd.DataFrame:
    """All rows of `problem.examples` that can be predicted, by prediction time."""
    tables, _ = read_source(progress=lambda line: None)
    found = examples(tables)
    return found[found.eligible].sort_values("event_timestamp")


@pytest.fixture(scope="session")
def stack(rows: pd.DataFrame) -> Iterator[Stack]:
    ports = {f"{name}_PORT": str(free_port()) for name in PORTS}
    names = {"COMPOSE_PROJECT_NAME": "ontime-e2e", "CODE_REVISION": REVISION}
    request = prediction_request(rows, DEMO_START)
    request["instances"] = request["instances"][:1]
    stack = Stack(names | ports | {"REPLAY_END": f"{REPLAY_END:%Y-%m-%d}"}, request)
    began = time.monotonic()
    stack.compose("build")
    stack.measured["build_seconds"] = round(time.monotonic() - began, 1)
    try:
        began = time.monotonic()
        stack.compose("up", "--wait", f"--wait-timeout={UP_WITHIN_S:.0f}")
        stack.measured["up_seconds"] = round(time.monotonic() - began, 1)
        yield stack
    finally:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(json.dumps(stack.measured, indent=1))
        logs = stack.compose("--profile=replay", "logs", "--no-color", check=False)
        REPORT.with_suffix(".log").write_text(logs)
        stack.compose("--profile=replay", "down", "--volumes", "--remove-orphans", check=False)
