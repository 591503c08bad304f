"""The picture of a replay: serving with retraining against a model frozen at the start.

`write_report` writes ``replay.png`` and ``replay.html``, a self-contained page with the picture and
its numbers. Both models score the same logged features, so that each week's difference is paired.
The difference has its own panel: log-loss changes by 0.3 nats from week to week, and the models
differ by a tenth of that.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Literal, TypedDict, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ontime.evaluation.bootstrap import Comparison
from ontime.problem import INSTANCES
from simulation.weekly_comparison import Week

Kind = Literal["alert", "retrain", "canary", "rejected", "promoted", "rollback"]
Score = Literal[
    "serving_log_loss", "frozen_log_loss", "serving_gap", "frozen_gap",
    "serving_cost", "frozen_cost", "lightgbm_cost", "always_cost", "never_cost",
]  # fmt: skip


class Event(TypedDict):
    at: str  # ISO 8601
    kind: Kind
    label: str  # text beside the mark, "v2"; may be empty
    reason: str


@dataclass(frozen=True)
class ReplayResult:
    """What is drawn. `comparison`: log-loss of serving minus frozen, over all labelled rows."""

    weeks: list[Week]
    events: list[Event]
    comparison: Comparison

    def __post_init__(self) -> None:
        if not self.weeks:
            raise ValueError("a report needs a week; there is none: replay seven days or more")


SERVING, FROZEN, INK, GRID = "#0b5fa5", "#d1495b", "#333333", "#e4e7eb"
BETTER, WORSE = "#2f8f5b", "#d1495b"
# One lane per kind, in the order in which things happen: mark, colour, name.
LANES: dict[Kind, tuple[str, str, str]] = {
    "alert": ("^", "#e08a00", "performance alert"),
    "retrain": ("o", "#6b7280", "trained, in shadow"),
    "canary": ("v", "#0b8fa5", "canary"),
    "rejected": ("X", "#d1495b", "rejected"),
    "promoted": ("D", "#2f8f5b", "promoted"),
    "rollback": ("<", "#7a5195", "rolled back"),
}
WIDTH_IN, DPI = 9.0, 200  # 1,800 pixels, shown at half size
LETTER = 0.007  # width of a letter as a fraction of the x axis
EPOCH, WEEK = datetime(1970, 1, 1, tzinfo=UTC), 7.0  # the x axis is in days


def write_report(result: ReplayResult, folder: Path) -> tuple[Path, Path]:
    """Write ``replay.png`` and ``replay.html`` to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, html = folder / "replay.png", folder / "replay.html"
    picture.write_bytes(png(result))
    html.write_text(page(result), encoding="utf-8")
    return picture, html


def png(result: ReplayResult) -> bytes:
    buffer = BytesIO()
    draw(result).savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def draw(result: ReplayResult) -> Figure:
    weeks, events = result.weeks, result.events
    lanes = [kind for kind in LANES if kind in {event["kind"] for event in events}]
    strip = 0.24 * max(len(lanes), 1)
    figure = Figure(figsize=(WIDTH_IN, 5.6 + strip), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    marks, *panels = figure.subplots(4, 1, sharex=True, height_ratios=(strip, 2.2, 1.0, 1.4))
    starts = np.array([day_number(week["start"]) for week in weeks])
    middles = starts + WEEK / 2
    _style([marks, *panels], starts)
    _draw_events(marks, events, lanes)
    _draw_log_loss(panels[0], middles, weeks)
    _draw_difference(panels[1], middles, weeks)
    _draw_calibration(panels[2], middles, weeks)
    for event in events:
        if event["kind"] in ("promoted", "rollback"):  # the serving version changed
            for panel in panels:
                colour = LANES[event["kind"]][1]
                panel.axvline(
                    day_number(event["at"]), color=colour, linewidth=0.9, alpha=0.55, zorder=0
                )
    marks.set_title(_headline(result), loc="left", fontsize=11, fontweight="bold", pad=22)
    above = {"xycoords": "axes fraction", "textcoords": "offset points"}
    marks.annotate(_summary(result), (0, 1), xytext=(0, 8), fontsize=9, color=INK, **above)
    return figure


def _headline(result: ReplayResult) -> str:
    return f"Retrained while serving, against the model frozen on {result.weeks[0]['start'][:10]}"


def _summary(result: ReplayResult) -> str:
    found = result.comparison
    interval = f"[{found.low:+.4f}, {found.high:+.4f}]"
    return f"log-loss {found.difference:+.4f}, 95 % CI {interval}, on the same {INSTANCES}"


def _draw_events(axes: Axes, events: Sequence[Event], lanes: list[Kind]) -> None:
    for height, kind in enumerate(reversed(lanes)):
        mark, colour, _ = LANES[kind]
        axes.axhline(height, color=GRID, linewidth=0.8, zorder=0)
        marks = sorted(
            (day_number(event["at"]), event["label"]) for event in events if event["kind"] == kind
        )
        days = [day for day, _ in marks]
        for day, until in _shadow_periods(events) if kind == "retrain" else ():
            axes.plot([day, until], [height] * 2, color=colour, linewidth=2.5, alpha=0.4)
        axes.scatter(days, [height] * len(days), marker=mark, s=34, color=colour, linewidths=0)
        for (day, label), following in zip(marks, [*days[1:], np.inf], strict=True):
            if following - day > LETTER * (len(label) + 3) * np.ptp(axes.get_xlim()):
                axes.text(day, height, f"   {label}", va="center", fontsize=7.5, color=colour)
    axes.set_yticks(range(len(lanes)), [LANES[kind][2] for kind in reversed(lanes)])
    axes.set_ylim(-0.6, max(len(lanes), 1) - 0.4)


def _shadow_periods(events: Sequence[Event]) -> list[tuple[float, float]]:
    """From each training to the gate's result on its model, in days."""
    evaluated = {
        e["label"]: day_number(e["at"]) for e in events if e["kind"] in ("promoted", "rejected")
    }
    return [
        (day_number(e["at"]), evaluated[e["label"]])
        for e in events
        if e["kind"] == "retrain" and e["label"] in evaluated
    ]


def _draw_log_loss(axes: Axes, day: np.ndarray, weeks: Sequence[Week]) -> None:
    serving, frozen = _values(weeks, "serving_log_loss"), _values(weeks, "frozen_log_loss")
    for where, colour in ((serving <= frozen, BETTER), (serving > frozen, WORSE)):
        axes.fill_between(
            day, serving, frozen, where=where, color=colour, alpha=0.25, lw=0, interpolate=True
        )
    _draw_pair(axes, day, serving, frozen)
    _title(axes, "log-loss per week, nats (lower is better)")
    axes.legend(loc="lower right", ncols=2, frameon=False, fontsize=8, bbox_to_anchor=(1, 0.98))


def _draw_pair(axes: Axes, day: np.ndarray, serving: np.ndarray, frozen: np.ndarray) -> None:
    axes.plot(day, frozen, color=FROZEN, marker="o", markersize=3, lw=1.4, label="frozen")
    axes.plot(day, serving, color=SERVING, marker="o", markersize=3.6, lw=2, label="serving")


def _draw_difference(axes: Axes, day: np.ndarray, weeks: Sequence[Week]) -> None:
    reduction = _values(weeks, "frozen_log_loss") - _values(weeks, "serving_log_loss")
    colours = np.where(reduction >= 0, BETTER, WORSE)
    axes.bar(day, reduction, width=0.7 * WEEK, color=colours, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    _title(axes, "log-loss reduction: frozen minus serving, nats")


def _draw_calibration(axes: Axes, day: np.ndarray, weeks: Sequence[Week]) -> None:
    _draw_pair(axes, day, _values(weeks, "serving_gap"), _values(weeks, "frozen_gap"))
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda bias, _: f"{100 * bias:+.0f}" if bias else "0")
    )
    _title(axes, "calibration bias: mean prediction minus positive rate, percentage points")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=8.5, color=INK, pad=4)


def _style(axes: Sequence[Axes], starts: np.ndarray) -> None:
    for panel in axes:
        panel.spines[:].set_visible(False)
        panel.tick_params(which="both", length=0, labelsize=8, labelcolor=INK)
    for panel in axes[1:]:
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.yaxis.set_major_locator(MaxNLocator(5))
        panel.margins(y=0.12)
    axes[0].set_xlim(starts[0] - 0.15 * WEEK, starts[-1] + 1.15 * WEEK)
    shown = starts[:: 1 + len(starts) // 9]
    axes[-1].set_xticks(shown, [f"{EPOCH + timedelta(days=day):%-d %b %Y}" for day in shown])


def _values(weeks: Sequence[Week], score: Score) -> np.ndarray:
    """Float64 [weeks]; an unknown score is NaN, a gap in the line."""
    return np.array([week[score] for week in weeks], dtype=np.float64)


def day_number(time: str) -> float:
    """Days since the epoch, the x axis of the pictures, of an ISO 8601 time."""
    return (datetime.fromisoformat(time) - EPOCH) / timedelta(days=1)


def page(result: ReplayResult) -> str:
    scores = dict.fromkeys(get_args(Score), "float64")  # also where every week is unknown
    weeks = pd.DataFrame(result.weeks).astype(scores)
    weeks["start"] = weeks["start"].str[:10]
    weeks.insert(6, "difference", weeks.serving_log_loss - weeks.frozen_log_loss)
    weeks = weeks.rename(columns=lambda name: name.replace("gap", "calibration bias"))
    events = pd.DataFrame(result.events, columns=["at", "kind", "label", "reason"])
    events["kind"] = [LANES[kind][2] for kind in events["kind"]]
    return PAGE.format(
        title=escape(_headline(result)),
        summary=escape(_summary(result)),
        picture=base64.b64encode(png(result)).decode(),
        weeks=_table(weeks),
        events=_table(events),
    )


def _table(rows: pd.DataFrame) -> str:
    rows = rows.rename(columns=lambda name: name.replace("_", " "))
    return rows.to_html(index=False, border=0, na_rep="unknown", float_format="{:.4f}".format)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 960px; margin: 2em auto; }}
h1 {{ font-size: 1.4em; margin-bottom: 0; }}
img {{ width: 100%; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; margin: 2em 0; }}
th, td {{ padding: .3em .5em; text-align: left; border-bottom: 1px solid #e4e7eb; }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
<img alt="{title}" src="data:image/png;base64,{picture}">
<p>Log-loss in nats, lower is better. Calibration bias: mean prediction minus positive rate. Both
models scored the same logged features. Costs are per 1,000 labelled predictions at the threshold,
in false alarms; always and never are those of deciding alike for every instance.</p>
{weeks}
{events}
</html>
"""
