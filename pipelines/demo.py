"""The whole system on real data, in one command: train, serve, replay, monitor, retrain, swap.

    python -m pipelines.demo [--start 2013-05-01] [--end 2013-08-01]

`make demo` runs it over three months, `make replay` over any part of the year.
Stopped half-way, the same command goes on where it was. Everything it measured is in
``var/reports/demo.json``, the only source of the README's numbers.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from time import monotonic, perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from prefect import flow

from ontime.clock import parse_moment
from ontime.settings import ROOT, Settings
from pipelines.ingest import ingest
from pipelines.materialize import materialize
from pipelines.promote import promote
from pipelines.replay import Progress, replay
from pipelines.story import measure, tell
from pipelines.train import train

APP = "serving.app:create_app"
READY_WITHIN_S = 120.0


class Supervised:
    """The real API in a process of its own, started again whenever it dies."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.restarts = settings, 0
        self.log = settings.var / "log" / "api.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file = self.log.with_name("api.pid")
        self._end_leftover()
        self._check_port()
        self._ending = threading.Event()
        self.process = self._start()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def _end_leftover(self) -> None:
        """End the API of an earlier run that was killed itself and could not."""
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int(self.pid_file.read_text()))
            if APP in process.cmdline():
                process.terminate()
                process.wait(timeout=30)

    def _check_port(self) -> None:
        address = urlsplit(self.settings.api_url)
        try:
            socket.create_server((str(address.hostname), address.port or 80)).close()
        except OSError as error:
            raise RuntimeError(
                f"the demo's API needs {self.settings.api_url} for itself, and another process has "
                f"it ({error}): end that one, or set ONTIME_API_URL to a free port"
            ) from error

    def _start(self) -> "subprocess.Popen[bytes]":
        address = urlsplit(self.settings.api_url)
        command = [
            sys.executable, "-m", "uvicorn", "--factory", APP,
            "--host", str(address.hostname), "--port", str(address.port), "--no-access-log",
        ]  # fmt: skip
        with self.log.open("ab") as out:
            process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        self.pid_file.write_text(str(process.pid))
        return process

    def _watch(self) -> None:
        while self.process.wait() is not None and not self._ending.is_set():
            self.process = self._start()
            self.restarts += 1

    def wait_until_ready(self) -> None:
        """Wait for the first readiness; from then on the process is kept alive.

        Raises:
            RuntimeError: if it does not become ready; its log is named.
        """
        deadline = monotonic() + READY_WITHIN_S
        while monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.settings.api_url}/ready", timeout=10).is_success:
                    self._watcher.start()
                    return
            except httpx.TransportError:
                sleep(0.2)
        raise RuntimeError(
            f"the API must become ready within {READY_WITHIN_S:.0f} s and did not; see {self.log}"
        )

    def end(self) -> None:
        self._ending.set()
        self.process.terminate()
        self.process.wait(timeout=30)


@contextmanager
def served_api(settings: Settings) -> Iterator[Supervised]:
    """The real API, ready to answer; ended at the end."""
    api = Supervised(settings)
    try:
        api.wait_until_ready()
        yield api
    finally:
        api.end()


def start_afresh(settings: Settings) -> None:
    """Forget earlier replays: predictions, outcomes, progress, reports and who was champion.

    Runs and versions in MLflow stay.

    Raises:
        ValueError: if the log is not the embedded one, which this must not delete.
    """
    from ontime import registry

    if not settings.log_url.startswith(f"sqlite:///{settings.var}"):
        raise ValueError(
            f"a demo starts with an empty prediction log, and ONTIME_LOG_URL names one outside "
            f"{settings.var}: unset it, or run pipelines.replay against the running system"
        )
    for name in ("log", "replay", "champion", "reports", "evidently"):
        shutil.rmtree(settings.var / name, ignore_errors=True)
    registry.connect(settings)
    registry.drop_aliases(settings)


def prepare(settings: Settings, start: datetime) -> dict[str, Any]:
    """Data, features, first champion; seconds and counts of each step."""
    began_at = time.time()
    start_afresh(settings)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = perf_counter()
        yield
        seconds[step] = round(perf_counter() - started, 2)

    with timed("ingest"):
        counts = ingest()
    with timed("features"):
        materialize(start)
    with timed("train"):
        first = train(start)
    with timed("promote"):
        verdict = promote(start)
    if not verdict["promote"]:
        raise RuntimeError(f"the first model did not pass the gate: {verdict['reasons']}")
    return {"seconds": seconds, "counts": counts, "first_version": first, "began_at": began_at}


class Memory(threading.Thread):
    """The peak of what this process and its children (the API, Prefect) hold together, in GB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_gb = 0.0

    def run(self) -> None:
        me = psutil.Process()
        while True:
            held = 0
            for process in (me, *me.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    held += process.memory_info().rss
            self.peak_gb = max(self.peak_gb, held / 1e9)
            sleep(1)


@flow(name="demo")
def demo(start: datetime, end: datetime) -> dict[str, Any]:
    """Prepare unless an earlier run did, then serve and replay, and tell what happened."""
    settings = Settings()
    memory = Memory()
    memory.start()
    began = perf_counter()
    notes = settings.var / "replay" / "prepared.json"
    progress = Progress.load(settings.var / "replay" / "progress.json")
    unfinished = progress is not None and not progress.finished and progress.covers(start, end)
    if unfinished and notes.exists():
        print(f"going on after {progress.last_tick}" if progress else "")
        prepared = json.loads(notes.read_text())
    else:
        prepared = prepare(settings, start)
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.write_text(json.dumps(prepared))
    with served_api(settings):
        replayed = replay(start, end)
    report = measure(settings, prepared, replayed, start)
    report["seconds"]["total"] = round(perf_counter() - began, 2)
    report["peak_rss_gb"] = round(memory.peak_gb, 2)
    report["machine"] = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    (settings.reports_dir / "demo.json").write_text(json.dumps(report, indent=1))
    tell(report, settings.reports_dir)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=parse_moment, default=parse_moment("2013-05-01"))
    parser.add_argument("--end", type=parse_moment, default=parse_moment("2013-08-01"))
    arguments = parser.parse_args()
    demo(arguments.start, arguments.end)


if __name__ == "__main__":
    main()
