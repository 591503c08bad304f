"""The pictures people look at: calibration, ROC with precision-recall, learning curve.

Each function returns a Matplotlib `Figure` made without pyplot: no window, no global state, safe in
threads; the caller saves it (`figure.savefig(path)`) or logs it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ontime import evaluation
from ontime.training import EpochRecord

COLOURS = ("#0b5fa5", "#d1495b", "#e3a008", "#3c8d5a", "#7a5195", "#666666")
REFERENCE: dict[str, Any] = {"color": "#999999", "linewidth": 1, "linestyle": "--"}


def calibration(labels: np.ndarray, models: Mapping[str, np.ndarray]) -> Figure:
    """Predicted against actual late share of several models, and where their predictions lie."""
    figure = _figure(6.4, 7.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], **REFERENCE)
    above.annotate("perfect", (0.9, 0.92), color="#777777", rotation=36, ha="center", fontsize=8)
    for colour, (name, probabilities) in zip(_colours(models), models.items(), strict=True):
        bins = evaluation.calibration_bins(labels, probabilities)
        ece = evaluation.expected_calibration_error(labels, probabilities)
        error = 1.96 * np.sqrt(bins["late_share"] * (1 - bins["late_share"]) / bins["n"])
        above.errorbar(
            bins["mean_prediction"],
            bins["late_share"],
            yerr=error,
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.5,
            elinewidth=0.8,
            label=f"{name} (ECE {ece:.3f})",
        )
        below.hist(probabilities, bins=50, range=(0, 1), histtype="step", color=colour)
    above.set(title=f"Calibration, {len(labels):,} flights in 15 equal groups", ylim=(0, 1))
    above.set_ylabel("actually late")
    below.set(xlabel="predicted probability of being late", ylabel="flights", xlim=(0, 1))
    for axis in (above.xaxis, above.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    above.legend(loc="upper left", frameon=False)
    return figure


def roc_and_precision_recall(labels: np.ndarray, models: Mapping[str, np.ndarray]) -> Figure:
    figure = _figure(11, 5.2)
    left, right = figure.subplots(1, 2)
    for colour, (name, probabilities) in zip(_colours(models), models.items(), strict=True):
        area = evaluation.auc(labels, probabilities)
        left.plot(*evaluation.roc(labels, probabilities), color=colour, label=f"{name} {area:.3f}")
        precision_area = evaluation.average_precision(labels, probabilities)
        recall, precision = evaluation.precision_recall(labels, probabilities)
        right.plot(recall, precision, color=colour, label=f"{name} {precision_area:.3f}")
    left.plot([0, 1], [0, 1], **REFERENCE)
    right.axhline(float(np.mean(labels)), **REFERENCE)
    left.set(title="ROC (area)", xlabel="false alarms among flights on time")
    left.set_ylabel("late flights found")
    right.set(title="Precision-recall (area)", xlabel="late flights found")
    right.set_ylabel("late among those flagged")
    for axes, corner in ((left, "lower right"), (right, "upper right")):
        _percent(axes)
        axes.legend(loc=corner, frameon=False)
    return figure


def learning_curve(history: Sequence[EpochRecord]) -> Figure:
    """Both in nats; they have different targets, so that only their slopes compare."""
    figure = _figure(7.2, 4.4)
    axes = figure.subplots()
    epochs = [record.epoch for record in history]
    train = [record.train_loss for record in history]
    unseen = [record.unseen_log_loss for record in history]
    axes.plot(epochs, train, color=COLOURS[5], label="training, cross-entropy with the teachers")
    axes.plot(
        epochs, unseen, color=COLOURS[0], marker="o", markersize=4, label="log-loss, unseen weeks"
    )
    last = history[-1]
    axes.set_title(
        f"Learning curve; unseen weeks: log-loss {last.unseen_log_loss:.4f}, "
        f"AUC {last.unseen_auc:.4f}",
        fontsize=10,
    )
    axes.set(xlabel="epoch", ylabel="nats")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _colours(models: Mapping[str, np.ndarray]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(models))]


def _percent(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
