"""Figures of one training run: calibration, ROC and precision-recall, learning curve.

Each function returns a Matplotlib `Figure` made without pyplot: no window and no global state, so
it is safe in threads. The caller saves it (`figure.savefig(path)`) or logs it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from ontime.evaluation.metrics import ECE_BINS, calibration_bins, expected_calibration_error
from ontime.models.trainer import EpochRecord
from ontime.problem import INSTANCES

COLOURS = ("#0b5fa5", "#d1495b", "#e3a008", "#3c8d5a", "#7a5195", "#666666")
REFERENCE: dict[str, Any] = {"color": "#999999", "linewidth": 1, "linestyle": "--"}


def calibration(labels: np.ndarray, models: Mapping[str, np.ndarray]) -> Figure:
    """Mean prediction against positive rate of several models, with 95 % intervals, and the
    distribution of their predictions."""
    figure = _figure(6.4, 7.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], **REFERENCE)
    above.annotate("perfect", (0.9, 0.92), color="#777777", rotation=36, ha="center", fontsize=8)
    for i, (name, probabilities) in enumerate(models.items()):
        bins = calibration_bins(labels, probabilities)
        ece = expected_calibration_error(labels, probabilities)
        error = 1.96 * np.sqrt(bins["positive_rate"] * (1 - bins["positive_rate"]) / bins["n"])
        above.errorbar(
            bins["mean_prediction"],
            bins["positive_rate"],
            yerr=error,
            color=_colour(i),
            marker="o",
            markersize=4,
            linewidth=1.5,
            elinewidth=0.8,
            label=f"{name} (ECE {ece:.3f})",
        )
        below.hist(probabilities, bins=50, range=(0, 1), histtype="step", color=_colour(i))
    title = f"Calibration, {len(labels):,} {INSTANCES} in {ECE_BINS} bins of equal size"
    above.set(title=title, ylabel="positive rate", ylim=(0, 1))
    below.set(xlabel="predicted probability", ylabel=INSTANCES, xlim=(0, 1))
    for axis in (above.xaxis, above.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    above.legend(loc="upper left", frameon=False)
    return figure


def roc_and_precision_recall(labels: np.ndarray, models: Mapping[str, np.ndarray]) -> Figure:
    """ROC and precision-recall curves of several models with their areas."""
    figure = _figure(11, 5.2)
    left, right = figure.subplots(1, 2)
    for i, (name, p) in enumerate(models.items()):
        false_positive_rate, recall, _ = roc_curve(labels, p)
        label = f"{name} {roc_auc_score(labels, p):.3f}"
        left.plot(false_positive_rate, recall, color=_colour(i), label=label)
        precision, recall, _ = precision_recall_curve(labels, p)
        label = f"{name} {average_precision_score(labels, p):.3f}"
        right.plot(recall, precision, color=_colour(i), label=label)
    left.plot([0, 1], [0, 1], **REFERENCE)
    right.axhline(float(np.mean(labels)), **REFERENCE)
    left.set(title="ROC (area)", xlabel="false positive rate", ylabel="true positive rate")
    right.set(title="Precision-recall (area)", xlabel="recall", ylabel="precision")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.legend(frameon=False)
    return figure


def learning_curve(history: Sequence[EpochRecord]) -> Figure:
    """The training loss after each epoch."""
    figure = _figure(7.2, 4.4)
    axes = figure.subplots()
    epochs = [record.epoch for record in history]
    axes.plot(epochs, [record.train_loss for record in history], color=COLOURS[0], marker="o")
    axes.set_title(f"Learning curve; last epoch {history[-1].train_loss:.4f}", fontsize=10)
    axes.set(xlabel="epoch", ylabel="cross-entropy with the teachers (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]
