"""A migrated prediction log on SQLite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ontime.storage.prediction_log import PredictionLog


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    log = PredictionLog(f"sqlite:///{tmp_path}/log/predictions.db")
    log.migrate()
    yield log
    log.close()
