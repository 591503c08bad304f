"""Training rejects rules of the gate and of monitoring that the traffic can never satisfy."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from monitoring.retrain_policy import SHADOW_PERIOD, WINDOW, UnsatisfiableRule
from ontime.data.splits import TEST, Split, split_by_time
from ontime.problem import MIN_GATE_INSTANCES, MIN_MONITORING_DAYS, MIN_MONITORING_LABELS
from pipelines import train as training_flow

AS_OF = datetime(2020, 6, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _days_of_the_prediction_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The days of these rows, which have no request fields."""

    def utc_day(rows: pd.DataFrame) -> np.ndarray:
        return rows.event_timestamp.to_numpy(dtype="datetime64[D]")

    monkeypatch.setattr(training_flow, "local_day", utc_day)


def traffic(per_day: int, days: float = 60) -> Split:
    """Evenly spaced instances before AS_OF, each with its outcome known an hour later."""
    spacing = timedelta(days=1) / per_day
    times = pd.date_range(end=AS_OF - timedelta(hours=2), periods=int(days * per_day), freq=spacing)
    known_at = times + timedelta(hours=1)
    return split_by_time(
        pd.DataFrame({"event_timestamp": times, "outcome_known_at": known_at, "due_at": known_at}),
        AS_OF,
    )


def enough(minimum: int, period: timedelta) -> int:
    """Instances per day that reach the minimum in the period, with a margin of a day."""
    return minimum // (period.days - 1) + 1


def test_enough_traffic_is_accepted() -> None:
    gate = max(enough(MIN_GATE_INSTANCES, period) for period in (TEST, SHADOW_PERIOD))
    per_day = max(enough(MIN_MONITORING_LABELS, WINDOW), gate)
    training_flow.check_traffic(traffic(per_day), AS_OF)


def test_too_few_labels_for_monitoring_are_an_error() -> None:
    per_day = max(1, MIN_MONITORING_LABELS // WINDOW.days - 1)
    with pytest.raises(UnsatisfiableRule, match=f"needs {MIN_MONITORING_LABELS:,} labels"):
        training_flow.check_traffic(traffic(per_day), AS_OF)


def test_too_few_test_rows_for_the_gate_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    split = traffic(enough(MIN_MONITORING_LABELS, WINDOW))
    assert WINDOW.days > MIN_MONITORING_DAYS
    monkeypatch.setattr(training_flow, "MIN_GATE_INSTANCES", len(split.test) + 1)
    with pytest.raises(UnsatisfiableRule, match=f"the gate needs {len(split.test) + 1:,}"):
        training_flow.check_traffic(split, AS_OF)


def test_too_little_traffic_in_shadow_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    split = traffic(max(40, enough(MIN_MONITORING_LABELS, WINDOW)))
    split = Split.of(split.train, pd.concat([split.validation, split.test]), split.test[:0])
    monkeypatch.setattr(training_flow, "MIN_GATE_INSTANCES", 1_000_000)
    with pytest.raises(UnsatisfiableRule, match="the shadow period has"):
        training_flow.check_traffic(split, AS_OF)
