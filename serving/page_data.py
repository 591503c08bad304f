"""What the pages show of the prediction log: read-only queries, each bounded, over indexed columns.

Every result is cached for a second or more and computed by one thread at a time, so that visitors
hold one connection to the database, however many they are.
"""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from sqlalchemy import Integer as SqlInteger
from sqlalchemy import Select, and_, case, cast, func, select

from ontime.problem import BOARD_WINDOW, SLICES, board_row
from ontime.storage.prediction_log import TIME_FIELDS, PredictionLog
from ontime.storage.schema import (
    CHAMPION_CHANGES,
    DECISIONS,
    FEATURE_SETS,
    OUTCOMES,
    PREDICTIONS,
    SERVING_HISTORY,
)

BOARD_ROWS = 250
RECENT_OUTCOMES = 16
DAY = timedelta(days=1)
CALIBRATION_WINDOW = 28 * DAY
CALIBRATION_BINS = 10
SLICES_WINDOW = 7 * DAY
SLICE_ROWS = 6_000
HISTORY_ROWS = 100
BOARD_S, LOOP_S = 1.0, 60.0  # how long a result is shown
MAX_CACHED = 64
MAX_STREAMS = 32  # server-sent events of a process; a visitor beyond them polls

Value = TypeVar("Value")


@dataclass
class TimedCache:
    """Values that are computed again after some seconds; one computation at a time."""

    _values: dict[Hashable, tuple[float, Any]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)  # a page needs its data

    def fresh(self, key: Hashable) -> Any:
        """The value if it need not be computed, else None; never waits for a computation."""
        until, value = self._values.get(key, (0.0, None))
        return value if monotonic() < until else None

    def get(self, key: Hashable, seconds: float, compute: Callable[[], Value]) -> Value:
        with self._lock:
            until, kept = self._values.get(key, (0.0, None))
            value: Value = compute() if monotonic() >= until else kept
            if monotonic() >= until:
                while len(self._values) >= MAX_CACHED:
                    self._values.pop(next(iter(self._values)))
                self._values[key] = monotonic() + seconds, value
            return value


@dataclass(frozen=True)
class PageData:
    """Reads the log for the pages. Methods raise `PredictionLogUnavailable`."""

    log: PredictionLog
    cache: TimedCache = field(default_factory=TimedCache)
    streams: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_STREAMS))
    explanations: TimedCache = field(default_factory=TimedCache)  # a second of one core each

    def clock(self) -> datetime | None:
        """The newest prediction time in the log, which is the replay's clock."""
        query = select(func.max(PREDICTIONS.c.as_of).label("clock"))
        newest: datetime | None = self.cache.get(
            "clock", BOARD_S, lambda: self.log.rows(query)[0]["clock"]
        )
        return newest

    def board(self, clock: datetime) -> dict[str, Any]:
        """The instances around a moment, as it was known then: ahead, outcomes, the last day."""
        return self.cache.get(("board", clock), BOARD_S, lambda: self._board(clock))

    def instance(self, instance_id: str) -> list[dict[str, Any]]:
        """The newest predictions of an instance, newest first, each with `values`: name -> value"""
        query = _with_outcomes(PREDICTIONS).where(PREDICTIONS.c.instance_id == instance_id)
        return self._with_values(query.order_by(PREDICTIONS.c.predicted_at.desc()).limit(5))

    def prediction(self, prediction_id: str) -> dict[str, Any] | None:
        """One logged prediction with `values`, or None."""
        query = select(PREDICTIONS).where(PREDICTIONS.c.prediction_id == prediction_id)
        return next(iter(self._with_values(query)), None)

    def _with_values(self, query: Select[Any]) -> list[dict[str, Any]]:
        rows = self.log.rows(query)
        known = FEATURE_SETS.c.feature_set.in_({row["feature_set"] for row in rows})
        sets = self.log.rows(select(FEATURE_SETS).where(known)) if rows else []
        names = {row["feature_set"]: row["names"] for row in sets}
        for row in rows:
            row["values"] = dict(zip(names[row["feature_set"]], row["features"], strict=True))
        return rows

    def history(self) -> dict[str, list[dict[str, Any]]]:
        """Deployments, changes of the champion and decisions, oldest first."""
        return self.cache.get("history", BOARD_S, self._history)

    def calibration(self, clock: datetime) -> list[dict[str, float]]:
        """Mean prediction and positive rate in ten bins of the probability, of four weeks."""
        return self.cache.get("calibration", LOOP_S, lambda: self._calibration(clock))

    def slices(self, clock: datetime) -> list[dict[str, Any]]:
        """Mean prediction and positive rate of each slice, of the last week."""
        return self.cache.get("slices", LOOP_S, lambda: self._slices(clock))

    def rate_per_second(self, now: datetime) -> float:
        """Predictions per second of the last minute of the wall clock."""
        since = now - timedelta(minutes=1)
        query = select(func.count().label("n")).where(PREDICTIONS.c.predicted_at > since)
        n: int = self.cache.get("rate", BOARD_S, lambda: self.log.rows(query)[0]["n"])
        return n / 60

    def _board(self, clock: datetime) -> dict[str, Any]:
        columns = [c for c in PREDICTIONS.c if c.name not in ("features", "request_digest")]
        query = _with_outcomes(*columns, known_by=clock)
        ahead = query.where(
            PREDICTIONS.c.as_of > clock - BOARD_WINDOW, PREDICTIONS.c.as_of <= clock
        )
        newest = ahead.order_by(PREDICTIONS.c.as_of.desc(), PREDICTIONS.c.predicted_at.desc())
        rows = {
            row["instance_id"]: row for row in reversed(self.log.rows(newest.limit(BOARD_ROWS)))
        }
        of_day = (PREDICTIONS.c.as_of > clock - DAY, PREDICTIONS.c.as_of <= clock)
        known = query.where(*of_day, OUTCOMES.c.known_at.is_not(None))
        recent = known.order_by(OUTCOMES.c.known_at.desc(), PREDICTIONS.c.instance_id)
        return {
            "clock": clock,
            "ahead": sorted(_shown(rows.values()), key=lambda row: row["row"].moment),
            "outcomes": _shown(self.log.rows(recent.limit(RECENT_OUTCOMES))),
            "day": self._totals(clock, of_day),
        }

    def _totals(self, clock: datetime, period: tuple[Any, Any]) -> dict[str, Any]:
        label = cast(OUTCOMES.c.label, SqlInteger)
        right = case((OUTCOMES.c.label == PREDICTIONS.c.decision, 1), else_=0)
        query = (
            select(
                func.count().label("n"),
                func.avg(PREDICTIONS.c.probability).label("predicted"),
                func.avg(label * 1.0).label("happened"),
                func.avg(right * 1.0).label("right"),
            )
            .join_from(PREDICTIONS, OUTCOMES, _outcome_known(clock))
            .where(*period)
        )
        return self.log.rows(query)[0]

    def _history(self) -> dict[str, list[dict[str, Any]]]:
        newest = {
            "deployments": (SERVING_HISTORY, SERVING_HISTORY.c.id),
            "changes": (CHAMPION_CHANGES, CHAMPION_CHANGES.c.number),
            "decisions": (DECISIONS, DECISIONS.c.decided_at),
        }
        return {
            name: self.log.rows(select(table).order_by(order.desc()).limit(HISTORY_ROWS))[::-1]
            for name, (table, order) in newest.items()
        }

    def _calibration(self, clock: datetime) -> list[dict[str, float]]:
        label = cast(OUTCOMES.c.label, SqlInteger)
        tenths = PREDICTIONS.c.probability * CALIBRATION_BINS - 0.5  # rounds down on each database
        bin_number = func.round(tenths).label("bin")
        query = (
            select(
                bin_number,
                func.count().label("n"),
                func.avg(PREDICTIONS.c.probability).label("predicted"),
                func.avg(label * 1.0).label("happened"),
            )
            .join_from(PREDICTIONS, OUTCOMES, _outcome_known(clock))
            .where(*_due(clock, CALIBRATION_WINDOW))
            .group_by(bin_number)
            .order_by(bin_number)
        )
        return self.log.rows(query)

    def _slices(self, clock: datetime) -> list[dict[str, Any]]:
        columns = (*PREDICTIONS.c["instance", "probability"], OUTCOMES.c.label)
        query = select(*columns).join_from(PREDICTIONS, OUTCOMES, _outcome_known(clock))
        newest = query.where(*_due(clock, SLICES_WINDOW)).order_by(PREDICTIONS.c.as_of.desc())
        rows = self.log.rows(newest.limit(SLICE_ROWS))
        if not rows:
            return []
        frame = pd.DataFrame([row["instance"] for row in rows])
        for name in TIME_FIELDS:
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
        scored = pd.DataFrame(rows)[["probability", "label"]].astype(float)
        found = []
        for name, slice_of in SLICES.items():
            for value, part in scored.groupby(np.asarray(slice_of(frame))):
                error = (part.label.mean() * (1 - part.label.mean()) / len(part)) ** 0.5
                found.append(
                    {
                        "slice": name,
                        "value": value,
                        "n": len(part),
                        "predicted": part.probability.mean(),
                        "happened": part.label.mean(),
                        "error": error,
                    }
                )
        return found


def _outcome_known(clock: datetime) -> Any:
    """Join condition: the outcome of a prediction, if it was known by a moment."""
    return and_(OUTCOMES.c.instance_id == PREDICTIONS.c.instance_id, OUTCOMES.c.known_at <= clock)


def _due(clock: datetime, window: timedelta) -> tuple[Any, Any, Any]:
    """Conditions: predicted within a window, and due: slow reports must not be left out."""
    as_of = PREDICTIONS.c.as_of
    return as_of > clock - window, as_of <= clock, PREDICTIONS.c.due_at <= clock


def _with_outcomes(*columns: Any, known_by: datetime | None = None) -> Select[Any]:
    found = OUTCOMES.c.instance_id == PREDICTIONS.c.instance_id
    if known_by is not None:
        found = _outcome_known(known_by)
    outcome = OUTCOMES.c["label", "details", "known_at"]
    return select(*columns, *outcome).outerjoin_from(PREDICTIONS, OUTCOMES, found)


def _shown(rows: Any) -> list[dict[str, Any]]:
    return [row | {"row": board_row(row["instance"])} for row in rows]
