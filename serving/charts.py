"""Coordinates of the pages' charts; ``templates/charts.html`` draws them as SVG.

Drawn on the server: the pages' content security policy allows no style attribute, a chart is there
without JavaScript, and the static site has the same picture.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from serving.schemas import Contribution

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 28
SQUARE = 300

# One value of a series: time, value, and its interval if it has one.
Point = tuple[datetime, float, float | None, float | None]


def line_chart(series: Mapping[str, Sequence[Point]], limits: Iterable[float] = ()) -> Any:
    """Lines over time with intervals; `limits` are horizontal lines. None without a point."""
    points = [point for line in series.values() for point in line]
    if not points:
        return None
    limits = tuple(limits)
    values = [v for point in points for v in point[1:] if v is not None] + [*limits]
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or 0.01
    low, high = low - margin, high + margin
    times = [point[0].timestamp() for point in points]
    first, last = min(times), max(times)

    def x(moment: datetime) -> float:
        share = (moment.timestamp() - first) / (last - first) if last > first else 0.5
        return round(LEFT + 10 + share * (WIDTH - LEFT - RIGHT - 20), 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    lines = [
        {
            "name": name,
            "path": " ".join(f"{x(at)},{y(value)}" for at, value, *_ in line),
            "dots": [(x(at), y(value)) for at, value, *_ in line],
            "whiskers": [(x(p[0]), y(p[2]), y(p[3])) for p in line if p[2] is not None and p[3]],
        }
        for name, line in series.items()
    ]
    moments = sorted({point[0] for point in points})
    every = max(1, len(moments) // 6)
    return {
        "lines": lines,
        "x_ticks": [(x(at), f"{at:%-d %b}") for at in moments[::every]],
        "y_ticks": [(y(v), f"{v:.3g}") for v in _ticks(low, high)],
        "limits": [y(value) for value in limits],
    }


def reliability_chart(bins: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """One dot per bin: mean prediction to the right, positive rate up, area by rows."""
    most = max((row["n"] for row in bins), default=1)
    return [
        {
            "x": round(row["predicted"] * SQUARE, 1),
            "y": round((1 - row["happened"]) * SQUARE, 1),
            "r": round(3 + 9 * (row["n"] / most) ** 0.5, 1),
        }
        for row in bins
    ]


def waterfall(reference: float, contributions: Sequence[Contribution]) -> dict[str, Any]:
    """Bars that add up: each starts where the one before ends. In thousandths of the width."""
    edges = [reference]
    for each in contributions:
        edges.append(edges[-1] + each.contribution)
    low, high = min(0.0, *edges), max(*edges, 0.01)

    def x(value: float) -> float:
        return round((value - low) / (high - low) * 1000, 1)

    bars = [
        {
            "group": each.group,
            "contribution": each.contribution,
            "inputs": each.inputs,
            "events": _events(each),
            "x": x(min(start, end)),
            "width": max(round(abs(x(end) - x(start)), 1), 1.5),
        }
        for each, start, end in zip(contributions, edges[:-1], edges[1:], strict=True)
    ]
    return {
        "bars": bars,
        "reference": reference,
        "total": edges[-1],
        "start": x(reference),
        "end": x(edges[-1]),
    }


def _events(sequence: Contribution) -> list[dict[str, Any]]:
    """Of a sequence, each event that is there: the attention to it, and its inputs by name."""
    if not (n := len(sequence.attention)):
        return []
    named = list(sequence.inputs.items())
    width = len(named) // n
    events = []
    for i, attention in enumerate(sequence.attention):
        part = named[i * width : (i + 1) * width]
        inputs = {name.removeprefix(f"{sequence.group}_{i + 1}_"): value for name, value in part}
        if next(iter(inputs.values())) is not None:
            events.append({"attention": attention, "inputs": inputs})
    return events


def timeline(
    changes: Sequence[Mapping[str, Any]], decisions: Sequence[Mapping[str, Any]], end: datetime
) -> dict[str, Any] | None:
    """Which version was champion when, on the clock of as_of; decisions and canaries as marks."""
    moments = [c["as_of"] for c in changes] + [d["decided_at"] for d in decisions]
    if not moments:
        return None
    first, last = min(moments), max([*moments, end])
    span = (last - first).total_seconds() or 1.0

    def x(moment: datetime) -> float:
        return round(LEFT + (moment - first).total_seconds() / span * (WIDTH - LEFT - RIGHT), 1)

    champions = [change for change in changes if change["kind"] != "canary"]
    ends = [change["as_of"] for change in champions[1:]] + [last]
    periods = [
        {"version": c["version"], "kind": c["kind"], "x": x(c["as_of"]),
         "width": round(max(x(until) - x(c["as_of"]), 2.0), 1)}
        for c, until in zip(champions, ends, strict=False)
    ]  # fmt: skip
    marks = [
        {"x": x(d["decided_at"]), "kind": d["result"] or d["action"], "at": d["decided_at"]}
        for d in decisions
    ] + [
        {"x": x(c["as_of"]), "kind": "canary", "at": c["as_of"]}
        for c in changes
        if c["kind"] == "canary"
    ]
    months = [first + (last - first) * i / 4 for i in range(5)]
    return {"periods": periods, "marks": marks, "ticks": [(x(m), f"{m:%-d %b}") for m in months]}


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers between two values."""
    step = 10.0**-9
    while (high - low) / step > 5:
        step *= 2.5 if f"{step:.0e}"[0] == "2" else 2
    first = int(low / step) - 1
    return [v for v in ((first + i) * step for i in range(9)) if low <= v <= high]
