"""Checks of one day's traffic: do features arrive, are they in their unit, do labels arrive?

They need no label and no week of rows, so that a broken feed is noticed within a day. The
reference is the sample of training rows that drift is measured against, so that a source that was
never there is no finding. `make drills` measures the false alarms.

- A unit is recognised by its spread: the standard deviation of the day, divided by that of the
  reference. Calm days and storms stay within a factor of 17; minutes that became hours do not, nor
  do shares that became percent. Miles that became kilometres are too close to be seen.
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
    spread: dict[str, float]  # stored feature -> its spread divided by that in training
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
        spread=spreads(rows, reference) if enough else {},
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


def spreads(rows: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """Standard deviation of each stored feature divided by that of the reference."""
    names = [name for view in VIEWS for name in view.inputs]
    usual = reference[names]
    varied = (usual == usual.median()).mean() < 0.5
    ratio = rows[names].astype(np.float64).std() / usual.astype(np.float64).std()
    ratio = ratio[varied & np.isfinite(ratio) & (ratio > 0)]
    return {str(name): float(value) for name, value in ratio.items()}


def factor(ratio: float) -> float:
    """How many times wider or narrower."""
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
    changed = {name: ratio for name, ratio in widest(checks.spread) if factor(ratio) > UNIT_FACTOR}
    if changed:
        name, ratio = next(iter(changed.items()))
        text = (
            f"{len(changed)} features have another unit than in training, by their spread: {name} "
            f"varies {factor(ratio):.0f} times {'more' if ratio > 1 else 'less'}; limit "
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


def widest(spread: dict[str, float]) -> list[tuple[str, float]]:
    """Feature and ratio, the one that changed most first."""
    return sorted(spread.items(), key=lambda item: -factor(item[1]))
