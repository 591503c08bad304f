"""The app on a free port with a small real network, and Chromium, which loads nothing else."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from serving.app import create_app
from serving.server import server_config
from tests.unit.serving.fakes import AUTHENTICATED, FakeRegistry, fake_settings
from tests.unit.serving.page_fakes import (
    AllFeatures,
    outcome_report,
    prediction_request,
    small_model,
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
CARD = "# Model card\n\n| | |\n|---|---|\n| decision threshold | 0.50 |\n\n- a limit\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)
            if CHROMIUM is None:
                reason = f"no Chromium on the PATH: none of {', '.join(NAMES)}"
                item.add_marker(pytest.mark.skip(reason))


@dataclass
class Site:
    """A running app. Predictions and outcomes arrive over HTTP, as from a replay."""

    url: str
    app: FastAPI
    server: uvicorn.Server

    def predict(self, hours: int) -> Any:
        return self._post("/predict", prediction_request(hours))["predictions"][0]

    def report(self, hours: int) -> None:
        self._post("/outcomes", outcome_report(hours))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        response = httpx2.post(self.url + path, json=body, headers=AUTHENTICATED, timeout=30)
        return response.raise_for_status().json()


@contextmanager
def running(folder: Path, champion: bool = True) -> Iterator[Site]:
    registry, model = FakeRegistry(folder / "registry"), small_model()
    registry.add("1", probability=0.25)
    (folder / "registry" / "1" / "model_card.md").write_text(CARD)
    if champion:
        registry.set_alias("champion", "1")
    app = create_app(
        fake_settings(folder),
        features=AllFeatures(n_missing=1),
        registry=registry,
        load_model=lambda _: model,
    )
    config = server_config(app, port=0, log_level="error")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    deadline = monotonic() + 60
    while not server.started and monotonic() < deadline:
        sleep(0.05)
    try:
        yield Site(f"http://127.0.0.1:{socket.getsockname()[1]}", app, server)
    finally:
        server.should_exit = True
        thread.join(timeout=30)


@pytest.fixture(scope="module")  # Playwright's event loop runs in this thread until it is closed
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With three predictions, of which one has an outcome."""
    with running(tmp_path_factory.mktemp("site")) as site:
        site.predict(0)
        site.report(0)
        site.predict(24)
        site.predict(48)
        yield site


@pytest.fixture
def empty_site(tmp_path: Path) -> Iterator[Site]:
    with running(tmp_path, champion=False) as site:
        yield site


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[Site]:
    """One that a test may change or stop."""
    with running(tmp_path) as site:
        yield site


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens a page; afterwards, no request left the host and no script failed."""
    contexts: list[BrowserContext] = []
    foreign: list[str] = []
    errors: list[str] = []
    allowed: list[str] = []

    def start(url: str, *, failures: bool = False, **options: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        host = url.split("/")[2] if url.startswith("http") else ""
        allowed.append(host)
        context.on("request", lambda request: foreign.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        if not failures:
            page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(url)
        return page

    yield start
    for context in contexts:
        context.close()
    own = ("file:", "data:", "blob:", *(f"http://{host}/" for host in allowed if host))
    assert [url for url in foreign if not url.startswith(own)] == []
    assert errors == []
