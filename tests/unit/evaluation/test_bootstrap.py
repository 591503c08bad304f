"""The cluster bootstrap against direct resampling, and its intervals against known truths."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ontime.evaluation.bootstrap import (
    ClusterBootstrap,
    compare,
    compare_losses,
    ece_interval,
    interval,
)
from ontime.evaluation.metrics import (
    EvaluationError,
    brier_losses,
    expected_calibration_error,
    log_losses,
)
from tests.unit.evaluation.test_metrics import calibrated


@pytest.fixture(autouse=True)
def _synthetic_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ontime.evaluation.bootstrap.local_day", lambda rows: rows["day"])


def test_statistics_of_a_resample_are_those_of_its_rows() -> None:
    y, p = calibrated(3000)
    day = np.random.default_rng(1).integers(0, 20, 3000)
    bootstrap = ClusterBootstrap(day, n_resamples=5)
    assert (bootstrap.counts.sum(axis=1) == 20).all()
    for i, counts in enumerate(bootstrap.counts):
        rows = np.repeat(np.arange(3000), counts[bootstrap.codes])
        losses = log_losses(y, p)
        assert bootstrap.means(losses)[i] == pytest.approx(losses[rows].mean())
        assert bootstrap.auc(y, p)[i] == pytest.approx(roc_auc_score(y[rows], p[rows]), abs=1e-3)
        assert bootstrap.sums(y, day % 2, 2)[i] == pytest.approx(
            [y[rows][day[rows] % 2 == group].sum() for group in (0, 1)]
        )


def test_a_resample_in_which_each_cluster_occurs_once_has_the_ece_of_the_rows() -> None:
    y, p = calibrated(3000)
    bootstrap = ClusterBootstrap(np.arange(3000) % 20, n_resamples=1)
    bootstrap.counts = np.ones((1, 20), dtype=np.int64)
    assert bootstrap.ece(y, p)[0] == pytest.approx(expected_calibration_error(y, p))


def test_the_order_of_the_rows_does_not_matter() -> None:
    y, p = calibrated(2000)
    day = np.arange(2000) // 100
    order = np.random.default_rng(2).permutation(2000)
    losses = log_losses(y, p)
    found = ClusterBootstrap(day[order]).means(losses[order])
    assert found == pytest.approx(ClusterBootstrap(day).means(losses))


def test_a_resample_with_one_class_has_no_auc_and_intervals_leave_it_out() -> None:
    y = np.arange(400) < 100  # all positives are in one of four clusters
    found = ClusterBootstrap(np.arange(400) // 100).auc(y, np.linspace(0.9, 0.1, 400))
    assert 0 < np.isnan(found).sum() < len(found)
    assert interval(found) == pytest.approx((1.0, 1.0), abs=0.01)


def test_a_row_without_a_cluster_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="1 of 3 are missing"):
        ClusterBootstrap(np.array(["a", None, "b"], dtype=object))


def test_a_comparison_finds_the_better_model_and_is_reproducible() -> None:
    y, p = calibrated(5000)
    rows = pd.DataFrame({"label": y, "day": np.arange(5000) // 100})
    worse = np.clip(p + 0.08, 0, 1)
    found = compare(rows, p, worse)
    assert found.low < found.difference < found.high < 0
    assert found.probability_of_improvement == 1.0
    assert found == compare(rows, p, worse)
    assert compare(rows, worse, p).difference == pytest.approx(-found.difference)


def test_a_model_compared_with_itself_is_neither_better_nor_worse() -> None:
    y, p = calibrated(500)
    found = compare(pd.DataFrame({"label": y, "day": np.arange(500) // 50}), p, p)
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert found.probability_of_improvement == 0.5


def test_the_interval_covers_the_true_difference_as_often_as_stated() -> None:
    """Labels are positive with probability 0.3; the true difference in Brier score is 0.05²."""
    covered = 0
    for seed in range(200):
        y = np.random.default_rng(seed).random(400) < 0.3
        a, b = brier_losses(y, np.full(400, 0.3)), brier_losses(y, np.full(400, 0.35))
        found = compare_losses(a, b, ClusterBootstrap(np.arange(400), 400, seed))
        covered += found.low <= -0.0025 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_clusters_give_wider_intervals_when_their_rows_are_correlated() -> None:
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(60), 100)
    y = rng.random(6000) < np.repeat(rng.beta(1, 3, 60), 100)
    a, b = log_losses(y, np.full(6000, 0.25)), log_losses(y, np.full(6000, 0.30))
    by_row = compare_losses(a, b, ClusterBootstrap(np.arange(6000)))
    by_day = compare_losses(a, b, ClusterBootstrap(day))
    assert by_day.difference == by_row.difference
    assert by_day.high - by_day.low > 3 * (by_row.high - by_row.low)


def test_the_interval_of_the_ece_holds_the_true_error_when_days_differ() -> None:
    """Each day has its own calibration error, 0.06 on average: few days say little about that."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(40):
        day = np.repeat(np.arange(40), 150)
        p = rng.uniform(0.2, 0.6, len(day))
        y = rng.random(len(day)) < p + rng.normal(0.06, 0.05, 40)[day]
        low, high = ece_interval(pd.DataFrame({"day": day, "label": y}), p)
        assert low < expected_calibration_error(y, p) < high
        covered.append(low < 0.06 < high)
    assert np.mean(covered) >= 0.85


def test_the_interval_of_seeds_is_that_of_the_mean_of_their_errors() -> None:
    y, p = calibrated(2000)
    rows = pd.DataFrame({"label": y, "day": np.arange(2000) // 50})
    biased = np.clip(p + 0.05, 0, 1)
    assert ece_interval(rows, np.stack([p, p])) == ece_interval(rows, p)
    (low, high), (_, high_biased) = (ece_interval(rows, q) for q in (p, biased))
    both_low, both_high = ece_interval(rows, np.stack([p, biased]))
    assert low < both_low and high < both_high < high_biased
    seeds = np.stack([p, biased])
    one = [compare(rows, seed, biased).difference for seed in seeds]
    assert compare(rows, seeds, biased).difference == pytest.approx(np.mean(one))
