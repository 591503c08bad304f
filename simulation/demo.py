"""The demo: train, serve, replay, monitor, retrain and promote on real data, in one command.

    python -m simulation.demo [--start DATE] [--end DATE]

`make demo` runs the problem's demo period, `make replay` any period. If it was stopped, the same
command continues after the last tick. All measurements are written to ``reports/demo.json``.
"""

import gc
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from ontime.data.files import atomic_write
from ontime.data.memory import release_freed_memory
from ontime.registry import model_registry
from ontime.settings import ROOT, Settings
from pipelines.build_features import build_features
from pipelines.ingest import ingest
from pipelines.promote import promote
from pipelines.train import train
from simulation.progress import Progress, prepared_file, progress_file, system_page_file
from simulation.replay import parse_period, replay
from simulation.report import measure, print_summary

SERVER = "serving.server"
READY_TIMEOUT_S = 120.0
# Each flow would wait a second for the thread of its heartbeat, from which a server that outlives
# the process learns of a crash. The server here is temporary. No environment variable can say None.
NO_HEARTBEAT = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}


class ApiProcess:
    """The API in its own process, which `start` starts.

    Raises:
        RuntimeError: if the port is taken.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.url = settings, settings.api_url
        self.log_file = settings.data_dir / "log" / "api.log"
        self.pid_file = settings.data_dir / "api.pid"
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self._stopping = threading.Event()
        end_leftover(self.pid_file)
        check_port_is_free(self.url)

    def start(self) -> "subprocess.Popen[bytes]":
        address = urlsplit(self.url)
        command = [
            sys.executable, "-m", SERVER,
            "--host", str(address.hostname), "--port", str(address.port),
        ]  # fmt: skip
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.pid_file.write_text(str(self.process.pid))
        return self.process

    def wait_until_ready(self) -> None:
        """Start the API unless it was started, and return when it has deployed the champion.

        From then on it is started again whenever it dies.

        Raises:
            RuntimeError: if it ends, or is not ready in time.
        """
        process = self.process or self.start()
        deadline = monotonic() + READY_TIMEOUT_S
        while monotonic() < deadline and process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/ready", timeout=10).is_success:
                    threading.Thread(target=self._restart_forever, daemon=True).start()
                    return
                # Now, not at its next poll. The key exists once the API has started.
                headers = self.settings.client_headers
                reload = httpx.post(f"{self.url}/model/reload", headers=headers, timeout=60)
                if reload.is_client_error and reload.status_code != httpx.codes.CONFLICT:
                    reload.raise_for_status()
            sleep(0.2)
        raise RuntimeError(
            f"the API must become ready within {READY_TIMEOUT_S:.0f} s and did not; see "
            f"{self.log_file}"
        )

    def _restart_forever(self) -> None:
        while self.process and self.process.wait() is not None and not self._stopping.is_set():
            self.start()
            self.restarts += 1

    def stop(self) -> None:
        self._stopping.set()
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=30)


def end_leftover(pid_file: Path) -> None:
    """End the API of an earlier run that was killed before it could do so."""
    with suppress(OSError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text()))
        if SERVER in process.cmdline():
            process.terminate()
            process.wait(timeout=30)


def check_port_is_free(url: str) -> None:
    """Raise RuntimeError if another process listens at the URL: it would be taken for the API."""
    address = urlsplit(url)
    try:
        socket.create_server((str(address.hostname), address.port or 80)).close()
    except OSError as error:
        raise RuntimeError(
            f"the demo starts the API at {url}, which another process uses ({error}): end that "
            "process, or set ONTIME_API_URL to a free port"
        ) from error


@contextmanager
def api_process(settings: Settings) -> Iterator[ApiProcess]:
    """An API that is not started yet; stopped at the end.

    Raises:
        RuntimeError: if the port is taken.
    """
    api = ApiProcess(settings)
    try:
        yield api
    finally:
        api.stop()


@contextmanager
def running_api(settings: Settings) -> Iterator[ApiProcess]:
    """The API, ready, and restarted whenever it dies; stopped at the end.

    Raises:
        RuntimeError: if the port is taken, or the API does not become ready.
    """
    with api_process(settings) as api:
        api.wait_until_ready()
        yield api


def reset_state(settings: Settings) -> None:
    """Delete what earlier replays left: logs, progress, reports, cached models and both aliases.

    Runs and versions in MLflow stay.

    Raises:
        ValueError: if the prediction log is outside the data folder; it is not deleted.
    """
    if not settings.prediction_db_url.startswith(f"sqlite:///{settings.data_dir}"):
        raise ValueError(
            "a demo starts with an empty prediction log, and ONTIME_PREDICTION_DB_URL names one "
            f"outside {settings.data_dir}: unset it, or run simulation.replay against the running "
            "system"
        )
    for name in ("log", "replay", "champion", "reports", "evidently"):
        shutil.rmtree(settings.data_dir / name, ignore_errors=True)
    model_registry.connect(settings)
    model_registry.drop_aliases(settings)


def prepare(settings: Settings, start: datetime, api: ApiProcess) -> dict[str, Any]:
    """Data, features and a first champion as of ``start``; seconds and counts of the steps.

    The API starts while the model is trained.
    """
    began_at = time.time()
    reset_state(settings)
    steps: dict[str, Callable[[], Any]] = {
        "ingest": ingest,
        "features": partial(build_features, start),
        "start the API": api.start,
        "train": partial(train, start),
        "promote": partial(promote, start),
    }
    results, seconds = {}, {}
    for name, step in steps.items():
        started = perf_counter()
        results[name] = step()
        seconds[name] = round(perf_counter() - started, 2)
    if not results["promote"]["promote"]:
        reasons = "; ".join(results["promote"]["reasons"])
        raise RuntimeError(
            f"the gate rejected the first model: {reasons}. A first model must beat the "
            "FIRST_GATE_BASELINES of ontime.problem"
        )
    return {
        "seconds": seconds,
        "counts": results["ingest"],
        "first_version": results["train"],
        "began_at": began_at,
    }


def keep_system_page(settings: Settings) -> None:
    """Save the System page: the counters of the API start again when it does."""
    address = f"{settings.api_url}/system"
    page = httpx.get(address, headers=settings.client_headers, timeout=60).raise_for_status()
    with atomic_write(system_page_file(settings)) as temporary:
        temporary.write_text(page.text)


class PeakMemory(threading.Thread):
    """Samples the memory of this process and its children (the API, Prefect); peak in GB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_gb = 0.0

    def run(self) -> None:
        this = psutil.Process()
        while True:
            used = 0
            for process in (this, *this.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    used += process.memory_info().rss
            self.peak_gb = max(self.peak_gb, used / 1e9)
            sleep(1)


@flow(name="demo")
def demo(start: datetime, end: datetime) -> dict[str, Any]:
    """Prepare unless an unfinished run of the same period did, then serve, replay and report."""
    settings = Settings()
    gc.freeze()  # what was imported stays; each full collection would look through it again
    memory = PeakMemory()
    memory.start()
    started = perf_counter()
    prepared_path = prepared_file(settings)
    progress = Progress.load(progress_file(settings))
    unfinished = progress is not None and progress.covers(start, end) and not progress.finished
    with api_process(settings) as api:
        if unfinished and prepared_path.exists():
            prepared = json.loads(prepared_path.read_text())
        else:
            prepared = prepare(settings, start, api)
            with atomic_write(prepared_path) as temporary:
                temporary.write_text(json.dumps(prepared))
        api.wait_until_ready()
        replayed = replay(start, end)
        keep_system_page(settings)
    release_freed_memory()
    report = measure(settings, prepared, replayed)
    report["seconds"]["total"] = round(perf_counter() - started, 2)
    report["peak_rss_gb"] = round(memory.peak_gb, 2)
    report["machine"] = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    with atomic_write(settings.reports_dir / "demo.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1))
    print_summary(report, settings.reports_dir)
    return report


if __name__ == "__main__":
    with temporary_settings(NO_HEARTBEAT):
        demo(*parse_period(__doc__))
