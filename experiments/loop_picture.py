"""The moving picture of the loop: one frame per week of the finished demo, from its report.

Above: which version served, the challenger in shadow, and what the gate decided. Below: the
log-loss of what was served and of the model frozen at the start, on the same rows.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ontime.problem import INSTANCES
from simulation.replay_plot import EPOCH, day_number

# The colours of the pages' dark scheme.
BACKGROUND, INK, MUTED, LINE = "#0d1117", "#e9edf3", "#a3aebc", "#2a333f"
SERVED, FROZEN, GOOD, BAD, SHADOW = "#8bb8ff", "#e58047", "#37a68f", "#e58047", "#ffc64d"
SIZE_IN, DPI = (8.0, 5.16), 100  # as large as the moving picture of the board
WEEK, GAP = 7.0, 0.25  # the x axis is in days
SERVING_ROW, SHADOW_ROW, GATE_ROW = 2, 1, 0
MARGIN = 0.08  # of the range of the log-loss


def frames(report: dict[str, Any]) -> Iterator[Image.Image]:
    """A frame at the end of each week.

    Raises:
        ValueError: if no week of the report has an outcome.
    """
    weeks = [week for week in report["weeks"] if week["serving_log_loss"] is not None]
    if not weeks:
        raise ValueError("the picture of the loop needs a week with outcomes, and there is none")
    for n in range(1, len(weeks) + 1):
        yield frame(report, weeks, n)


def frame(report: dict[str, Any], weeks: list[dict[str, Any]], n_weeks: int) -> Image.Image:
    """The picture at the end of a week: later weeks and events are not drawn."""
    start, end = day_number(report["replay"]["start"]), day_number(report["replay"]["end"])
    now = min(day_number(weeks[n_weeks - 1]["start"]) + WEEK, end)
    events = [event for event in report["events"] if day_number(event["at"]) <= now]
    figure = Figure(figsize=SIZE_IN, dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    lanes, scores = figure.subplots(
        2, 1, sharex=True, height_ratios=(1, 1.45),
        gridspec_kw={"left": 0.135, "right": 0.975, "top": 0.80, "bottom": 0.08, "hspace": 0.32},
    )  # fmt: skip
    for axes in (lanes, scores):
        style(axes)
    lanes.set_xlim(start - WEEK / 8, end + WEEK / 2)
    draw_versions(lanes, events, start, now)
    draw_scores(scores, weeks, n_weeks)
    figure.text(0.025, 0.93, f"{moment(now):%-d %B %Y}", color=SHADOW, fontsize=21, weight="bold")
    figure.text(0.975, 0.935, difference(weeks[:n_weeks]), color=INK, fontsize=14, ha="right")
    figure.text(0.025, 0.865, newest_decision(events), color=MUTED, fontsize=13)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", facecolor=BACKGROUND)
    return Image.open(buffer).convert("RGB")


def draw_versions(axes: Axes, events: list[dict[str, Any]], start: float, now: float) -> None:
    served = [("v1", start)]
    served += [
        (e["label"], day_number(e["at"])) for e in events if e["kind"] in ("promoted", "rollback")
    ]
    ends = [since for _, since in served[1:]] + [now]
    for i, ((label, since), until) in enumerate(zip(served, ends, strict=True)):
        bar(axes, SERVING_ROW, since, until, SERVED, 0.85 if i % 2 else 0.55)
        if until - since >= 0.9 * WEEK:
            axes.text(
                (since + until) / 2, SERVING_ROW, label,
                ha="center", va="center", color=BACKGROUND, fontsize=12, weight="bold",
            )  # fmt: skip
    for event in events:
        at, kind = day_number(event["at"]), event["kind"]
        if kind == "retrain":
            bar(axes, SHADOW_ROW, at, min(at + WEEK, now), SHADOW, 0.75)
        elif kind in ("promoted", "rejected"):
            mark, colour = ("D", GOOD) if kind == "promoted" else ("X", BAD)
            axes.scatter(at, GATE_ROW, marker=mark, s=95, color=colour, linewidths=0, zorder=3)
    rows = {SERVING_ROW: "serving", SHADOW_ROW: "in shadow", GATE_ROW: "gate"}
    axes.set_yticks(list(rows), list(rows.values()), fontsize=13, color=MUTED)
    axes.set_ylim(-0.6, 2.55)


def bar(axes: Axes, row: int, since: float, until: float, colour: str, alpha: float) -> None:
    width = until - since - GAP
    axes.barh(row, width, left=since + GAP / 2, height=0.62, color=colour, alpha=alpha)


def draw_scores(axes: Axes, weeks: list[dict[str, Any]], n_weeks: int) -> None:
    starts = np.array([day_number(week["start"]) for week in weeks])
    serving, frozen = scores_of(weeks)
    low, high = min(*serving, *frozen), max(*serving, *frozen)
    space = MARGIN * (high - low) or 0.01
    axes.set_ylim(low - space, high + space)
    middles, serving, frozen = (values[:n_weeks] for values in (starts + WEEK / 2, serving, frozen))
    for where, colour in ((serving <= frozen, GOOD), (serving > frozen, BAD)):
        axes.fill_between(
            middles, serving, frozen, where=where, color=colour, alpha=0.45, lw=0, interpolate=True
        )
    axes.plot(middles, frozen, color=FROZEN, lw=2.4, marker="o", label="frozen at the start")
    axes.plot(middles, serving, color=SERVED, lw=3, marker="o", label="served")
    title = "log-loss per week, lower is better"
    axes.set_title(title, loc="left", fontsize=13, color=MUTED, pad=8)
    axes.legend(
        loc="lower right", ncols=2, frameon=False, fontsize=13, labelcolor=INK,
        bbox_to_anchor=(1.01, 1.0), borderaxespad=0,
    )  # fmt: skip
    shown = starts[:: 1 + len(weeks) // 6]
    axes.set_xticks(shown, [f"{moment(each):%-d %b}" for each in shown], fontsize=12)


def style(axes: Axes) -> None:
    axes.set_facecolor(BACKGROUND)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=12, labelcolor=MUTED)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def difference(weeks: list[dict[str, Any]]) -> str:
    """Served minus frozen over the weeks so far, each weighted by its predictions."""
    n = np.array([week["predictions"] * week["label_coverage"] for week in weeks])
    served, frozen = scores_of(weeks)
    mean = float(((served - frozen) * n).sum() / n.sum())
    return f"served minus frozen so far: {mean:+.4f}  ({round(n.sum()):,} {INSTANCES})"


def newest_decision(events: list[dict[str, Any]]) -> str:
    """What the gate decided last, with the last of its reasons, which has the figures."""
    decided = [e for e in events if e["kind"] in ("promoted", "rejected", "rollback")]
    if not decided:
        return "the first challenger scores live traffic in shadow"
    newest = decided[-1]
    return f"{newest['label']} {newest['kind']}: {newest['reason'].split('; ')[-1]}"


def scores_of(weeks: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The log-loss of each week, served and frozen."""
    serving = [week["serving_log_loss"] for week in weeks]
    return np.array(serving), np.array([week["frozen_log_loss"] for week in weeks])


def moment(days: float) -> datetime:
    """The time that `day_number` counts in days."""
    return EPOCH + timedelta(days=days)
