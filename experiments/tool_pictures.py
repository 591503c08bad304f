"""Pictures of MLflow, Prefect and Evidently with the finished demo in them, for docs/tools.md.

`make pictures` takes them after those of the pages. The servers of MLflow and Prefect are started
on the files in ``var``, each on a free port, and stopped again.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import quote

import httpx
import mlflow
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize

from ontime.registry import model_registry
from ontime.settings import ROOT, Settings

SIZE: ViewportSize = {"width": 1400, "height": 860}
START_S = 300.0
SETTLE_MS = 6_000  # charts are drawn after the last response
N_COMPARED = 50


@contextmanager
def server(*command: str, ready: str, **environment: str) -> Iterator[str]:
    """The address of a server that was started with ``--port`` and responds at ``ready``.

    Raises:
        RuntimeError: if it does not respond.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {name: value.format(url=url) for name, value in environment.items()}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *command, "--port", str(port)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = monotonic() + START_S
        while not responds(url + ready):
            if monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"{command[0]} must respond in {START_S:.0f} s, and did not")
            sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def responds(address: str) -> bool:
    try:
        return httpx.get(address, timeout=10).is_success
    except httpx.TransportError:
        return False


def take(settings: Settings, browser: Browser, folder: Path) -> None:
    """Write all pictures of the tools.

    Raises:
        RuntimeError: if there is no drift report, or a server does not respond.
    """
    newest = max(settings.reports_dir.glob("drift-*.html"), default=None)
    if newest is None:
        raise RuntimeError("a finished demo has a drift report, and there is none: run `make demo`")
    page = browser.new_context(viewport=SIZE, color_scheme="light").new_page()
    page.set_default_timeout(START_S * 1000)
    evidently_picture(newest, page, folder)
    store = ("--backend-store-uri", settings.mlflow_url, "--workers", "1")
    with server("mlflow", "server", *store, ready="/health") as url:
        mlflow_pictures(settings, url, page, folder)
    prefect = ("prefect", "server", "start", "--host", "127.0.0.1", "--no-services")
    with server(*prefect, ready="/api/health", PREFECT_UI_API_URL="{url}/api") as url:
        prefect_picture(url, page, folder)


def evidently_picture(report: Path, page: Page, folder: Path) -> None:
    page.goto(report.as_uri(), wait_until="commit")
    shot(page, "Drift", folder / "tool-evidently.png")


def mlflow_pictures(settings: Settings, url: str, page: Page, folder: Path) -> None:
    """The runs of the demo compared, and the registered versions."""
    model_registry.connect(settings)
    experiment = mlflow.get_experiment_by_name(model_registry.EXPERIMENT)
    assert experiment is not None  # `connect` makes it
    found = mlflow.MlflowClient().search_runs([experiment.experiment_id], max_results=N_COMPARED)
    runs = quote(json.dumps([run.info.run_id for run in found]))
    experiments = quote(json.dumps([experiment.experiment_id]))
    address = f"{url}/#/compare-runs?runs={runs}&experiments={experiments}"
    page.goto(address, wait_until="commit")
    shot(page, "Parallel Coordinates Plot", folder / "tool-mlflow-runs.png")
    page.goto(f"{url}/#/models/{model_registry.MODEL_NAME}", wait_until="commit")
    shot(page, "champion", folder / "tool-mlflow-versions.png")


def prefect_picture(url: str, page: Page, folder: Path) -> None:
    """The flow runs of the demo."""
    page.goto(f"{url}/runs", wait_until="commit")
    shot(page, "Flow runs", folder / "tool-prefect.png")


def shot(page: Page, ready: str, target: Path) -> None:
    """A screenshot, when a text is there and charts have had time to be drawn."""
    page.get_by_text(ready).first.wait_for()
    assistant = page.get_by_role("button", name="Close", exact=True)
    if assistant.count():  # of MLflow, open over a quarter of the window
        assistant.first.click()
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=target)
    picture = Image.open(target).convert("RGB")
    # Screens of tools have few colours: a palette is a third of the size.
    picture.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1e3:.0f} KB")
