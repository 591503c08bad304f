"""What the loop was worth, week by week: served answers against the model frozen at the start.

The frozen model scores the features that were logged when the flight was asked about, so the
comparison is paired: the same flights, the same inputs, two models.
"""

from datetime import timedelta

import numpy as np
import pandas as pd

from monitoring.report import Week
from ontime.evaluation import log_losses

WEEK = timedelta(days=7)


def weekly(served: pd.DataFrame, frozen: np.ndarray, start: pd.Timestamp) -> list[Week]:
    """One row a week since ``start``: both models' log-loss and calibration, and who served.

    Args:
        served: [n] a row a prediction, labelled or not; the figures use the labelled ones.
    """
    rows = served.assign(frozen=frozen, week=start + (served.as_of - start) // WEEK * WEEK)
    return [_week(pd.Timestamp(week), flights) for week, flights in rows.groupby("week")]


def _week(start: pd.Timestamp, flights: pd.DataFrame) -> Week:
    known = flights[flights.is_late.notna()]
    labels = known.is_late.to_numpy(dtype=bool)
    figures: dict[str, float | None] = {}
    for name, column in (("serving", "probability_late"), ("frozen", "frozen")):
        answers = known[column].to_numpy()
        figures[f"{name}_log_loss"] = (
            float(log_losses(labels, answers).mean()) if len(known) else None
        )
        figures[f"{name}_gap"] = float((answers - labels).mean()) if len(known) else None
    return Week(
        start=start.isoformat(),
        champion=", ".join(flights.model_version.unique()),
        predictions=len(flights),
        label_coverage=len(known) / len(flights),
        serving_log_loss=figures["serving_log_loss"],
        frozen_log_loss=figures["frozen_log_loss"],
        serving_gap=figures["serving_gap"],
        frozen_gap=figures["frozen_gap"],
    )
