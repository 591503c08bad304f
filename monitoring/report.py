"""The picture of a replay: what serving with retraining was worth against the frozen model.

`png` is the picture, `page` a self-contained HTML page with the same picture and the numbers behind
it, `write_report` writes both; all from one JSON-able `Replay`.

Both models scored the same logged features, so each week's difference is paired. It has a panel of
its own: log-loss moves by .3 nats with the weather, the models differ by a tenth of that.
"""

import base64
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

Kind = Literal["drift", "retrain", "refused", "promoted", "rollback"]
_Figure = Literal["serving_log_loss", "frozen_log_loss", "serving_gap", "frozen_gap"]


class Week(TypedDict):
    """Figures of the flights asked about in one week; None where no outcome is known."""

    start: str  # ISO 8601, inclusive
    champion: str  # versions that answered, "1" or "1, 2"
    predictions: int
    label_coverage: float | None
    serving_log_loss: float | None  # nats
    frozen_log_loss: float | None
    serving_gap: float | None  # mean prediction minus late share
    frozen_gap: float | None


class Event(TypedDict):
    at: str  # ISO 8601
    kind: Kind
    label: str  # what stands at the mark, "v2"; may be empty
    reason: NotRequired[str]  # for the page


class Worth(TypedDict):
    """Serving minus frozen log-loss on all labelled flights: below zero serving is better."""

    difference: float
    low: float
    high: float


class Replay(TypedDict):
    weeks: list[Week]
    events: list[Event]
    worth: NotRequired[Worth]


class ReportError(ValueError):
    """The replay given cannot be drawn."""


SERVING, FROZEN, INK, GRID = "#0b5fa5", "#d1495b", "#333333", "#e4e7eb"
BETTER, WORSE = "#2f8f5b", "#d1495b"
# One lane a kind, in the order things happen: mark, colour, name.
LANES: dict[Kind, tuple[str, str, str]] = {
    "drift": ("^", "#e08a00", "drift called"),
    "retrain": ("o", "#6b7280", "retrained"),
    "refused": ("X", "#d1495b", "refused"),
    "promoted": ("D", "#2f8f5b", "promoted"),
    "rollback": ("<", "#7a5195", "rolled back"),
}
WIDTH_IN, DPI, LETTER = (
    9.0,
    200,
    0.007,
)  # shown at half size: 900 px wide in a README, sharp on any screen; a letter is .7% wide
EPOCH, WEEK = datetime(1970, 1, 1, tzinfo=UTC), 7.0  # time is drawn in days


def write_report(replay: Replay, folder: Path) -> tuple[Path, Path]:
    """`replay.png` and `replay.html` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, html = folder / "replay.png", folder / "replay.html"
    picture.write_bytes(png(replay))
    html.write_text(page(replay), encoding="utf-8")
    return picture, html


def png(replay: Replay) -> bytes:
    buffer = BytesIO()
    draw(replay).savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def draw(replay: Replay) -> Figure:
    _check(replay)
    weeks, events = replay["weeks"], replay["events"]
    lanes = [kind for kind in LANES if kind in {event["kind"] for event in events}]
    strip = 0.24 * max(len(lanes), 1)
    figure = Figure(figsize=(WIDTH_IN, 5.6 + strip), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    marks, *panels = figure.subplots(4, 1, sharex=True, height_ratios=(strip, 2.2, 1.0, 1.4))
    starts = np.array([_day(week["start"]) for week in weeks])
    serving, frozen = _values(weeks, "serving_log_loss"), _values(weeks, "frozen_log_loss")
    _style([marks, *panels], starts)
    _draw_events(marks, events, lanes)
    _draw_log_loss(panels[0], starts + WEEK / 2, serving, frozen)
    _draw_worth(panels[1], starts + WEEK / 2, frozen - serving)
    _draw_calibration(panels[2], starts + WEEK / 2, weeks)
    for panel in panels:
        _mark_swaps(panel, events)
    marks.set_title(_headline(replay), loc="left", fontsize=11, fontweight="bold", pad=22)
    above = {"xycoords": "axes fraction", "textcoords": "offset points"}
    marks.annotate(_verdict(replay), (0, 1), xytext=(0, 8), fontsize=9, color=INK, **above)
    return figure


def _check(replay: Replay) -> None:
    if not replay["weeks"]:
        raise ReportError("a report shows at least one week; got none: replay at least seven days")
    if strange := sorted({event["kind"] for event in replay["events"]} - set(LANES)):
        raise ReportError(f"an event is one of {', '.join(LANES)}; got {strange}")


def _headline(replay: Replay) -> str:
    frozen_on = replay["weeks"][0]["start"][:10]
    return f"Retrained while serving, against the model frozen on {frozen_on}"


def _verdict(replay: Replay) -> str:
    if "worth" not in replay:
        return ""
    worth = replay["worth"]
    interval = f"[{worth['low']:+.4f}, {worth['high']:+.4f}]"
    return f"log-loss {worth['difference']:+.4f}, 95% interval {interval}, on the same flights"


def _draw_events(axes: Axes, events: Sequence[Event], lanes: list[Kind]) -> None:
    for height, kind in enumerate(reversed(lanes)):
        mark, colour, _ = LANES[kind]
        axes.axhline(height, color=GRID, linewidth=0.8, zorder=0)
        happened = sorted(
            (_day(event["at"]), event["label"]) for event in events if event["kind"] == kind
        )
        days = [day for day, _ in happened]
        axes.scatter(days, [height] * len(days), marker=mark, s=34, color=colour, linewidths=0)
        for (day, label), following in zip(happened, [*days[1:], np.inf], strict=True):
            if following - day > LETTER * (len(label) + 3) * np.ptp(axes.get_xlim()):
                axes.text(day, height, f"   {label}", va="center", fontsize=7.5, color=colour)
    axes.set_yticks(range(len(lanes)), [LANES[kind][2] for kind in reversed(lanes)])
    axes.set_ylim(-0.6, max(len(lanes), 1) - 0.4)


def _draw_log_loss(axes: Axes, day: np.ndarray, serving: np.ndarray, frozen: np.ndarray) -> None:
    for where, colour in ((serving <= frozen, BETTER), (serving > frozen, WORSE)):
        axes.fill_between(
            day, serving, frozen, where=where, color=colour, alpha=0.25, lw=0, interpolate=True
        )
    _draw_pair(axes, day, serving, frozen)
    _title(axes, "log-loss a week, nats (lower is better)")
    axes.legend(loc="lower right", ncols=2, frameon=False, fontsize=8, bbox_to_anchor=(1, 0.98))


def _draw_pair(axes: Axes, day: np.ndarray, serving: np.ndarray, frozen: np.ndarray) -> None:
    axes.plot(day, frozen, color=FROZEN, marker="o", markersize=3, lw=1.4, label="frozen")
    axes.plot(day, serving, color=SERVING, marker="o", markersize=3.6, lw=2, label="serving")


def _draw_worth(axes: Axes, day: np.ndarray, gain: np.ndarray) -> None:
    axes.bar(day, gain, width=0.7 * WEEK, color=np.where(gain >= 0, BETTER, WORSE), linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    _title(axes, "what retraining was worth: frozen minus serving, nats")


def _draw_calibration(axes: Axes, day: np.ndarray, weeks: Sequence[Week]) -> None:
    _draw_pair(axes, day, _values(weeks, "serving_gap"), _values(weeks, "frozen_gap"))
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda share, _: f"{100 * share:+.0f}" if share else "0")
    )
    _title(axes, "calibration: mean prediction minus late share, percentage points")


def _mark_swaps(axes: Axes, events: Sequence[Event]) -> None:
    """Where the serving version changed."""
    for event in events:
        if event["kind"] in ("promoted", "rollback"):
            colour = LANES[event["kind"]][1]
            axes.axvline(_day(event["at"]), color=colour, linewidth=0.9, alpha=0.55, zorder=0)


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
    axes[-1].set_xticks(starts, minor=True)
    shown = starts[:: 1 + len(starts) // 9]
    axes[-1].set_xticks(shown, [f"{EPOCH + timedelta(days=day):%-d %b %Y}" for day in shown])


def _values(weeks: Sequence[Week], figure: _Figure) -> np.ndarray:
    """An unknown figure is a gap in the line."""
    known = [np.nan if week[figure] is None else week[figure] for week in weeks]
    return np.array(known, dtype=np.float64)


def _day(text: str) -> float:
    return (_moment(text) - EPOCH) / timedelta(days=1)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def page(replay: Replay) -> str:
    return _PAGE.format(
        title=escape(_headline(replay)),
        verdict=escape(_verdict(replay)),
        picture=base64.b64encode(png(replay)).decode(),
        weeks=_table(_WEEK_HEAD, map(_week_cells, replay["weeks"])),
        events=_table(_EVENT_HEAD, map(_event_cells, replay["events"])),
    )


_WEEK_HEAD = (
    *("week from", "champion", "predictions", "labels known", "serving log-loss"),
    *("frozen log-loss", "difference", "serving gap", "frozen gap"),
)
_EVENT_HEAD = ("when (UTC)", "what", "model", "why")


def _week_cells(week: Week) -> tuple[str, ...]:
    serving, frozen = week["serving_log_loss"], week["frozen_log_loss"]
    return (
        f"{_moment(week['start']).date()}",
        week["champion"],
        f"{week['predictions']:,}",
        _number(week["label_coverage"], ".1%"),
        _number(serving, ".4f"),
        _number(frozen, ".4f"),
        _number(None if serving is None or frozen is None else serving - frozen, "+.4f"),
        _number(week["serving_gap"], "+.3f"),
        _number(week["frozen_gap"], "+.3f"),
    )


def _event_cells(event: Event) -> tuple[str, ...]:
    when = f"{_moment(event['at']).astimezone(UTC):%Y-%m-%d %H:%M}"
    return (when, LANES[event["kind"]][2], event["label"], event.get("reason", ""))


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([_row(head, "th"), *(_row(cells, "td") for cells in rows)])


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 960px; margin: 2em auto; }}
h1 {{ font-size: 1.4em; margin-bottom: 0; }}
img {{ width: 100%; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; margin: 2em 0; }}
th, td {{ padding: .3em .5em; text-align: right; border-bottom: 1px solid #e4e7eb; }}
th:first-child, td:first-child, .events th, .events td {{ text-align: left; }}
</style>
<h1>{title}</h1>
<p>{verdict}</p>
<img alt="{title}" src="data:image/png;base64,{picture}">
<p>Log-loss in nats, lower is better. Gap: mean prediction minus late share. Both models scored the
same logged features.</p>
<table>{weeks}</table>
<table class="events">{events}</table>
</html>
"""
