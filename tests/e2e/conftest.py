"""The compose file, up: a project of its own on ports of its own, and taken down at the end.

A person's running stack (project `ontime`) is left alone. What was measured is written to
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
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.integration.conftest import free_port

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("API", "MLFLOW", "PREFECT", "EVIDENTLY", "PROMETHEUS", "GRAFANA")
UP_WITHIN_S = 900.0  # the aim is 180 on two quiet cores; this only ends a run that hangs
REVISION = "the-commit-under-test"
REPORT = ROOT / "var" / "reports" / "e2e.json"
FLIGHT = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "dest": "IAH",
    "tailnum": "N14228",
    "scheduled_departure": "2013-05-01T08:00:00-04:00",
    "scheduled_arrival": "2013-05-01T10:40:00-05:00",
}
QUESTION = {"as_of": "2013-05-01T00:00:00Z", "flights": [FLIGHT]}


@dataclass
class Stack:
    """docker compose, and the ways in from outside."""

    env: dict[str, str]
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
        """What a container has written."""
        command = ["docker", "logs", self.state(service)["Id"]]
        both = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return both.stdout.splitlines()

    def is_healthy(self, service: str) -> bool:
        return bool(self.state(service)["State"]["Health"]["Status"] == "healthy")

    def crash(self, service: str) -> float:
        """Every process of a container but its init, at once; seconds until it is healthy again.

        Nobody starts it: Docker does, because it ended without being asked to.
        """
        before = self.state(service)["RestartCount"]
        self.compose("exec", "-T", service, "sh", "-c", "kill -9 -1", check=False)
        began = time.monotonic()
        back = lambda: self.state(service)["RestartCount"] > before and self.is_healthy(service)  # noqa: E731
        wait_until(back, 120, f"{service} healthy again")
        return time.monotonic() - began

    def ask(self, key: str, timeout: float = 30) -> httpx.Response:
        headers = {"Idempotency-Key": key}
        return httpx.post(
            f"{self.url('API')}/predict", json=QUESTION, headers=headers, timeout=timeout
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
        """What Prometheus says now."""
        answer = httpx.get(
            f"{self.url('PROMETHEUS')}/api/v1/query", params={"query": expression}, timeout=10
        ).raise_for_status()
        return list(answer.json()["data"]["result"])

    def fires(self, alert: str) -> bool:
        return bool(self.query(ALERTS[alert]))


RULES = yaml.safe_load((ROOT / "infra/prometheus/alerts.yml").read_text())
ALERTS = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}


def wait_until(fact: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.2)


@dataclass
class Traffic:
    """Clients that ask all the time, and ask again under the same key until they are answered."""

    stack: Stack
    name: str
    stop: threading.Event = field(default_factory=threading.Event)
    answered: list[str] = field(default_factory=list)  # keys
    statuses: list[int] = field(default_factory=list)  # 0: no connection
    seconds: list[float] = field(default_factory=list)  # of single requests

    def run(self, client: int) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            key = f"{self.name}-{client}-{number}"
            while self._ask(key) != httpx.codes.OK:
                time.sleep(0.1)
            self.answered.append(key)
            time.sleep(0.02)

    def _ask(self, key: str) -> int:
        began = time.monotonic()
        try:
            status = self.stack.ask(key).status_code
        except httpx.TransportError:
            status = 0
        self.seconds.append(time.monotonic() - began)
        self.statuses.append(status)
        return status


@contextmanager
def traffic(stack: Stack, name: str) -> Iterator[Traffic]:
    """Traffic for as long as the block runs; at its end every question was answered."""
    asking = Traffic(stack, name)
    threads = [threading.Thread(target=asking.run, args=(client,)) for client in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(asking.answered) > 10, 60, "answers before the fault")
        yield asking
        seen = len(asking.answered)
        wait_until(lambda: len(asking.answered) > seen + 10, 60, "answers after the fault")
    finally:
        asking.stop.set()
        for thread in threads:
            thread.join(timeout=60)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    ports = {f"{name}_PORT": str(free_port()) for name in PORTS}
    replay = {"REPLAY_START": "2013-05-01", "REPLAY_END": "2013-06-24"}
    names = {"COMPOSE_PROJECT_NAME": "ontime-e2e", "CODE_REVISION": REVISION}
    stack = Stack(names | ports | replay)
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
