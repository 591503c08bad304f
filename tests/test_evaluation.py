"""The scores against scikit-learn's, the intervals against what is known of the data."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from ontime import evaluation
from ontime.evaluation import EvaluationError, paired_bootstrap, scores


def calibrated(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.beta(1.2, 3.5, n)
    return rng.random(n) < probabilities, probabilities


def test_scores_equal_those_of_scikit_learn_ties_included() -> None:
    y, p = calibrated(5000)
    p = np.round(p, 2).clip(0.01, 0.99)
    found = scores(y, p)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(y, p))
    assert found["pr_auc"] == pytest.approx(metrics.average_precision_score(y, p))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(y, p))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(y, p))
    assert found["n"] == 5000 and found["late_share"] == pytest.approx(y.mean())


def test_the_roc_curve_encloses_the_area_that_auc_says() -> None:
    y, p = calibrated(2000)
    false_alarms, found = evaluation.roc(y, p)
    assert np.trapezoid(found, false_alarms) == pytest.approx(evaluation.auc(y, p))


def test_ece_is_small_when_calibrated_and_the_shift_when_shifted() -> None:
    y, p = calibrated(50_000)
    assert evaluation.expected_calibration_error(y, p) < 0.01
    shifted = evaluation.expected_calibration_error(y, np.clip(p + 0.1, 0, 1))
    assert shifted == pytest.approx(0.1, abs=0.01)


def test_a_certain_and_wrong_prediction_has_a_finite_loss() -> None:
    losses = evaluation.log_losses(np.array([True, False]), np.array([0.0, 0.0]))
    assert losses[0] == pytest.approx(16.1, abs=0.1) and losses[1] < 1e-6


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([], [], "at least one"),
        ([True, False], [0.5, np.nan], "1 of 2 are not, or NaN"),
        ([True, False], [0.5, 1.5], r"within \[0, 1\]"),
        ([True, True], [0.5, 0.6], "all 2 labels are True"),
        ([True, False], [0.5], "one probability a label"),
        ([1.0, np.nan], [0.5, 0.6], "without outcome"),
    ],
)
def test_what_cannot_be_scored_is_refused(y: list[float], p: list[float], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        scores(np.array(y), np.array(p))


def test_the_bootstrap_finds_the_better_model_and_is_reproducible() -> None:
    y, p = calibrated(5000)
    worse = np.clip(p + 0.08, 0, 1)
    found = paired_bootstrap(y, p, worse, seed=1)
    assert found.low < found.difference < found.high < 0 and found.confidence == 1.0
    assert found == paired_bootstrap(y, p, worse, seed=1)
    assert paired_bootstrap(y, worse, p).difference == pytest.approx(-found.difference)


def test_a_model_compared_with_itself_is_neither_better_nor_worse() -> None:
    y, p = calibrated(500)
    found = paired_bootstrap(y, p, p)
    assert (found.difference, found.low, found.high, found.confidence) == (0, 0, 0, 0.5)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    b = 0.35  # each label is late with probability .3; the true difference in Brier is .05 squared
    covered = 0
    for seed in range(200):
        y = np.random.default_rng(seed).random(400) < 0.3
        found = paired_bootstrap(
            y, np.full(400, 0.3), np.full(400, b), evaluation.brier_losses, 400, seed
        )
        covered += found.low <= -0.0025 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_whole_days_give_wider_intervals_when_flights_of_a_day_share_their_fate() -> None:
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(60), 100)
    y = rng.random(6000) < np.repeat(rng.beta(1, 3, 60), 100)
    a, b = np.full(6000, 0.25), np.full(6000, 0.30)
    rows, days = paired_bootstrap(y, a, b), paired_bootstrap(y, a, b, clusters=day)
    assert days.difference == pytest.approx(rows.difference)
    assert days.high - days.low > 3 * (rows.high - rows.low)


def test_a_row_without_a_cluster_is_refused() -> None:
    y, p = calibrated(3)
    with pytest.raises(EvaluationError, match="1 of them missing"):
        paired_bootstrap(y, p, p, clusters=pd.Series(["a", None, "b"]))


def test_slices_show_where_a_model_is_off() -> None:
    y, p = calibrated(6000)
    start = pd.Timestamp("2013-05-01", tz="UTC")
    frame = pd.DataFrame(
        {
            "carrier": np.where(np.arange(6000) % 3 == 0, "UA", "AA"),
            "origin": "EWR",
            "scheduled_departure": start + pd.to_timedelta(np.arange(6000) // 10, unit="h"),
        }
    )
    off = np.where(frame["carrier"] == "UA", np.clip(p + 0.1, 0, 1), p)
    table = evaluation.slice_table(frame, y, off).set_index(["slice", "value"])
    assert table.loc[("carrier", "UA"), "gap"] == pytest.approx(0.1, abs=0.03)
    assert abs(table.loc[("carrier", "AA"), "gap"]) < 3 * table.loc[("carrier", "AA"), "gap_error"]
    assert table.loc["day_part"].index.tolist() == [
        "afternoon", "evening", "midday", "morning", "night",
    ]  # fmt: skip
    assert table.loc["carrier", "n"].sum() == 6000
    assert table.loc["month"].index[0] == "2013-05"  # local: the first hours are 30 April, too few


def test_the_threshold_comes_from_the_costs() -> None:
    assert evaluation.expected_cost_threshold(1, 3) == 0.25
    with pytest.raises(EvaluationError, match="above zero"):
        evaluation.expected_cost_threshold(0, 3)


def test_warning_at_the_threshold_costs_least() -> None:
    y, p = calibrated(50_000)

    def cost(threshold: float) -> float:
        warned = p >= threshold
        return float((1.0 * (warned & ~y) + 4.0 * (~warned & y)).mean())

    chosen = evaluation.expected_cost_threshold(1, 4)
    assert cost(chosen) < min(cost(chosen - 0.1), cost(chosen + 0.1))


def test_the_interval_of_the_ece_holds_the_true_gap_and_knows_about_days() -> None:
    """Every day is off by its own amount, 0.06 on average: few days say little about that."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(40):
        day = np.repeat(np.arange(40), 150)
        p = rng.uniform(0.2, 0.6, len(day))
        y = rng.random(len(day)) < p + rng.normal(0.06, 0.05, 40)[day]
        departure = pd.Timestamp("2013-05-01T16:00Z") + pd.to_timedelta(day, unit="D")
        flights = pd.DataFrame({"scheduled_departure": departure, "is_late": y})
        low, high = evaluation.ece_interval(flights, p)
        assert low < evaluation.expected_calibration_error(y, p) < high
        held.append(low < 0.06 < high)
    assert np.mean(held) >= 0.85
