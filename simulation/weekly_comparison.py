"""Weekly comparison of the served predictions with those of models frozen at the start.

The frozen network and LightGBM know the same outcomes. Both score the features that were logged
with each prediction, so that the comparison is paired: the same instances and inputs.
"""

from datetime import timedelta
from typing import TypedDict

import numpy as np
import pandas as pd

from monitoring.performance import cost_per_1000
from ontime.evaluation.metrics import log_losses

WEEK = timedelta(days=7)


class Week(TypedDict):
    """Scores of the predictions made in one week; None where no label is known."""

    start: str  # ISO 8601, exclusive
    champion: str  # the serving versions, "1" or "1, 2"
    predictions: int
    label_coverage: float
    serving_log_loss: float | None  # nats
    frozen_log_loss: float | None
    serving_gap: float | None  # calibration bias: mean prediction minus positive rate
    frozen_gap: float | None
    # Per 1,000 labelled predictions, in the problem's unit of cost.
    serving_cost: float | None
    frozen_cost: float | None
    lightgbm_cost: float | None
    always_cost: float | None  # of deciding positive for every instance
    never_cost: float | None


def weekly_comparison(
    served: pd.DataFrame, frozen: np.ndarray, lightgbm: np.ndarray, start: pd.Timestamp
) -> list[Week]:
    """One entry per week after ``start``, each from its start, exclusive, to its end, inclusive.

    Args:
        served: one row per prediction, from `PredictionLog.served`; those with a label are scored.
        frozen, lightgbm: probabilities of the frozen models for the same rows, [n].
    """
    rows = served.assign(frozen=frozen, lightgbm=lightgbm)
    # A replay covers (start, end], so that its last tick belongs to the week that ends there.
    weeks = rows.groupby(start + -(-(rows.as_of - start) // WEEK) * WEEK - WEEK)
    return [_week(pd.Timestamp(week), group) for week, group in weeks]


def _week(start: pd.Timestamp, rows: pd.DataFrame) -> Week:
    known = rows[rows.label.notna()]
    serving_log_loss, serving_gap = _scores(known, "probability")
    frozen_log_loss, frozen_gap = _scores(known, "frozen")

    def cost(probabilities: pd.Series | float) -> float | None:
        return None if known.empty else cost_per_1000(known.label, probabilities)

    return Week(
        start=start.isoformat(),
        champion=", ".join(rows.model_version.unique()),
        predictions=len(rows),
        label_coverage=len(known) / len(rows),
        serving_log_loss=serving_log_loss,
        frozen_log_loss=frozen_log_loss,
        serving_gap=serving_gap,
        frozen_gap=frozen_gap,
        serving_cost=cost(known.probability),
        frozen_cost=cost(known.frozen),
        lightgbm_cost=cost(known.lightgbm),
        always_cost=cost(1.0),
        never_cost=cost(0.0),
    )


def _scores(known: pd.DataFrame, column: str) -> tuple[float, float] | tuple[None, None]:
    """Log-loss and calibration bias of labelled rows."""
    if known.empty:
        return None, None
    labels, probabilities = known.label.to_numpy(dtype=bool), known[column].to_numpy()
    return float(log_losses(labels, probabilities).mean()), float((probabilities - labels).mean())
