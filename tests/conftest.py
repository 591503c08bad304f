"""Shared fixtures: temporary folders, one thread, and the first eight weeks of the source.

The environment is set before any test module is imported: Prefect reads its home, MLflow its
switches and `feature_repo.definitions` the settings at import. A developer's ``.env`` and exported
``ONTIME_*`` variables do not reach the tests. Fixtures import heavy packages themselves, so that a
test file without data starts at once.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch

from ontime.data.tables import Table, read_table, write_table
from ontime.data.timestamps import column_arrays, utc_datetime64
from ontime.features.spec import View
from ontime.problem import SOURCE_TABLES, VIEWS, Instance, read_source
from ontime.problem import examples as requests_of
from ontime.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore

    from ontime.features.online_store import OnlineFeatures, OnlineRead

HOME = Path(mkdtemp(prefix="ontime-tests-"))
for name in [name for name in os.environ if name.startswith("ONTIME_")]:
    del os.environ[name]
Settings.model_config["env_file"] = None
os.environ |= {
    "ONTIME_DATA_DIR": str(HOME / "var"),
    "ONTIME_API_KEY": "key-of-the-tests",
    "PREFECT_HOME": str(HOME / "prefect"),
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "DO_NOT_TRACK": "true",
    "TZ": "UTC",
    "OMP_NUM_THREADS": "1",  # of LightGBM and of the processes that tests start
}
time.tzset()
torch.set_num_threads(1)

DATASET_LENGTH = timedelta(weeks=8)
SLOW_FIXTURES = {"source", "prefect_server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need real data or a server, which `make check` leaves out."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Source:
    """The whole source: tables, the rows that each repair touched, and the printed lines."""

    tables: dict[str, pd.DataFrame]
    counts: dict[str, int]
    printed: list[str]


@dataclass(frozen=True)
class Dataset:
    """The source's first eight weeks, written as tables and feature tables.

    requests: one row per prediction request. until: the end of the period and of the features.
    store: Feast's store with the definitions applied and an empty online store.
    """

    settings: Settings
    tables: dict[str, pd.DataFrame]
    requests: pd.DataFrame
    start: datetime
    until: datetime
    store: "FeatureStore"

    def rows(self, view: str) -> pd.DataFrame:
        """The written feature rows of a view."""
        return read_table(f"{self.settings.features_dir}/{view}.parquet")


def pytest_sessionfinish() -> None:
    """Remove the folder of this process: `make test` runs the tests in several."""
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server on a temporary database; to start one takes eight seconds of CPU."""
    from prefect.settings import temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    from simulation.demo import NO_HEARTBEAT

    with prefect_test_harness(server_startup_timeout=120), temporary_settings(NO_HEARTBEAT):
        yield


@pytest.fixture(scope="session")
def source() -> Source:
    """All that `read_source` returns. Must not be changed."""
    printed: list[str] = []
    tables, counts = read_source(progress=printed.append)
    return Source(tables, counts, printed)


@pytest.fixture(scope="session")
def dataset(source: Source) -> Dataset:
    """The first eight weeks, with tables written and Feast's definitions applied. Read-only."""
    from feature_repo.definitions import definitions
    from ontime.features.builder import write_features
    from ontime.features.feast_config import open_feature_store

    settings = Settings()
    start = requests_of(source.tables).event_timestamp.min().floor("D").to_pydatetime()
    until = start + DATASET_LENGTH
    tables = {
        table.name: before(until, source.tables[table.name], table) for table in SOURCE_TABLES
    }
    for table in SOURCE_TABLES:
        path = Path(settings.tables_dir) / f"{table.name}.parquet"
        write_table(tables[table.name], table, path)
    write_features(tables, Path(settings.features_dir), progress=lambda line: None, until=until)
    store = open_feature_store(settings)
    store.apply(definitions(settings.features_dir))
    return Dataset(settings, tables, requests_of(tables), start, until, store)


def read_online(online: "OnlineFeatures", rows: pd.DataFrame, as_of: datetime) -> "OnlineRead":
    """Read the features of rows with the request fields, all at one prediction time."""
    fields = column_arrays(rows, Instance.model_fields)
    return online.read(fields, np.full(len(rows), utc_datetime64(as_of)))


def write_online(store: "FeatureStore", view: View, rows: pd.DataFrame) -> None:
    """Write rows of one view to the online store."""
    from ontime.features.online_store import OnlineWriter

    OnlineWriter(store).write([(view, rows)])


def before(until: datetime, rows: pd.DataFrame, table: Table) -> pd.DataFrame:
    """The rows whose own time, the table's first timestamp column, is before ``until``."""
    stamps = [name for name, column in table.columns.items() if column.dtype == "timestamp"]
    return rows[rows[stamps[0]] < until].reset_index(drop=True) if stamps else rows


@pytest.fixture(scope="session")
def examples(dataset: Dataset) -> pd.DataFrame:
    """The dataset's training examples, from Feast's historical join. Read-only."""
    from ontime.features.historical import build_examples

    return build_examples(dataset.store, dataset.requests)


@pytest.fixture(scope="session")
def online_store_at(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> "Callable[[datetime], OnlineFeatures]":
    """Opens a new online store that holds the feature rows known at a moment."""
    from feature_repo.definitions import definitions
    from ontime.features.feast_config import open_feature_store
    from ontime.features.online_store import OnlineFeatures, OnlineWriter

    def fill(as_of: datetime) -> OnlineFeatures:
        folder = tmp_path_factory.mktemp("online")
        store = open_feature_store(dataset.settings.model_copy(update={"data_dir": folder}))
        store.apply(definitions(dataset.settings.features_dir))
        tables = [(view, dataset.rows(view.name)) for view in VIEWS]
        known = [(view, rows[rows.event_timestamp <= as_of]) for view, rows in tables]
        OnlineWriter(store).write(known)
        return OnlineFeatures(store)

    return fill
