"""What every test stands on: folders of its own, one thread, and eight real weeks of 2013.

The environment is set before any test module is imported: Prefect reads its home, MLflow its
switches and `feature_repo.definitions` the settings at import. Whatever a developer has in `.env`
or exported as ``ONTIME_*`` does not reach the tests. Heavy packages are imported by the fixtures
that need them, so that a test file without data starts at once.
"""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import pytest
import torch

from ontime.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

HOME = Path(mkdtemp(prefix="ontime-tests-"))
for name in [name for name in os.environ if name.startswith("ONTIME_")]:
    del os.environ[name]
Settings.model_config["env_file"] = None
os.environ |= {
    "ONTIME_VAR": str(HOME / "var"),
    "PREFECT_HOME": str(HOME / "prefect"),
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "DO_NOT_TRACK": "true",
    "TZ": "UTC",
}
time.tzset()
torch.set_num_threads(1)

# Two months of winter: storms (the 8th of February), a holiday, and no clock change.
UNTIL = datetime(2013, 2, 26, tzinfo=UTC)


@dataclass(frozen=True)
class Source:
    """The whole year: tables, how many rows each repair touched, and what was printed."""

    tables: "dict[str, pd.DataFrame]"
    counts: dict[str, int]
    printed: list[str]


@dataclass(frozen=True)
class World:
    """The first eight weeks of 2013: flights scheduled before ``until``, features up to it."""

    settings: Settings
    tables: "dict[str, pd.DataFrame]"
    until: datetime
    store: "FeatureStore"

    def rows(self, view: str) -> "pd.DataFrame":
        """The written feature rows of a view."""
        from ontime.tables import read_table

        return read_table(self.settings.features_dir / f"{view}.parquet")


@pytest.fixture(scope="session", autouse=True)
def _folders() -> Iterator[None]:
    yield
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def source() -> Source:
    """The whole year as `read_source` gives it. Not to be changed."""
    from ontime.source import read_source

    printed: list[str] = []
    tables, counts = read_source(progress=printed.append)
    return Source(tables, counts, printed)


@pytest.fixture(scope="session")
def world(source: Source) -> World:
    """Tables and feature tables written, Feast's definitions applied. Not to be changed.

    The online store is empty, and whoever needs it fills it.
    """
    from feature_repo.definitions import DEFINITIONS
    from ontime.feature_store import open_feature_store
    from ontime.features.runner import write_features
    from ontime.tables import SOURCE_TABLES, write_table

    settings = Settings()
    flights, weather, aircraft = (source.tables[table.name] for table in SOURCE_TABLES)
    tables = {
        "flights": flights[flights.scheduled_departure < UNTIL].reset_index(drop=True),
        "weather": weather[weather.known_at <= UNTIL].reset_index(drop=True),
        "aircraft": aircraft,
    }
    for table in SOURCE_TABLES:
        write_table(tables[table.name], table, settings.tables_dir / f"{table.name}.parquet")
    write_features(tables, UNTIL, settings.features_dir, progress=lambda line: None)
    store = open_feature_store(settings)
    store.apply(DEFINITIONS)
    return World(settings, tables, UNTIL, store)


@pytest.fixture(scope="session")
def examples(world: World) -> "pd.DataFrame":
    """The world's training examples, from Feast's historical join. Not to be changed."""
    from ontime.dataset import build_examples

    return build_examples(world.store, world.tables["flights"])
