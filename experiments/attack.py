"""Attack: generated and hostile requests, then ``kill -9`` under load, on the API with two workers.

    python -m experiments.attack [--short]

It needs a champion (`make demo`). Predictions go to a new SQLite database. Schemathesis generates
requests from the OpenAPI document and applies all of its checks; `malice` has hand-made ones. After
the kills each returned prediction is compared with the log: none may be lost, doubled or different.
The report is ``attack.json``; the command fails if a part of it is not as it should be.
"""

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter, sleep
from typing import Any

import httpx
import numpy as np
import psutil
from sqlalchemy import select

from experiments.fuzzing import generated_requests
from experiments.malice import EXAMPLE, Target, attack
from ontime.problem import EXAMPLE_INSTANCE
from ontime.settings import ROOT, Settings
from ontime.storage.api_keys import ApiKeys
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import PREDICTIONS

PORT = 9173
URL = f"http://127.0.0.1:{PORT}"
READY_S = 240.0
CLIENTS = 4
GENERATED = 10_000  # requests at least
EXAMPLES = 600  # of each operation and round
Row = dict[str, Any]


@dataclass
class Server:
    """The API in two worker processes, in a process group of its own."""

    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "serving.server", "--workers", "2"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(PORT)],
                cwd=ROOT, env=os.environ | self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline = monotonic() + READY_S
        while True:
            with suppress(httpx.TransportError):
                if len(self.workers()) == 2 and httpx.get(f"{URL}/ready", timeout=10).is_success:
                    return
            if monotonic() > deadline:
                raise RuntimeError(f"the API must be ready in {READY_S:.0f} s; see {self.log}")
            sleep(0.2)

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return [each for each in children if "spawn_main" in " ".join(each.cmdline())]
        return []

    def kill_one(self) -> None:
        """Kill a random worker; uvicorn replaces it."""
        worker = random.choice(self.workers())  # noqa: S311 - no secret
        worker.kill()
        worker.wait()
        deadline = monotonic() + READY_S
        while worker in self.workers() and monotonic() < deadline:
            sleep(0.05)

    def kill(self) -> None:
        """Kill all processes at once."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def rss_mb(self) -> float:
        return sum(worker.memory_info().rss for worker in self.workers()) / 1e6


@dataclass
class Load:
    """Clients that predict without a pause, and retry under the same key after a failure."""

    target: Target
    stop: threading.Event = field(default_factory=threading.Event)
    responses: dict[str, Row] = field(default_factory=dict)  # by idempotency key
    statuses: "Counter[int]" = field(default_factory=Counter)

    def __enter__(self) -> "Load":
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def run(self, client: int) -> None:
        body = EXAMPLE | {"instances": [EXAMPLE_INSTANCE] * 3}
        number = 0
        while not self.stop.is_set():
            number += 1
            key = f"load-{client}-{number}"
            while key not in self.responses:
                try:
                    headers = {"Idempotency-Key": key}
                    response = self.target.http.post("/predict", json=body, headers=headers)
                except httpx.TransportError:
                    self.statuses[0] += 1
                    sleep(0.05)
                    continue
                self.statuses[response.status_code] += 1
                if response.is_success:
                    self.responses[key] = response.json()


def compare_with_log(load: Load, log: PredictionLog) -> Row:
    """Returned predictions that are not in the log, are there twice, or differ from it."""
    logged: dict[str, list[Row]] = {}
    query = select(PREDICTIONS).where(PREDICTIONS.c.request_id.like("local:load-%"))
    for row in log.rows(query):
        logged.setdefault(row["request_id"], []).append(row)
    lost = doubled = different = 0
    for key, response in load.responses.items():
        rows = logged.get(f"local:{key}", [])
        returned = {p["prediction_id"]: p["probability"] for p in response["predictions"]}
        lost += len(returned.keys() - {row["prediction_id"] for row in rows})
        doubled += max(len(rows) - len(returned), 0)
        different += sum(
            returned.get(row["prediction_id"], row["probability"]) != row["probability"]
            or row["model_version"] != response["model_version"]
            for row in rows
        )
    return {
        "returned": sum(len(each["predictions"]) for each in load.responses.values()),
        "lost": lost,
        "doubled": doubled,
        "different": different,
        "statuses": {str(status): n for status, n in sorted(load.statuses.items())},
    }


def kill_under_load(server: Server, target: Target, log: PredictionLog, n: int) -> Row:
    """Kill a worker n times, every fifth and the last time the whole server."""
    with Load(target) as load:
        for number in range(1, n + 1):
            seen = len(load.responses)
            sleep(random.uniform(0.2, 2.0))  # noqa: S311 - no secret
            if number % 5 == 0 or number == n:
                server.kill()
                server.start()
            else:
                server.kill_one()
            server.wait_until_ready()
            deadline = monotonic() + READY_S
            while len(load.responses) <= seen + CLIENTS and monotonic() < deadline:
                sleep(0.05)
            print(f"  kill {number}: {len(load.responses):,} requests answered", flush=True)
    return {"kills": n} | compare_with_log(load, log)


def latency_and_memory(server: Server, target: Target) -> Row:
    """Latency of predictions one after the other, and the memory of the workers."""
    seconds = []
    for _ in range(200):
        started = perf_counter()
        target.http.post("/predict", json=EXAMPLE).raise_for_status()
        seconds.append(perf_counter() - started)
    p50, p99 = np.quantile(seconds, (0.5, 0.99)) * 1e3
    found = {
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "rss_mb": round(server.rss_mb()),
    }
    print(f"  {found}", flush=True)
    return found


def run(short: bool) -> Row:
    settings, started = Settings(), monotonic()
    with TemporaryDirectory(prefix="attack-", dir=settings.data_dir) as scratch:
        folder = Path(scratch)
        key = secrets.token_urlsafe(32)
        url = f"sqlite:///{folder}/predictions.db"
        log = PredictionLog(url)
        log.migrate()
        reader = ApiKeys(log).create("reader", ["read"])
        environment = {"ONTIME_PREDICTION_DB_URL": url, "ONTIME_API_KEY": key}
        server = Server(environment, settings.data_dir / "log" / "attack.log")
        server.log.parent.mkdir(parents=True, exist_ok=True)
        target = Target(URL, key, reader)
        server.start()
        try:
            report: Row = {"before": latency_and_memory(server, target)}
            report["malice"] = attack(target)
            output = settings.data_dir / "log" / "schemathesis.log"
            size = (20, 1) if short else (EXAMPLES, GENERATED)
            report["generated"] = generated_requests(target, *size, folder, output)
            report["after"] = latency_and_memory(server, target)
            report["kills"] = kill_under_load(server, target, log, 3 if short else 20)
        finally:
            server.kill()
            log.close()
    return report | {"seconds": round(monotonic() - started), "passed": passed(report)}


def passed(report: Row) -> bool:
    """True if nothing was answered wrongly, and nothing lost, doubled or different."""
    generated = report["generated"]
    kills, grown = report["kills"], report["after"]["rss_mb"] / report["before"]["rss_mb"]
    return (
        all(row["right"] for row in report["malice"])
        and generated["exit_status"] == 0
        and generated["requests"] >= generated["required"]
        and kills["lost"] == kills["doubled"] == kills["different"] == 0
        and grown < 2
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer requests, three kills")
    settings = Settings()
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    report = run(parser.parse_args().short)
    (settings.reports_dir / "attack.json").write_text(json.dumps(report, indent=1))
    print(json.dumps({name: part for name, part in report.items() if name != "malice"}))
    if not report["passed"]:
        sys.exit("attack: a part of the report is not as it should be, see attack.json")


if __name__ == "__main__":
    main()
