"""The cluster bootstrap: 95 % intervals of scores from resamples of whole clusters of rows.

Rows of one day are correlated, so days are the clusters: resampling single rows would make
intervals far too narrow. `ClusterBootstrap` draws once how often each cluster occurs in each
resample; every statistic of a resample is then a weighted sum over clusters.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ontime.evaluation.metrics import (
    ECE_BINS,
    EvaluationError,
    check_predictions,
    equal_mass_bins,
    expected_calibration_error,
    log_losses,
)
from ontime.problem import local_day

N_RESAMPLES = 1000
SEED = 0
AUC_BINS = 1000  # bins of equal mass in which the AUC of a resample counts ties as one half


@dataclass(frozen=True)
class Comparison:
    """Mean loss of a minus mean loss of b; below zero a is better. 95 % interval [low, high]."""

    difference: float
    low: float
    high: float
    # Share of resamples in which a is better, or by a margin above 0: not worse by more than that.
    probability_of_improvement: float


class ClusterBootstrap:
    """Resamples of clusters, drawn with replacement; all statistics use the same resamples.

    Args:
        clusters: the cluster of each row [n], in any type that sorts; the order of the rows does
            not matter.

    Raises:
        EvaluationError: if a row has no cluster.
    """

    def __init__(
        self, clusters: np.ndarray, n_resamples: int = N_RESAMPLES, seed: int = SEED
    ) -> None:
        if missing := int(pd.isna(clusters).sum()):
            raise EvaluationError(
                f"every row must have a cluster; {missing} of {len(clusters)} are missing"
            )
        self.names, self.codes = np.unique(clusters, return_inverse=True)
        n = len(self.names)
        drawn = np.random.default_rng(seed).integers(n, size=(n_resamples, n), dtype=np.int32)
        offsets = np.arange(n_resamples)[:, None] * n
        counts = np.bincount((drawn + offsets).ravel(), minlength=n_resamples * n)
        self.counts = counts.reshape(n_resamples, n)  # how often each cluster occurs

    def sums(
        self, values: np.ndarray, groups: np.ndarray | int = 0, n_groups: int = 1
    ) -> np.ndarray:
        """Sums of values [n] within each group of rows, [n_resamples, n_groups]."""
        n_cells = len(self.names) * n_groups
        cells = np.bincount(self.codes * n_groups + groups, values, minlength=n_cells)
        return self.counts @ cells.reshape(-1, n_groups)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Means of values [n], [n_resamples]."""
        return (self.sums(values) / self.sums(np.ones(len(values))))[:, 0]

    def ece(self, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Expected calibration errors, [n_resamples]; the bins are those of all rows."""
        bins = np.empty(len(probabilities), dtype=np.int64)
        for number, part in enumerate(equal_mass_bins(probabilities)):
            bins[part] = number
        errors = self.sums(probabilities - labels, bins, ECE_BINS)
        return np.abs(errors).sum(axis=1) / self.sums(np.ones(len(bins)))[:, 0]

    def auc(self, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Areas under the ROC curve, [n_resamples]; NaN in a resample with one class."""
        first = np.searchsorted(np.sort(probabilities), probabilities)  # equal for tied rows
        bins = first * AUC_BINS // len(probabilities)
        positives = self.sums(labels, bins, AUC_BINS)
        negatives = self.sums(~labels, bins, AUC_BINS)
        below = negatives.cumsum(axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return (positives * below).sum(axis=1) / pairs


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic's values in the resamples; NaN is left out."""
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def compare(
    rows: pd.DataFrame,
    a: np.ndarray,
    b: np.ndarray,
    n_resamples: int = N_RESAMPLES,
    margin: float = 0.0,
    seed: int = SEED,
) -> Comparison:
    """Log-loss of a minus b on rows [n] with labels; days are the clusters.

    a, b: probabilities [n], or [seeds, n] of one model per seed, whose losses are averaged.
    `probability_of_improvement` is the share of resamples with a difference below ``margin``.
    """
    y = rows["label"].to_numpy(dtype=bool)
    of_a, of_b = (
        np.mean([log_losses(*check_predictions(y, p)) for p in np.atleast_2d(of_seeds)], axis=0)
        for of_seeds in (a, b)
    )
    return compare_losses(of_a, of_b, ClusterBootstrap(local_day(rows), n_resamples, seed), margin)


def compare_losses(
    a: np.ndarray, b: np.ndarray, bootstrap: ClusterBootstrap, margin: float = 0.0
) -> Comparison:
    """Mean loss of a minus b, from the losses [n] of both on the same rows."""
    resampled = bootstrap.means(a - b)
    better = float((resampled < margin).mean() + 0.5 * (resampled == margin).mean())
    return Comparison(float((a - b).mean()), *interval(resampled), better)


def ece_interval(rows: pd.DataFrame, probabilities: np.ndarray) -> tuple[float, float]:
    """95 % interval of the ECE on rows [n] with labels; days are the clusters.

    Of probabilities [seeds, n] it is the interval of the mean ECE of the seeds.

    A resample adds its own noise to the error of every bin, so resampled ECEs are too high. The
    basic bootstrap (reflected at the estimate) corrects for that.
    """
    y, bootstrap = rows["label"].to_numpy(dtype=bool), ClusterBootstrap(local_day(rows))
    seeds = [check_predictions(y, p)[1] for p in np.atleast_2d(probabilities)]
    low, high = interval(np.mean([bootstrap.ece(y, p) for p in seeds], axis=0))
    ece = float(np.mean([expected_calibration_error(y, p) for p in seeds]))
    return max(0.0, 2 * ece - high), max(0.0, 2 * ece - low)
