"""The backtest: no test row was trained on, and every model is scored on the same rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from prefect.testing.utilities import prefect_test_harness

from experiments.backtest import MODELS, backtest, months
from experiments.results_tables import backtest_table, months_table
from ontime.data.splits import split_at
from ontime.problem import SLICES
from tests.conftest import Dataset


@pytest.fixture(scope="module")
def month(dataset: Dataset) -> str:
    """The last month of the dataset."""
    return f"{dataset.until - timedelta(days=1):%Y-%m}"


@pytest.fixture(scope="module")
def report(dataset: Dataset, month: str) -> Iterator[dict[str, Any]]:
    with prefect_test_harness(server_startup_timeout=120):
        yield backtest(month, month)


def test_each_month_ends_where_the_next_one_starts() -> None:
    ranges = months("2023-11", "2024-01")
    assert len(ranges) == 3
    assert ranges[0] == (datetime(2023, 11, 1, tzinfo=UTC), datetime(2023, 12, 1, tzinfo=UTC))
    assert ranges[-1][1] == datetime(2024, 2, 1, tzinfo=UTC)
    assert [end for _, end in ranges[:-1]] == [start for start, _ in ranges[1:]]


def test_no_model_is_fitted_on_a_row_of_the_month_or_an_outcome_known_in_it(
    examples: pd.DataFrame, month: str
) -> None:
    ((start, end),) = months(month, month)
    split = split_at(examples, start, end)
    for part in (split.train, split.validation):
        assert (part.outcome_known_at <= start).all()
        assert not set(part.instance_id) & set(split.test.instance_id)
    assert split.test.event_timestamp.between(start, end, inclusive="left").all()


def test_every_model_is_scored_on_the_same_rows(
    report: dict[str, Any], examples: pd.DataFrame, month: str
) -> None:
    rows = pd.DataFrame(report["rows"])
    assert {month, "all"} <= set(rows.month) <= {month, "all", "holdout"}
    assert rows.groupby("month").model.agg(tuple).map(set).map(set(MODELS).__eq__).all()
    ((start, end),) = months(month, month)
    assert set(rows.n) == {float(len(split_at(examples, start, end).test))}
    others = rows[rows.model != "network"]
    assert (others.low <= others.difference).all() and (others.difference <= others.high).all()
    # The ECE of a sample is too high because of its noise, so it may be above its interval.
    assert (rows.ece_low <= rows.ece).all() and (rows.ece_low <= rows.ece_high).all()
    by_model = rows[rows.month == "all"].set_index("model")
    assert by_model.loc["network", "auc"] > by_model.loc["base_rate", "auc"] + 0.1
    assert {row["slice"] for row in report["slices"]} <= {*SLICES, "month"}


def test_the_results_page_shows_every_model_and_month(
    report: dict[str, Any], dataset: Dataset, month: str
) -> None:
    assert all(f"| {model} |" in backtest_table(report) for model in MODELS)
    assert f"| {month} | " in months_table(report)
    assert (dataset.settings.reports_dir / "calibration.png").stat().st_size > 10_000
