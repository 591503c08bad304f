"""Scores and calibration within each value of the problem's slices."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ontime.evaluation.metrics import EvaluationError, check_predictions, log_losses
from ontime.problem import SLICES, local_day

MIN_ROWS = 50  # a value with fewer rows has no line of its own


def slice_table(
    frame: pd.DataFrame,
    labels: np.ndarray,
    probabilities: np.ndarray,
    by: Iterable[str] = (*SLICES, "month"),
) -> pd.DataFrame:
    """One row per value of a slice.

    Columns: slice, value, n, positive_rate, calibration_bias (mean prediction minus positive rate),
    calibration_bias_error (its standard error if the probabilities are calibrated),
    mean_prediction, log_loss. The slice "month" is the month of the local day.
    """
    y, p = check_predictions(labels, probabilities)
    if len(frame) != len(y):
        raise EvaluationError(f"there must be one label per row; {len(y)} for {len(frame)} rows")
    rows = pd.DataFrame({"y": y, "p": p, "loss": log_losses(y, p), "variance": p * (1 - p)})
    values_of = SLICES | {"month": _month}
    return pd.concat([_slice(rows, values_of[name](frame), name) for name in by])


def _month(frame: pd.DataFrame) -> np.ndarray:
    return local_day(frame).astype("datetime64[M]").astype(str)


def _slice(rows: pd.DataFrame, values: np.ndarray, name: str) -> pd.DataFrame:
    groups = rows.groupby(values)
    table = groups.agg(
        n=("y", "size"),
        positive_rate=("y", "mean"),
        mean_prediction=("p", "mean"),
        log_loss=("loss", "mean"),
    )
    bias = table["mean_prediction"] - table["positive_rate"]
    table.insert(2, "calibration_bias", bias)
    table.insert(3, "calibration_bias_error", np.sqrt(groups["variance"].sum()) / table["n"])
    table = table[table["n"] >= MIN_ROWS].rename_axis("value").reset_index()
    table.insert(0, "slice", name)
    return table
