"""Checks of one day's traffic: do features arrive, are they in their unit, do labels arrive?

They need no label and no week of rows, so that a broken feed is noticed within a day. The
reference is the sample of training rows that drift is measured against, so that a source that was
never there is no finding. `make drills` measures the false alarms.

- A unit is recognised by its scale: spread and size (mean absolute value) of the day, both divided
  by those of the reference. A rate on calm days has little spread, and its usual size. Minutes that
  became hours change both, and shares that became percent; miles that became kilometres are too
  close to be seen.
- A value that is nearly always the same has no spread to compare: a column is left out if more than
  half of the reference has one value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from monitoring.reason import Reason
from ontime.problem import VIEWS

PERIOD = timedelta(days=1)
MIN_PREDICTIONS = 50  # with fewer, a day is not checked
MISSING_LIMIT = 0.25  # share of the predictions above that in training
UNIT_FACTOR = 25.0
MIN_LABELS_KNOWN = 0.9  # share of the labels that became due on the day


@dataclass(frozen=True)
class InputChecks:
    """What was found in the last day, whether or not it breaks a limit."""

    n_predictions: int
    missing: dict[str, float]  # view -> share of predictions without it, minus that in training
    scale: dict[str, float]  # stored feature -> its scale divided by that in training
    label_coverage: float | None  # of the predictions that became due on the day


def check_inputs(served: pd.DataFrame, reference: pd.DataFrame, now: datetime) -> InputChecks:
    """Check the predictions of the day before ``now``, whichever version served them.

    Args:
        served: rows of `PredictionLog.monitored` with the labels known at ``now``.
        reference: training rows of the champion.
    """
    rows = served[served.as_of >= now - PERIOD]
    due = served[(served.due_at > now - PERIOD) & (served.due_at <= now)]
    enough = len(rows) >= MIN_PREDICTIONS
    return InputChecks(
        n_predictions=len(rows),
        missing=missing_views(rows, reference) if enough else {},
        scale=scales(rows, reference) if enough else {},
        label_coverage=float(due.label.notna().mean()) if len(due) >= MIN_PREDICTIONS else None,
    )


def missing_views(rows: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """Share of the rows in which every feature of a view is missing or stale, minus reference."""

    def share(frame: pd.DataFrame, columns: list[str]) -> float:
        return float(frame[columns].isna().all(axis=1).mean())

    return {
        view.name: share(rows, list(view.inputs)) - share(reference, list(view.inputs))
        for view in VIEWS
    }


def scales(rows: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """The scale of each stored feature divided by that of the reference.

    Of the ratios of the spread (standard deviation) and of the size (mean absolute value) it is the
    one that is closer to 1; 1 if one grew and the other shrank.
    """
    names = [name for view in VIEWS for name in view.inputs]
    new, usual = (frame[names].astype(np.float64) for frame in (rows, reference))
    varied = (usual == usual.median()).mean() < 0.5
    spread, size = new.std() / usual.std(), new.abs().mean() / usual.abs().mean()
    known = varied & np.isfinite(spread) & np.isfinite(size) & (spread > 0) & (size > 0)
    logs = np.log(spread[known]), np.log(size[known])
    closer = np.minimum(*map(np.abs, logs)) * np.sign(logs[0])
    closer[np.sign(logs[0]) != np.sign(logs[1])] = 0.0
    return {str(name): float(value) for name, value in np.exp(closer).items()}


def factor(ratio: float) -> float:
    """How many times larger or smaller."""
    return max(ratio, 1 / ratio)


def broken_feeds(checks: InputChecks) -> Iterator[Reason]:
    """What the checks of the last day found beyond their limits."""
    for view, share in checks.missing.items():
        if share > MISSING_LIMIT:
            text = (
                f"{view} is missing or stale in {share:.0%} more of the last day's predictions "
                f"than in training; limit {MISSING_LIMIT:.0%}"
            )
            yield Reason("view_missing", share, MISSING_LIMIT, text)
    changed = {name: ratio for name, ratio in furthest(checks.scale) if factor(ratio) > UNIT_FACTOR}
    if changed:
        name, ratio = next(iter(changed.items()))
        text = (
            f"{len(changed)} features have another unit than in training, by their scale: {name} "
            f"is {factor(ratio):.0f} times {'larger' if ratio > 1 else 'smaller'}; limit "
            f"{UNIT_FACTOR:g}"
        )
        yield Reason("unit_changed", factor(ratio), UNIT_FACTOR, text)
    coverage = checks.label_coverage
    if coverage is not None and coverage < MIN_LABELS_KNOWN:
        text = (
            f"{coverage:.1%} of the labels that became due in the last day are known; at least "
            f"{MIN_LABELS_KNOWN:.0%} are expected"
        )
        yield Reason("labels_stopped", coverage, MIN_LABELS_KNOWN, text)


def furthest(scale: dict[str, float]) -> list[tuple[str, float]]:
    """Feature and ratio, the one that changed most first."""
    return sorted(scale.items(), key=lambda item: -factor(item[1]))
