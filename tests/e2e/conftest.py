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
ADMIN = ("admin", DEVELOPMENT_SECRET)  # of MLflow and Prefect
# Timeouts of a request: Redis 2 s to connect and 2 s to read; Postgres 5 s to connect, once to look
# up the key and once to write the rows.
REDIS_BOUND_S, POSTGRES_BOUND_S = 8.0, 15.0
# Volume of a service in `disks.yml`; the other services write to /tmp only.
DISKS = {name: name for name in ("redis", "s3", "api", "prometheus", "grafana")}
DISKS |= {"worker": "var", "evidently": "var"}
FILL = "dd if=/dev/zero of={0}/filler bs=1M 2>/dev/null; cat /dev/zero >> {0}/filler"
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

    def works(self, service: str) -> bool:
        """True if its health check succeeds, and what it is for: predicting, writing, sampling."""
        kind, *check = self.state(service)["Config"]["Healthcheck"]["Test"]
        check = check if kind == "CMD" else ["sh", "-c", *check]
        try:
            return self._succeeds(service, *check) and self._does_its_work(service)
        except httpx.HTTPError:
            return False

    def _does_its_work(self, service: str) -> bool:
        if service in ("api", "postgres"):
            return self.predict(f"{service}-{time.time()}").is_success
        if service == "redis":  # 8 KB: the last page of its file may have space for less
            write = "head -c 8192 /dev/zero | tr '\\0' x | redis-cli -x set probe | grep -q OK"
            written = self._succeeds(service, "sh", "-c", write)
            return written and self.predict(f"redis-{time.time()}").is_success
        if service in ("mlflow", "s3"):
            url = f"{self.url('MLFLOW')}/api/2.0/mlflow-artifacts/artifacts/probe"
            return httpx.put(url, content=os.urandom(100_000), auth=ADMIN, timeout=30).is_success
        if service == "prefect":
            flow = {"name": "probe"}
            url = f"{self.url('PREFECT')}/api/flows/"
            return httpx.post(url, json=flow, auth=ADMIN, timeout=30).is_success
        if service == "worker":
            write = "head -c 100000 /dev/zero > var/probe && rm var/probe"
            return self._succeeds(service, "sh", "-c", write)
        if service == "prometheus":
            return bool(self.query('time() - timestamp(up{job="api"}) < 10'))  # two scrapes
        return True

    def _succeeds(self, service: str, *command: str) -> bool:
        done = ["docker", "exec", self.state(service)["Id"], *command]
        return subprocess.run(done, check=False, capture_output=True).returncode == 0

    def recovery(self, service: str, within_s: float) -> float:
        """Seconds from now until a service works."""
        began = time.monotonic()
        wait_until(lambda: self.works(service), within_s, f"{service} works again")
        return time.monotonic() - began

    def fill_disk(self, service: str) -> None:
        self._on_disk(service, FILL)

    def free_disk(self, service: str) -> None:
        self._on_disk(service, "rm {0}/filler")

    def _on_disk(self, service: str, script: str) -> None:
        container, folder = self.state(service)["Id"], "/tmp"  # noqa: S108 - in a container
        if service in DISKS:
            container, folder = self.disks, f"/disks/{DISKS[service]}"
        command = ["docker", "exec", container, "sh", "-c", script.format(folder)]
        subprocess.run(command, check=False, capture_output=True)

    @property
    def disks(self) -> str:
        """The container that holds all disks of `disks.yml`."""
        return f"{self.env['COMPOSE_PROJECT_NAME']}-disks"

    def hold_disks(self) -> None:
        """Start the container that holds the disks."""
        project = self.env["COMPOSE_PROJECT_NAME"]
        names = sorted(set(DISKS.values()))
        mounts = [word for name in names for word in ("-v", f"{project}_{name}:/disks/{name}")]
        command = ["docker", "run", "--detach", "--rm", "--init", "--user=0", "--name", self.disks]
        run = [*command, *mounts, "ontime-serving", "sleep", "infinity"]
        subprocess.run(run, check=True, capture_output=True)

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


def assert_logged_once(stack: Stack, keys: list[str]) -> None:
    rows = stack.sql("SELECT request_id, count(*) FROM predictions GROUP BY request_id")
    counts = dict(rows)
    assert {key: counts.get(f"local:{key}") for key in keys} == dict.fromkeys(keys, "1")


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
    names |= {"COMPOSE_FILE": "docker-compose.yml:tests/e2e/disks.yml"}
    request = prediction_request(rows, DEMO_START)
    request["instances"] = request["instances"][:1]
    stack = Stack(names | ports | {"REPLAY_END": f"{REPLAY_END:%Y-%m-%d}"}, request)
    began = time.monotonic()
    stack.compose("build")
    stack.measured["build_seconds"] = round(time.monotonic() - began, 1)
    try:
        stack.compose("create")
        stack.hold_disks()
        began = time.monotonic()
        stack.compose("up", "--wait", f"--wait-timeout={UP_WITHIN_S:.0f}")
        stack.measured["up_seconds"] = round(time.monotonic() - began, 1)
        yield stack
    finally:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(json.dumps(stack.measured, indent=1))
        logs = stack.compose("--profile=replay", "logs", "--no-color", check=False)
        REPORT.with_suffix(".log").write_text(logs)
        subprocess.run(["docker", "rm", "--force", stack.disks], check=False, capture_output=True)
        stack.compose("--profile=replay", "down", "--volumes", "--remove-orphans", check=False)
