"""The backtest: no test row was trained on, and every model is scored on the same rows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments import backtest as module
from experiments.backtest import (
    MODELS,
    WITHOUT_AGGREGATES,
    Evaluated,
    backtest,
    combine,
    months,
    refit_and_bag,
    score,
    score_slices,
)
from experiments.results_tables import backtest_table, months_table, slices_table
from ontime.data.splits import split_at
from ontime.evaluation.metrics import log_losses
from ontime.models.baselines import fit_lightgbm, refit_lightgbm
from ontime.problem import AGGREGATES, FEATURE_SPEC, HOLDOUT_FROM, MIN_SLICE_INSTANCES, SLICES
from tests.conftest import Dataset


@pytest.fixture(scope="module")
def month(dataset: Dataset) -> str:
    """The last month of the dataset."""
    return f"{dataset.until - timedelta(days=1):%Y-%m}"


@pytest.fixture(scope="module")
def report(dataset: Dataset, month: str, prefect_server: None) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEEDS", module.SEEDS[:2])
        return backtest(month, month)


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
    assert set(rows.month) == {month, "all", "choice" if month < HOLDOUT_FROM else "holdout"}
    assert rows.groupby("month").model.agg(tuple).map(set).map(set(MODELS).__eq__).all()
    ((start, end),) = months(month, month)
    assert set(rows.n) == {float(len(split_at(examples, start, end).test))}
    others = rows[rows.model != "network"]
    assert (others.low <= others.difference).all() and (others.difference <= others.high).all()
    # The ECE of a sample is too high because of its noise, so it may be above its interval.
    assert (rows.ece_low <= rows.ece).all() and (rows.ece_low <= rows.ece_high).all()
    by_model = rows[rows.month == "all"].set_index("model")
    assert by_model.loc["network", "auc"] > by_model.loc["base_rate", "auc"] + 0.1
    assert rows.log_loss.to_numpy() == pytest.approx(rows.log_loss_of_seeds.map(np.mean).to_numpy())
    n_seeds = rows[rows.month == "all"].set_index("model").log_loss_of_seeds.map(len)
    assert set(n_seeds[["network", "teachers", "lightgbm"]]) == {2}
    assert set(n_seeds.drop(["network", "teachers", "lightgbm"])) == {1}
    assert {row["slice"] for row in report["slices"]} == {*SLICES}


def test_the_results_page_shows_every_model_and_month(
    report: dict[str, Any], dataset: Dataset, month: str
) -> None:
    assert all(f"| {model} |" in backtest_table(report, "all") for model in MODELS)
    assert f"| {month} | " in months_table(report)
    name, value = report["slices"][0]["slice"], report["slices"][0]["value"]
    assert f"| {name}: {value} | " in slices_table(report)
    assert (dataset.settings.reports_dir / "calibration.png").stat().st_size > 10_000


def test_one_lightgbm_is_fitted_without_the_aggregates() -> None:
    assert AGGREGATES
    assert {*WITHOUT_AGGREGATES.numeric} == {*FEATURE_SPEC.tabular} - {*AGGREGATES}
    assert WITHOUT_AGGREGATES.categorical == FEATURE_SPEC.categorical


def test_a_refit_is_on_everything_known_for_the_rounds_of_early_stopping(
    examples: pd.DataFrame, month: str
) -> None:
    sample = examples[:: len(examples) // 3000]
    ((start, end),) = months(month, month)
    split = split_at(sample, start, end)
    known, test = split.train_and_validation, split.test
    stopped = fit_lightgbm(split.train, split.validation, WITHOUT_AGGREGATES)
    refitted = refit_lightgbm(stopped, known, {"bagging_fraction": 1.0})
    rounds = stopped.booster.best_iteration
    assert refitted.booster.num_trees() == rounds
    assert refitted.booster.dump_model()["tree_info"][0]["tree_structure"]["internal_count"] == (
        pytest.approx(len(known), rel=0.01)
    )
    (bagged,) = refit_and_bag([stopped] * len(module.SEEDS), known, test)
    one = [refit_lightgbm(stopped, known, {"seed": seed}).predict(test) for seed in module.SEEDS]
    assert np.array_equal(bagged, np.mean(one, axis=0)) and not np.array_equal(one[0], one[1])


def test_a_loss_is_the_mean_of_the_seeds_losses_and_not_that_of_their_mean(
    examples: pd.DataFrame,
) -> None:
    rows = examples[:: len(examples) // 3000].reset_index(drop=True)
    labels = rows.label.to_numpy(dtype=bool)
    rng = np.random.default_rng(0)
    predictions = dict.fromkeys(MODELS, np.full((1, len(rows)), 0.25))
    predictions["network"] = rng.uniform(0.05, 0.6, (3, len(rows)))
    halves = [
        Evaluated(rows[part], {name: p[:, part] for name, p in predictions.items()})
        for part in (slice(None, 1500), slice(1500, None))
    ]
    found = {row["model"]: row for row in score(combine(halves))}
    losses = np.array([log_losses(labels, p).mean() for p in predictions["network"]])
    assert found["network"]["log_loss_of_seeds"] == pytest.approx(losses)
    assert found["network"]["log_loss"] == pytest.approx(losses.mean())
    assert found["network"]["difference"] is None
    base = float(log_losses(labels, predictions["base_rate"][0]).mean())
    assert found["base_rate"]["difference"] == pytest.approx(losses.mean() - base)
    slices = list(score_slices(combine(halves)))
    assert min(row["n"] for row in slices) >= MIN_SLICE_INSTANCES
    of_first = [row for row in slices if row["slice"] == next(iter(SLICES))]
    (values,) = (values_of(rows) for values_of in [SLICES[of_first[0]["slice"]]])
    inside = values == of_first[0]["value"]
    expected = [log_losses(labels[inside], p[inside]).mean() for p in predictions["network"]]
    assert of_first[0]["model"] == "network"
    assert of_first[0]["log_loss"] == pytest.approx(np.mean(expected))
