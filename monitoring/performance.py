"""Performance of served predictions, measured on the outcomes that are known at a given time.

- Due instances only: positive labels may arrive later than negative ones, so scoring every known
  outcome would leave out the newest positives and bias each score.
- Intervals: cluster bootstrap by local day. Consecutive days are correlated as well, so intervals
  are somewhat too narrow; the retrain policy adds a margin.
- `excess_log_loss`: log-loss minus the log-loss expected from validation, which is the champion's
  normalized entropy on validation (log-loss divided by that of the base-rate predictor) times the
  period's base-rate log-loss. Periods differ in difficulty more than models do, and the plain
  difference to the base rate grows with the positive rate.
- The interval of the ECE is too high: resampling adds noise, which the ECE counts as error.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from ontime.evaluation.bootstrap import ClusterBootstrap, interval
from ontime.evaluation.metrics import (
    brier_losses,
    decision_costs,
    expected_cost_threshold,
    log_losses,
    scores,
)
from ontime.problem import COST_FALSE_ALARM, COST_MISS, local_day

VALIDATION_SCORES = ("auc", "log_loss", "brier", "ece", "mean_prediction", "positive_rate")


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class Performance:
    """Scores of the predictions served in one period; `dataclasses.asdict` gives JSON.

    `scores`: auc, log_loss, brier, ece, calibration_bias (mean prediction minus positive rate),
    base_rate_log_loss and excess_log_loss. Empty if the due labels cannot be scored (fewer than two
    days, or one class). `validation`: the champion's validation scores, with calibration_bias,
    base_rate_log_loss and normalized_entropy.
    """

    since: str | None  # first and last as_of, ISO 8601; None: no prediction was served
    until: str | None
    known_by: str
    n_served: int
    n_due: int
    n_known: int  # due instances with a label; these are scored
    n_days: int  # with at least one scored instance
    label_coverage: float | None  # n_known / n_due; None while nothing is due
    mean_prediction: float | None  # of all served predictions
    positive_rate: float | None  # of the scored instances
    scores: dict[str, Estimate]
    validation: dict[str, float]
    # Per 1,000 scored instances: of the decisions that were served, of always and never deciding
    # positive, and of the decision that the validation rows' positive rate alone would give.
    cost_per_1000: dict[str, float]


class PerformanceError(ValueError):
    """The validation scores are incomplete."""


def performance(
    served: pd.DataFrame, known_by: datetime, validation_scores: dict[str, float]
) -> Performance:
    """Score predictions by the outcomes known at ``known_by``.

    Args:
        served: one row per prediction: probability, as_of, due_at, label (nullable), known_at, and
            the columns of `ontime.problem.local_day`.
        validation_scores: the champion's `ontime.evaluation.metrics.scores` on its test rows.

    Raises:
        PerformanceError: if a validation score is missing.
    """
    validation = _validation(validation_scores)
    due = served[served.due_at <= known_by]
    scored = due[due.label.notna() & (due.known_at <= known_by)]
    days = local_day(scored)
    return Performance(
        since=_iso(served.as_of.min()),
        until=_iso(served.as_of.max()),
        known_by=known_by.isoformat(),
        n_served=len(served),
        n_due=len(due),
        n_known=len(scored),
        n_days=len(np.unique(days)),
        label_coverage=len(scored) / len(due) if len(due) else None,
        mean_prediction=float(served.probability.mean()) if len(served) else None,
        positive_rate=float(scored.label.mean()) if len(scored) else None,
        scores=_estimates(scored, days, validation["normalized_entropy"]),
        validation=validation,
        cost_per_1000=costs_per_1000(scored, validation["positive_rate"]),
    )


def costs_per_1000(scored: pd.DataFrame, known_rate: float) -> dict[str, float]:
    """Cost of the served decisions beside always, never and the base rate; empty without rows.

    Args:
        scored: label and probability of each instance.
        known_rate: the positive rate that was known before.
    """
    if scored.empty:
        return {}
    served = scored.probability
    probabilities = {"served": served, "always": 1.0, "never": 0.0, "base_rate": known_rate}
    return {name: cost_per_1000(scored.label, p) for name, p in probabilities.items()}


def cost_per_1000(labels: pd.Series, probabilities: pd.Series | float) -> float:
    """Cost per 1,000 of the decisions by probabilities, given per label or one for all."""
    threshold = expected_cost_threshold(COST_FALSE_ALARM, COST_MISS)
    y = labels.to_numpy(dtype=bool)
    p = np.broadcast_to(np.asarray(probabilities, dtype=np.float64), len(y))
    return 1000 * float(decision_costs(y, p, threshold, COST_FALSE_ALARM, COST_MISS).mean())


def _iso(time: pd.Timestamp) -> str | None:
    return None if pd.isna(time) else time.isoformat()


def _validation(given: dict[str, float]) -> dict[str, float]:
    if missing := [name for name in VALIDATION_SCORES if name not in given]:
        raise PerformanceError(
            f"validation scores must have {', '.join(VALIDATION_SCORES)}; missing: "
            f"{', '.join(missing)}: pass the scores in the champion's metadata"
        )
    found = {name: float(given[name]) for name in VALIDATION_SCORES}
    base_rate = float(_base_rate_log_loss(found["positive_rate"]))
    return found | {
        "calibration_bias": found["mean_prediction"] - found["positive_rate"],
        "base_rate_log_loss": base_rate,
        "normalized_entropy": found["log_loss"] / base_rate,
    }


def _base_rate_log_loss(positive_rate: float | np.ndarray) -> np.ndarray:
    """Log-loss of the predictor that gives every instance the positive rate, in nats."""
    rate = np.clip(positive_rate, 1e-7, 1 - 1e-7)
    return -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


def _estimates(
    scored: pd.DataFrame, days: np.ndarray, normalized_entropy: float
) -> dict[str, Estimate]:
    if len(np.unique(days)) < 2 or scored.label.nunique() < 2:
        return {}
    y = scored.label.to_numpy(dtype=bool)
    p = scored.probability.to_numpy(dtype=np.float64)
    values = scores(y, p)
    values["calibration_bias"] = values["mean_prediction"] - values["positive_rate"]
    values["base_rate_log_loss"] = float(_base_rate_log_loss(values["positive_rate"]))
    expected = normalized_entropy * values["base_rate_log_loss"]
    values["excess_log_loss"] = values["log_loss"] - expected
    bootstrap = ClusterBootstrap(days)
    log_loss = bootstrap.means(log_losses(y, p))
    base_rate_log_loss = _base_rate_log_loss(bootstrap.means(y))
    resampled = {
        "auc": bootstrap.auc(y, p),
        "log_loss": log_loss,
        "brier": bootstrap.means(brier_losses(y, p)),
        "ece": bootstrap.ece(y, p),
        "calibration_bias": bootstrap.means(p - y),
        "base_rate_log_loss": base_rate_log_loss,
        "excess_log_loss": log_loss - normalized_entropy * base_rate_log_loss,
    }
    return {name: Estimate(values[name], *interval(of)) for name, of in resampled.items()}
