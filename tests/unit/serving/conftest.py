"""A running app with champion version 1, which predicts 0.25 for everything."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from ontime.storage.prediction_log import PredictionLog
from serving.app import create_app
from serving.dependencies import AppState
from tests.unit.serving.fakes import (
    AUTHENTICATED,
    FakeFeatures,
    FakeRegistry,
    fake_settings,
    load_fake,
)

OpenApi = Callable[..., TestClient]


@pytest.fixture
def features() -> FakeFeatures:
    return FakeFeatures()


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry(tmp_path / "registry")
    registry.add("1", probability=0.25)
    registry.set_alias("champion", "1")
    return registry


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    """A second connection to the log that the app writes."""
    log = PredictionLog(fake_settings(tmp_path).prediction_db_url)
    yield log
    log.close()


@pytest.fixture
def open_api(tmp_path: Path, features: FakeFeatures, registry: FakeRegistry) -> Iterator[OpenApi]:
    """Starts an app on the same folders, registry and store; a second call is a restart."""
    with ExitStack() as running:

        def start(**changes: Any) -> TestClient:
            services: dict[str, Any] = {
                "features": features,
                "registry": registry,
                "load_model": load_fake,
            }
            settings = fake_settings(tmp_path, **changes.pop("settings", {}))
            app = create_app(settings, **(services | changes))
            return running.enter_context(client_of(app))

        yield start


@pytest.fixture
def api(open_api: OpenApi) -> TestClient:
    return open_api()


def client_of(app: FastAPI) -> TestClient:
    """A client of an app, with the key of the tests."""
    return TestClient(app, headers=AUTHENTICATED, raise_server_exceptions=False)


def state_of(api: TestClient) -> AppState:
    state: AppState = api.app.state.app_state  # type: ignore[attr-defined]
    return state


def deployed_version(api: TestClient) -> str | None:
    version: str | None = api.get("/model").json()["model_version"]
    return version


def metric(api: TestClient, sample: str) -> float | None:
    """The value of a sample of GET /metrics, like ``ontime_outcomes_total{result="accepted"}``."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", api.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else None
