"""Scores of predicted probabilities, calibration, and the decision threshold.

Labels are bool [n], probabilities float64 [n]. An empty input, NaN, a value outside [0, 1] and (for
`scores`) a single class raise `EvaluationError`.

- ECE: 15 bins of equal mass. Bins of equal width would hold too few rows above 0.8.
- Log-loss: probabilities are clipped, so that one certain and wrong prediction is not infinite.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

ECE_BINS = 15
CLIP = 1e-7  # a wrong prediction of 0 or 1 has a loss of 16.1 nats


class EvaluationError(ValueError):
    """The labels and probabilities cannot be scored; the message states rule and value."""


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """auc, pr_auc, log_loss, brier, ece, mean_prediction, positive_rate and n."""
    y, p = check_predictions(labels, probabilities)
    if y.all() or not y.any():
        raise EvaluationError(
            f"scores need positive and negative labels; all {len(y)} labels are {bool(y[0])}: "
            "score a longer period"
        )
    return {
        "auc": float(roc_auc_score(y, p)),
        "pr_auc": float(average_precision_score(y, p)),
        "log_loss": float(log_losses(y, p).mean()),
        "brier": float(brier_losses(y, p).mean()),
        "ece": expected_calibration_error(y, p),
        "mean_prediction": float(p.mean()),
        "positive_rate": float(y.mean()),
        "n": float(len(y)),
    }


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The log-loss of each row, in nats [n]."""
    p = np.clip(probabilities.astype(np.float64), CLIP, 1.0 - CLIP)
    return -np.log(np.where(labels, p, 1.0 - p))


def brier_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The squared error of each row [n]."""
    return np.square(probabilities.astype(np.float64) - labels)


def equal_mass_bins(probabilities: np.ndarray) -> list[np.ndarray]:
    """The row indices of each bin: bins of (nearly) equal size, by rising probability."""
    order = np.argsort(probabilities, kind="stable")
    return np.array_split(order, min(ECE_BINS, len(order)))


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """One row per bin of equal mass. Columns n, mean_prediction, positive_rate."""
    y, p = check_predictions(labels, probabilities)
    rows = [(len(part), p[part].mean(), y[part].mean()) for part in equal_mass_bins(p)]
    return pd.DataFrame(rows, columns=["n", "mean_prediction", "positive_rate"])


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean absolute difference between mean prediction and positive rate over the bins."""
    bins = calibration_bins(labels, probabilities)
    errors = (bins["mean_prediction"] - bins["positive_rate"]).abs()
    return float(np.average(errors, weights=bins["n"]))


def expected_cost_threshold(cost_false_alarm: float, cost_miss: float) -> float:
    """The probability from which a positive decision has the lower expected cost."""
    if not (cost_false_alarm > 0 and cost_miss > 0):
        raise EvaluationError(
            f"both costs must be above zero; false alarm {cost_false_alarm}, miss {cost_miss}"
        )
    return cost_false_alarm / (cost_false_alarm + cost_miss)


def decision_costs(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    cost_false_alarm: float,
    cost_miss: float,
) -> np.ndarray:
    """The cost of each decision, positive from the threshold on [n]."""
    decisions = probabilities >= threshold
    return np.where(labels, ~decisions * cost_miss, decisions * cost_false_alarm)


def lowest_cost_threshold(
    labels: np.ndarray, probabilities: np.ndarray, cost_false_alarm: float, cost_miss: float
) -> float:
    """The threshold with the lowest cost on these rows; of calibrated ones the expected one."""
    y, p = check_predictions(labels, probabilities)
    order = np.argsort(-p, kind="stable")
    # Cost if the first k of the rows, by falling probability, are decided positive.
    change = np.where(y[order], -cost_miss, cost_false_alarm)
    k = int(np.argmin(np.concatenate([[0.0], np.cumsum(change)])))
    return float(p[order][k - 1]) if k else 1.0


def check_predictions(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool [n] and probabilities as float64 [n]; raises EvaluationError."""
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 1 or not len(y):
        raise EvaluationError(
            f"there must be one probability per label; labels {y.shape}, probabilities {p.shape}"
        )
    if not np.isin(y, (0, 1)).all():
        raise EvaluationError("labels must be true or false: leave out rows without an outcome")
    if bad := int((~((p >= 0) & (p <= 1))).sum()):
        raise EvaluationError(
            f"probabilities must be within [0, 1]; {bad} of {len(p)} are not, or are NaN"
        )
    return y.astype(bool), p
