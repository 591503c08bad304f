"""The picture of a drill: log-loss per day beside what would have been, and what noticed it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ontime.evaluation.plots import COLOURS, REFERENCE
from simulation.replay_plot import EPOCH, GRID, INK, day_number

SERVED, OTHER, FAULT, NOTICED = COLOURS[0], COLOURS[3], "#f3d9dc", COLOURS[1]
MARKS = {"retrain": "trained", "promoted": "promoted", "rejected": "rejected"}
TICKS = 10


def write_picture(report: dict[str, Any], path: Path) -> None:
    """Write the picture of one report of `simulation.drill_report`."""
    figure = Figure(figsize=(9, 4.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    _draw_loss(above, report)
    _draw_signal(below, report)
    for axes in (above, below):
        axes.axvspan(
            day_number(report["since"]), day_number(report["until"]), color=FAULT, lw=0, zorder=0
        )
        axes.spines[:].set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0, labelsize=8, labelcolor=INK)
        if report["noticed_at"]:
            axes.axvline(day_number(report["noticed_at"]), color=NOTICED, linewidth=1.2)
    first, last = (int(day_number(report["signal"]["at"][i])) for i in (0, -1))
    days = range(first, last + 2, 1 + (last - first) // TICKS)
    below.set_xticks(days, [f"{EPOCH + timedelta(days=day):%-d %b}" for day in days])
    figure.suptitle(report["title"], x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.savefig(path, facecolor="white")


def _draw_loss(axes: Axes, report: dict[str, Any]) -> None:
    at = np.array([day_number(row["day"]) + 0.5 for row in report["days"]])
    for name, colour, label in (
        ("other", OTHER, report["against"]),
        ("served", SERVED, "served in the drill"),
    ):
        values = np.array([row[name] for row in report["days"]], dtype=np.float64)
        axes.plot(at, values, color=colour, marker="o", markersize=3.5, lw=1.6, label=label)
    axes.legend(loc="upper left", frameon=False, fontsize=8, ncols=2)
    axes.margins(y=0.25)
    _title(axes, "log-loss per day, nats")


def _draw_signal(axes: Axes, report: dict[str, Any]) -> None:
    signal = report["signal"]
    values = np.array(signal["values"], dtype=np.float64)  # None becomes NaN
    at = np.array([day_number(each) for each in signal["at"]])
    axes.plot(at, values, color=SERVED, marker="o", markersize=3.5, lw=1.4)
    axes.axhline(signal["limit"], **REFERENCE)
    axes.margins(y=0.35)  # space for the marks
    inside = axes.get_xaxis_transform()  # days and fractions of the height
    if report["noticed_at"]:
        noticed = day_number(report["noticed_at"])
        axes.text(noticed, 0.98, " noticed", color=NOTICED, fontsize=8, va="top", transform=inside)
    marks: dict[float, list[str]] = {}
    for event in report["events"]:
        if event["kind"] in MARKS:
            text = f"{MARKS[event['kind']]} {event['label']}"
            marks.setdefault(day_number(event["at"]), []).append(text)
    for day, texts in marks.items():
        axes.plot(day, 0.03, marker="^", color=INK, markersize=5, transform=inside)
        label = "\n".join(texts)
        axes.text(day, 0.09, label, color=INK, fontsize=7.5, ha="center", transform=inside)
    _title(axes, f"{signal['name']}; limit {signal['limit']:g}")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=8.5, color=INK, pad=4)
