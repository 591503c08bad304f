"""A champion, version 1, which says 0.25 to everything, behind a running app."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ontime.prediction_log import PredictionLog
from serving.app import create_app
from tests.serving.fakes import FakeFeatures, FakeRegistry, fake_settings, load_fake

OpenApi = Callable[..., TestClient]


@pytest.fixture
def features() -> FakeFeatures:
    return FakeFeatures()


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry(tmp_path / "registry")
    registry.add("1", answer=0.25)
    registry.point("champion", "1")
    return registry


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    """The log that the app writes, opened a second time."""
    log = PredictionLog(fake_settings(tmp_path).log_url)
    yield log
    log.close()


@pytest.fixture
def open_api(tmp_path: Path, features: FakeFeatures, registry: FakeRegistry) -> Iterator[OpenApi]:
    """Start an app on the same folders, registry and store; again means after a restart."""
    with ExitStack() as running:

        def start(**changes: Any) -> TestClient:
            parts: dict[str, Any] = {
                "features": features,
                "registry": registry,
                "load_model": load_fake,
            }
            settings = fake_settings(tmp_path, **changes.pop("settings", {}))
            app = create_app(settings, **(parts | changes))
            return running.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


@pytest.fixture
def api(open_api: OpenApi) -> TestClient:
    return open_api()
