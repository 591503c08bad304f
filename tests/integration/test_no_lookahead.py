"""No look-ahead: hide everything after T, rebuild the features, compare every row up to T.

`ontime.problem.hide_after` removes what was unknown at T. Each T is tested twice: with the requests
announced for the following days, and without any later row, because not even the existence of a
feature row may depend on the future.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ontime.features.builder import build_features
from ontime.problem import VIEWS, hide_after
from tests.conftest import Dataset

if TYPE_CHECKING:
    from feast import FeatureStore

# After the start of the dataset.
MOMENTS = {
    "on the hour": timedelta(days=19, hours=15),
    "at 08:00": timedelta(days=33, hours=8),
    "between ticks": timedelta(days=39, minutes=37),
    "the last second": timedelta(weeks=8, seconds=-1),
}
SCHEDULE_AHEAD = {"schedule of two days": timedelta(days=2), "no later row": timedelta(0)}

Rows = dict[str, pd.DataFrame]


def up_to(moment: datetime, rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.event_timestamp <= moment].reset_index(drop=True)


def differing(before: Rows, after: Rows, moment: datetime) -> list[str]:
    """The views in which a row up to ``moment`` differs, is missing or was added."""
    return [
        view.name
        for view in VIEWS
        if not up_to(moment, before[view.name]).equals(up_to(moment, after[view.name]))
    ]


@dataclass(frozen=True)
class Rebuilt:
    """The feature rows built from what was known at ``moment``."""

    moment: datetime
    rows: Rows
    store: "FeatureStore"


@pytest.fixture(scope="module")
def built(dataset: Dataset) -> Rows:
    return {view.name: dataset.rows(view.name) for view in VIEWS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def hidden_store(dataset: Dataset, folder: Path) -> "FeatureStore":
    """Feast over the feature tables of ``folder``, which each case rewrites."""
    from feature_repo.definitions import definitions
    from ontime.features.feast_config import open_feature_store

    store = open_feature_store(dataset.settings.model_copy(update={"data_dir": folder}))
    store.apply(definitions(folder))
    return store


@pytest.fixture(
    scope="module",
    params=[(moment, ahead) for moment in MOMENTS for ahead in SCHEDULE_AHEAD],
    ids=lambda case: ", ".join(case),
)
def rebuilt(
    request: pytest.FixtureRequest, dataset: Dataset, folder: Path, hidden_store: "FeatureStore"
) -> Rebuilt:
    moment = dataset.start + MOMENTS[request.param[0]]
    tables = hide_after(dataset.tables, moment, SCHEDULE_AHEAD[request.param[1]])
    rows = {view.name: rows for view, rows in build_features(tables, dataset.until)}
    for name, frame in rows.items():
        # Not by `write_table`: values after T may be out of range where everything is unknown.
        frame.to_parquet(folder / f"{name}.parquet")
    return Rebuilt(moment, rows, hidden_store)


def test_no_feature_row_depends_on_the_future(built: Rows, rebuilt: Rebuilt) -> None:
    assert differing(built, rebuilt.rows, rebuilt.moment) == []


def test_rows_after_the_moment_differ(dataset: Dataset, built: Rows, rebuilt: Rebuilt) -> None:
    """The comparison above compares something: what was hidden matters after T."""
    assert differing(built, rebuilt.rows, dataset.until) != []


def test_no_training_example_depends_on_the_future(
    dataset: Dataset, examples: pd.DataFrame, rebuilt: Rebuilt
) -> None:
    from ontime.features.historical import build_examples

    expected = up_to(rebuilt.moment, examples)
    again = build_examples(rebuilt.store, up_to(rebuilt.moment, dataset.requests))
    assert len(expected) > 1_000
    pd.testing.assert_frame_equal(again, expected, check_exact=True)
