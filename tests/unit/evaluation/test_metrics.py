"""Scores against scikit-learn's, calibration of known predictions, and inputs without a score."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ontime.evaluation.metrics import (
    EvaluationError,
    decision_costs,
    expected_calibration_error,
    expected_cost_threshold,
    log_losses,
    lowest_cost_threshold,
    scores,
)


def calibrated(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and their true probabilities."""
    rng = np.random.default_rng(seed)
    probabilities = rng.beta(1.2, 3.5, n)
    return rng.random(n) < probabilities, probabilities


def test_losses_are_those_of_scikit_learn() -> None:
    y, p = calibrated(5000)
    found = scores(y, p)
    assert found["log_loss"] == pytest.approx(sklearn_metrics.log_loss(y, p))
    assert found["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(y, p))
    assert found["n"] == 5000
    assert found["positive_rate"] == pytest.approx(y.mean())


def test_tied_probabilities_count_one_half_in_the_auc() -> None:
    y = np.array([True, False, True, False])
    assert scores(y, np.array([0.5, 0.5, 0.5, 0.5]))["auc"] == 0.5
    assert scores(y, np.array([0.9, 0.5, 0.5, 0.1]))["auc"] == 0.875


def test_ece_is_small_when_calibrated_and_the_shift_when_shifted() -> None:
    y, p = calibrated(50_000)
    assert expected_calibration_error(y, p) < 0.01
    shifted = expected_calibration_error(y, np.clip(p + 0.1, 0, 1))
    assert shifted == pytest.approx(0.1, abs=0.01)


def test_a_certain_and_wrong_prediction_has_a_finite_loss() -> None:
    losses = log_losses(np.array([True, False]), np.array([0.0, 0.0]))
    assert losses[0] == pytest.approx(16.1, abs=0.1)
    assert losses[1] < 1e-6


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([], [], "one probability per label"),
        ([True, False], [0.5, np.nan], "1 of 2 are not, or are NaN"),
        ([True, False], [0.5, 1.5], r"within \[0, 1\]"),
        ([True, True], [0.5, 0.6], "all 2 labels are True"),
        ([True, False], [0.5], "one probability per label"),
        ([1.0, np.nan], [0.5, 0.6], "without an outcome"),
    ],
)
def test_inputs_without_a_score_are_errors(y: list[float], p: list[float], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        scores(np.array(y), np.array(p))


def test_the_threshold_follows_from_the_costs() -> None:
    assert expected_cost_threshold(1, 3) == 0.25
    with pytest.raises(EvaluationError, match="above zero"):
        expected_cost_threshold(0, 3)


def test_decisions_at_the_threshold_have_the_lowest_cost() -> None:
    y, p = calibrated(50_000)

    def cost(threshold: float) -> float:
        decision = p >= threshold
        return float((1.0 * (decision & ~y) + 4.0 * (~decision & y)).mean())

    chosen = expected_cost_threshold(1, 4)
    assert cost(chosen) < min(cost(chosen - 0.1), cost(chosen + 0.1))


def test_the_cost_of_decisions_is_lowest_at_the_threshold_of_calibrated_predictions() -> None:
    y, p = calibrated(200_000)
    best = expected_cost_threshold(1.0, 3.0)
    costs = {t: decision_costs(y, p, t, 1.0, 3.0).mean() for t in (0.0, 0.15, best, 0.35, 1.1)}
    assert min(costs, key=lambda t: costs[t]) == best
    assert costs[0.0] == pytest.approx((~y).mean()), "always: every negative is a false alarm"
    assert costs[1.1] == pytest.approx(3 * y.mean()), "never: every positive is a miss"
    mixed = decision_costs(
        np.array([True, True, False, False]), np.array([0.3, 0.2] * 2), 0.25, 1, 3
    )
    assert mixed.tolist() == [0, 3, 1, 0]


def test_the_threshold_chosen_on_calibrated_rows_is_the_expected_one() -> None:
    y, p = calibrated(200_000)
    assert lowest_cost_threshold(y, p, 1.0, 3.0) == pytest.approx(0.25, abs=0.02)
    assert lowest_cost_threshold(y, p / 2, 1.0, 3.0) == pytest.approx(0.125, abs=0.01)
    few, labels = np.array([0.9, 0.4, 0.1]), np.array([True, False, True])
    assert lowest_cost_threshold(labels, few, 1.0, 0.5) == 0.9
    assert lowest_cost_threshold(labels, few, 1.0, 3.0) == 0.1
    assert lowest_cost_threshold(~labels, few, 1.0, 0.5) == 1.0, "no decision pays"
