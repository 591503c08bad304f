"""Materialization: the online store holds what was known at a moment, and nothing later."""

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from ontime.features import spark_engine
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import REQUEST_FIELDS
from ontime.features.online_store import OnlineFeatures
from ontime.problem import FEATURE_SPEC, VIEWS
from ontime.settings import Settings
from pipelines.build_features import build_feature_tables, fill_online_store
from tests.conftest import Dataset, read_online


@pytest.fixture
def settings(dataset: Dataset, tmp_path: Path) -> Settings:
    """A folder of its own with the feature tables of the dataset."""
    (tmp_path / "features").symlink_to(dataset.settings.features_dir)
    return dataset.settings.model_copy(update={"data_dir": tmp_path})


def n_values_after(moment: datetime, folder: Path) -> dict[str, int]:
    """The number of rows in SQLite, per view, that became known after ``moment``."""
    with closing(sqlite3.connect(folder / "feast" / "compact.db")) as online:
        query = "SELECT count(*) FROM rows WHERE event_us > ? AND key GLOB ?"
        event_us = moment.timestamp() * 1e6
        return {
            view.name: online.execute(query, (event_us, f"ontime:{view.name}:*")).fetchone()[0]
            for view in VIEWS
        }


def test_materialization_removes_the_later_rows_of_an_earlier_run(
    settings: Settings, dataset: Dataset, examples: pd.DataFrame
) -> None:
    noon = dataset.start + timedelta(days=35, hours=12)
    requests = examples[examples.event_timestamp == pd.Timestamp(noon)]
    assert len(requests) > 0
    fill_online_store.fn(settings, noon + timedelta(days=7))
    open_before = OnlineFeatures(open_feature_store(settings))
    assert sum(n > 0 for n in n_values_after(noon, settings.data_dir).values()) > len(VIEWS) / 2

    fill_online_store.fn(settings, noon)
    assert set(n_values_after(noon, settings.data_dir).values()) == {0}
    # Also for a reader that was open before, as the API is.
    for features in (OnlineFeatures(open_feature_store(settings)), open_before):
        read = read_online(features, requests[[*REQUEST_FIELDS]], noon)
        assert min(read.age_seconds.values()) == 0  # rows of that very moment are included
        names = list(FEATURE_SPEC.numeric)
        pd.testing.assert_frame_equal(
            read.frame[names], requests[names].reset_index(drop=True), check_exact=True
        )


def test_the_engine_of_the_settings_builds_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_engine, "write_features", lambda tables, features: {features.name: 1})
    with_spark = Settings(data_dir=tmp_path, engine="spark")
    assert build_feature_tables.fn(with_spark) == {"features": 1}
    with pytest.raises(FileNotFoundError):  # DuckDB's builder reads the tables, which are absent
        build_feature_tables.fn(Settings(data_dir=tmp_path))
