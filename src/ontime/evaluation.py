"""How good are probabilities of being late: scores, paired intervals, slices, threshold.

Notable decisions
- Labels are bool [n], probabilities float64 [n]. Empty input, NaN, a value outside [0, 1] and (for
  scores that rank) a single class are errors, never a number that looks like a score.
- Two models are compared on the same rows, and whole days are resampled where days are given:
  flights of one day share its weather, so single flights would make intervals far too narrow.
- ECE has 15 bins of equal mass: with equal width the few rows above .8 would be bins of noise.
- NumPy and pandas only: the training core measures itself with these functions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

ECE_BINS = 15
CLIP = 1e-7  # a probability of 0 or 1 costs 16.1 nats when wrong, not infinity
CELLS_AT_ONCE = 10_000_000  # resampled rows held in memory: 80 MB
DAY_PARTS = {"night": 0, "morning": 6, "midday": 10, "afternoon": 14, "evening": 18}
HOME_ZONE = "America/New_York"  # every origin is a New York airport


class EvaluationError(ValueError):
    """The labels and probabilities given cannot be scored."""


@dataclass(frozen=True)
class Comparison:
    """Mean loss of a minus mean loss of b: below zero a is better. 95% interval [low, high]."""

    difference: float
    low: float
    high: float
    confidence: float  # share of resamples in which a is better


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    y, p = _checked(labels, probabilities, both_classes=True)
    return {
        "auc": auc(y, p),
        "pr_auc": average_precision(y, p),
        "log_loss": float(log_losses(y, p).mean()),
        "brier": float(brier_losses(y, p).mean()),
        "ece": expected_calibration_error(y, p),
        "mean_prediction": float(p.mean()),
        "late_share": float(y.mean()),
        "n": float(len(y)),
    }


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Log-loss of each row, in nats."""
    p = np.clip(probabilities.astype(np.float64), CLIP, 1.0 - CLIP)
    return -np.log(np.where(labels, p, 1.0 - p))


def brier_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return np.square(probabilities.astype(np.float64) - labels)


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Probability that a late flight is ranked above one on time; ties count half."""
    y, p = _checked(labels, probabilities, both_classes=True)
    n_late, n_on_time = y.sum(), (~y).sum()
    ranks = pd.Series(p).rank().to_numpy()
    return float((ranks[y].sum() - n_late * (n_late + 1) / 2) / (n_late * n_on_time))


def average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under precision over recall, one step for each distinct probability."""
    recall, precision = precision_recall(labels, probabilities)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def precision_recall(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Recall (rising) and precision when flagging everything at or above each probability."""
    flagged, late = _flagged(labels, probabilities)
    return late / late[-1], late / flagged


def roc(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate, both rising from 0 to 1."""
    flagged, late = _flagged(labels, probabilities)
    on_time = flagged - late
    start = [0.0]
    return np.concatenate([start, on_time / on_time[-1]]), np.concatenate([start, late / late[-1]])


def _flagged(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows flagged and late ones among them, for each distinct probability from the top."""
    y, p = _checked(labels, probabilities, both_classes=True)
    order = np.argsort(-p, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    return last_of_tie + 1.0, np.cumsum(y[order])[last_of_tie].astype(np.float64)


def calibration_bins(
    labels: np.ndarray, probabilities: np.ndarray, n_bins: int = ECE_BINS
) -> pd.DataFrame:
    """Grain: one bin of (nearly) equal mass. Columns n, mean_prediction, late_share."""
    y, p = _checked(labels, probabilities)
    parts = np.array_split(np.argsort(p, kind="stable"), min(n_bins, len(p)))
    rows = [(len(part), p[part].mean(), y[part].mean()) for part in parts]
    return pd.DataFrame(rows, columns=["n", "mean_prediction", "late_share"])


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean distance between predicted and actual share over 15 bins of equal mass."""
    bins = calibration_bins(labels, probabilities)
    gaps = (bins["mean_prediction"] - bins["late_share"]).abs()
    return float(np.average(gaps, weights=bins["n"]))


def ece_interval(
    flights: pd.DataFrame, probabilities: np.ndarray, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95% interval of the ECE on flights [n] with is_late and scheduled_departure.

    Whole local days are drawn, the bins stay. A resample adds its own noise to every gap, so that
    resampled ECEs are too high: the basic bootstrap (reflected at the estimate) takes that back.
    """
    y, p = _checked(flights["is_late"].to_numpy(dtype=bool), probabilities)
    days = pd.factorize(local_days(flights))[0]
    order = np.argsort(p, kind="stable")
    bins = np.empty(len(p), dtype=np.int64)
    for number, part in enumerate(np.array_split(order, min(ECE_BINS, len(p)))):
        bins[part] = number
    n_days, n_bins = days.max() + 1, bins.max() + 1
    excess = np.bincount(days * n_bins + bins, weights=p - y, minlength=n_days * n_bins)
    drawn = np.random.default_rng(seed).multinomial(
        n_days, np.full(n_days, 1 / n_days), size=n_resamples
    )  # [resamples, days]: how often each day
    sizes = drawn @ np.bincount(days)
    resampled = np.abs(drawn @ excess.reshape(n_days, n_bins)).sum(axis=1) / sizes
    low, high = np.quantile(resampled, [0.025, 0.975])
    ece = expected_calibration_error(y, p)
    return max(0.0, float(2 * ece - high)), max(0.0, float(2 * ece - low))


def paired_bootstrap(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    metric: Callable[[np.ndarray, np.ndarray], np.ndarray] = log_losses,
    n_resamples: int = 1000,
    seed: int = 0,
    clusters: np.ndarray | pd.Series | None = None,
) -> Comparison:
    """Compare two models on the same rows. `clusters` (say the day of each row) are drawn whole."""
    y, p_a = _checked(labels, a)
    _, p_b = _checked(labels, b)
    gains = metric(y, p_a) - metric(y, p_b)
    sums, sizes = _by_cluster(gains, clusters)
    resampled = _resampled_means(sums, sizes, n_resamples, np.random.default_rng(seed))
    low, high = np.quantile(resampled, [0.025, 0.975])
    confidence = float((resampled < 0).mean() + 0.5 * (resampled == 0).mean())
    return Comparison(float(gains.mean()), float(low), float(high), confidence)


def compare(flights: pd.DataFrame, a: np.ndarray, b: np.ndarray) -> Comparison:
    """Log-loss of a minus b on flights [n] with is_late and scheduled_departure, local days drawn
    whole: flights of one day are not independent."""
    labels = flights["is_late"].to_numpy(dtype=bool)
    return paired_bootstrap(labels, a, b, clusters=local_days(flights))


def local_days(flights: pd.DataFrame) -> pd.Series:
    """The New York day of each departure [n]."""
    return flights["scheduled_departure"].dt.tz_convert(HOME_ZONE).dt.date


def _by_cluster(
    values: np.ndarray, clusters: np.ndarray | pd.Series | None
) -> tuple[np.ndarray, np.ndarray]:
    if clusters is None:
        return values, np.ones(len(values))
    codes = pd.factorize(np.asarray(clusters))[0]
    if len(codes) != len(values) or (codes < 0).any():
        raise EvaluationError(
            f"every row has a cluster; {len(codes)} clusters for {len(values)} rows, "
            f"{int((codes < 0).sum())} of them missing"
        )
    return np.bincount(codes, weights=values), np.bincount(codes).astype(np.float64)


def _resampled_means(
    sums: np.ndarray, sizes: np.ndarray, n_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Mean over rows of each resample of the units (rows, or clusters of rows)."""
    at_once = max(1, CELLS_AT_ONCE // len(sums))
    means = []
    for start in range(0, n_resamples, at_once):
        shape = (min(at_once, n_resamples - start), len(sums))
        drawn = rng.integers(len(sums), size=shape, dtype=np.int32)
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def slice_table(
    frame: pd.DataFrame,
    labels: np.ndarray,
    probabilities: np.ndarray,
    by: tuple[str, ...] = ("carrier", "origin", "day_part", "month"),
    min_rows: int = 50,
) -> pd.DataFrame:
    """Grain: one value of one slice. `gap` = predicted minus actual share, `gap_error` its
    standard error if all were calibrated; values with fewer than `min_rows` rows are left out."""
    y, p = _checked(labels, probabilities)
    if len(frame) != len(y):
        raise EvaluationError(f"one label a row; {len(y)} labels for {len(frame)} rows")
    rows = pd.DataFrame({"y": y, "p": p, "loss": log_losses(y, p), "variance": p * (1 - p)})
    return pd.concat([_slice(rows, slice_values(frame, name), name, min_rows) for name in by])


def slice_values(frame: pd.DataFrame, name: str) -> np.ndarray:
    if name not in ("day_part", "month"):
        return frame[name].astype(str).to_numpy()
    local = frame["scheduled_departure"].dt.tz_convert(HOME_ZONE)
    if name == "month":
        return local.dt.strftime("%Y-%m").to_numpy()
    edges = [*DAY_PARTS.values(), 24]
    return pd.cut(local.dt.hour, edges, right=False, labels=list(DAY_PARTS)).astype(str).to_numpy()


def _slice(rows: pd.DataFrame, values: np.ndarray, name: str, min_rows: int) -> pd.DataFrame:
    groups = rows.groupby(values)
    table = groups.agg(
        n=("y", "size"),
        late_share=("y", "mean"),
        mean_prediction=("p", "mean"),
        log_loss=("loss", "mean"),
    )
    table.insert(3, "gap", table["mean_prediction"] - table["late_share"])
    table.insert(4, "gap_error", np.sqrt(groups["variance"].sum()) / table["n"])
    table = table[table["n"] >= min_rows].rename_axis("value").reset_index()
    table.insert(0, "slice", name)
    return table


def expected_cost_threshold(cost_false_alarm: float, cost_missed: float) -> float:
    """Warn at or above this probability: there the expected costs of both mistakes are equal."""
    if not (cost_false_alarm > 0 and cost_missed > 0):
        raise EvaluationError(
            f"both costs are above zero; false alarm {cost_false_alarm}, missed {cost_missed}"
        )
    return cost_false_alarm / (cost_false_alarm + cost_missed)


def _checked(
    labels: np.ndarray, probabilities: np.ndarray, both_classes: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 1 or not len(y):
        raise EvaluationError(
            f"one probability a label, at least one; labels {y.shape}, probabilities {p.shape}"
        )
    if not np.isin(y, (0, 1)).all():
        raise EvaluationError("labels are true or false; a flight without outcome is not scored")
    if bad := int((~((p >= 0) & (p <= 1))).sum()):
        raise EvaluationError(f"probabilities are within [0, 1]; {bad} of {len(p)} are not, or NaN")
    y = y.astype(bool)
    if both_classes and (y.all() or not y.any()):
        raise EvaluationError(
            f"ranking needs late flights and others; all {len(y)} labels are {bool(y[0])}: "
            "score a longer period"
        )
    return y, p
