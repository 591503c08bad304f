"""The decision table: every reason to keep and every reason to retrain."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitoring.decision import (
    CALIBRATION_GAP,
    COOLDOWN,
    EXCESS_LOG_LOSS,
    MAX_AGE,
    MIN_COVERAGE,
    MIN_DAYS,
    MIN_LABELS,
    History,
    Signals,
    decide,
)
from monitoring.drift import ColumnDrift, Drift
from monitoring.performance import Estimate, Performance

NOW = datetime(2013, 7, 3, tzinfo=UTC)
FINE = {
    "auc": Estimate(0.77, 0.75, 0.79),
    "log_loss": Estimate(0.48, 0.45, 0.51),
    "calibration_gap": Estimate(0.002, -0.02, 0.024),
    "excess_log_loss": Estimate(0.004, -0.02, 0.03),
}
PERFORMANCE = Performance(
    since="2013-06-05T00:00:00+00:00",
    until="2013-07-02T23:00:00+00:00",
    known_by=NOW.isoformat(),
    n_served=25_000,
    n_due=24_000,
    n_known=23_900,
    n_days=28,
    label_coverage=23_900 / 24_000,
    mean_prediction=0.29,
    late_share=0.288,
    scores=FINE,
    validation={"log_loss": 0.47},
)
SIGNALS = Signals(
    now=NOW, champion="3", trained_through=NOW - timedelta(days=20), performance=PERFORMANCE
)


def seen(signals: Signals = SIGNALS, **changes: object) -> Signals:
    return replace(signals, performance=replace(signals.performance, **changes))  # type: ignore[arg-type]


def scored(name: str, value: float, low: float, high: float) -> Signals:
    return seen(scores=FINE | {name: Estimate(value, low, high)})


def drift(share: float) -> Drift:
    column = ColumnDrift("wasserstein", 0.9, 0.1, True, 0.0, 0.0)
    columns = {f"column_{i}": column for i in range(8)}
    return Drift(share, columns, column, {"gone": "all missing in current rows"}, *[5000] * 4)


NOT_YET = History(last_retrain=NOW - COOLDOWN + timedelta(hours=1))
OFF = scored("calibration_gap", -0.06, -0.10, -0.02)


@pytest.mark.parametrize(
    ("signals", "history", "action", "reason"),
    [
        pytest.param(SIGNALS, History(), "keep", "within limits", id="nothing wrong"),
        pytest.param(
            seen(OFF, n_known=MIN_LABELS - 1), History(), "keep", "too few labels", id="labels"
        ),
        pytest.param(
            seen(OFF, n_days=MIN_DAYS - 1), History(), "keep", "too few labels", id="days"
        ),
        pytest.param(seen(OFF, scores={}), History(), "keep", "too few labels", id="no scores"),
        pytest.param(
            seen(OFF, label_coverage=MIN_COVERAGE - 0.01),
            History(),
            "keep",
            "labels missing",
            id="coverage",
        ),
        pytest.param(OFF, NOT_YET, "keep", "cooldown", id="cooldown"),
        pytest.param(OFF, History(), "retrain", "calibration", id="predicts too little"),
        pytest.param(
            scored("calibration_gap", 0.06, 0.02, 0.10),
            History(),
            "retrain",
            "calibration",
            id="predicts too much",
        ),
        pytest.param(
            scored("calibration_gap", CALIBRATION_GAP - 0.001, 0.02, 0.04),
            History(),
            "keep",
            "within limits",
            id="a certain but small gap",
        ),
        pytest.param(
            scored("calibration_gap", -0.06, -0.12, -0.005),
            History(),
            "keep",
            "within limits",
            id="a large gap that barely excludes zero",
        ),
        pytest.param(
            scored("excess_log_loss", EXCESS_LOG_LOSS + 0.01, 0.01, 0.09),
            History(),
            "retrain",
            "log-loss",
            id="worse than promised",
        ),
        pytest.param(
            scored("excess_log_loss", EXCESS_LOG_LOSS + 0.01, -0.01, 0.09),
            History(),
            "keep",
            "within limits",
            id="worse, but perhaps by chance",
        ),
        pytest.param(
            scored("excess_log_loss", -0.06, -0.09, -0.03),
            History(),
            "keep",
            "within limits",
            id="better than promised",
        ),
        pytest.param(
            replace(SIGNALS, trained_through=NOW - MAX_AGE),
            History(),
            "retrain",
            "scheduled",
            id="old",
        ),
        pytest.param(
            replace(SIGNALS, trained_through=NOW - MAX_AGE + timedelta(hours=1)),
            History(),
            "keep",
            "within limits",
            id="not quite old",
        ),
        pytest.param(
            replace(SIGNALS, trained_through=NOW - MAX_AGE),
            History(last_retrain=NOW - COOLDOWN),
            "retrain",
            "scheduled",
            id="cooldown over",
        ),
        pytest.param(
            replace(SIGNALS, drift=drift(1.0)),
            History(),
            "keep",
            "within limits",
            id="every column drifted",
        ),
    ],
)
def test_decision_table(signals: Signals, history: History, action: str, reason: str) -> None:
    decision = decide(signals, history)
    assert decision.action == action
    assert decision.reasons[0].startswith(reason)


def test_the_same_evidence_is_not_decided_twice() -> None:
    first = decide(OFF, History())
    again = decide(OFF, History(frozenset({first.decision_id})))
    later = decide(
        replace(OFF, now=NOW + timedelta(hours=1)), History(frozenset({first.decision_id}))
    )
    assert first.action == "retrain" and again.action == later.action == "keep"
    assert again.reasons[0].startswith("decided already") and first.decision_id in again.reasons[0]


def test_new_labels_are_new_evidence() -> None:
    first = decide(OFF, History())
    more = decide(seen(OFF, n_known=24_000), History(frozenset({first.decision_id})))
    assert more.decision_id != first.decision_id and more.action == "retrain"


def test_a_difference_in_the_last_bits_is_the_same_evidence() -> None:
    a, b = scored("auc", 0.1 + 0.2, 0.2, 0.4), scored("auc", 0.3, 0.2, 0.4)
    assert decide(a, History()).decision_id == decide(b, History()).decision_id


def test_every_guard_that_holds_and_every_trigger_held_back_is_said() -> None:
    signals = seen(replace(OFF, trained_through=NOW - MAX_AGE), n_known=10)
    rules = [reason.split(":")[0] for reason in decide(signals, NOT_YET).reasons]
    assert rules == ["too few labels", "cooldown", "held back", "held back"]


def test_every_trigger_that_rings_is_said() -> None:
    decision = decide(replace(OFF, trained_through=NOW - MAX_AGE), History())
    assert [reason.split(":")[0] for reason in decision.reasons] == ["calibration", "scheduled"]
    assert "-0.060 [-0.100, -0.020]" in decision.reasons[0]


def test_drift_is_in_the_evidence_as_the_explanation() -> None:
    evidence = decide(replace(SIGNALS, drift=drift(0.68)), History()).evidence
    assert evidence["drift"]["share_drifted"] == 0.68
    assert len(evidence["drift"]["most_drifted"]) == 5 and evidence["drift"]["left_out"] == ["gone"]
    assert decide(SIGNALS, History()).evidence["drift"] is None


def test_the_evidence_is_json_with_figures_beside_their_coverage() -> None:
    evidence = json.loads(json.dumps(decide(OFF, History()).evidence))
    assert evidence["performance"]["scores"]["calibration_gap"] == {
        "value": -0.06,
        "low": -0.1,
        "high": -0.02,
    }
    assert evidence["performance"]["label_coverage"] == pytest.approx(0.995833)
