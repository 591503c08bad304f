"""The decision table: every guard and every trigger."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest

from monitoring.drift import ColumnDrift, Drift
from monitoring.input_checks import MISSING_LIMIT, UNIT_FACTOR, InputChecks
from monitoring.performance import Estimate, Performance
from monitoring.retrain_policy import (
    MAX_AGE,
    MIN_COVERAGE,
    MonitoringSnapshot,
    RetrainHistory,
    UnsatisfiableRule,
    check_rules,
    decide,
)
from monitoring.sequential import LIMITS, SequentialTests
from ontime.problem import MIN_MONITORING_DAYS as MIN_DAYS
from ontime.problem import MIN_MONITORING_LABELS as MIN_LABELS

NOW = datetime(2020, 7, 3, tzinfo=UTC)
FINE = {
    "auc": Estimate(0.77, 0.75, 0.79),
    "log_loss": Estimate(0.48, 0.45, 0.51),
    "calibration_bias": Estimate(0.002, -0.02, 0.024),
    "excess_log_loss": Estimate(0.004, -0.02, 0.03),
}
PERFORMANCE = Performance(
    since="2020-06-05T00:00:00+00:00",
    until="2020-07-02T23:00:00+00:00",
    known_by=NOW.isoformat(),
    n_served=13 * MIN_LABELS,
    n_due=12 * MIN_LABELS,
    n_known=12 * MIN_LABELS - 10,
    n_days=28,
    label_coverage=0.995833,
    mean_prediction=0.29,
    positive_rate=0.288,
    scores=FINE,
    validation={"log_loss": 0.47},
    cost_per_1000={"served": 450.0},
)
CALM = SequentialTests(
    n_labels=12 * MIN_LABELS, n_days=28, n_tested=9, statistics=dict.fromkeys(LIMITS, 2.5)
)
SNAPSHOT = MonitoringSnapshot(
    now=NOW,
    champion="3",
    trained_through=NOW - timedelta(days=3),
    performance=PERFORMANCE,
    tests=CALM,
)


def measured(snapshot: MonitoringSnapshot = SNAPSHOT, **changes: object) -> MonitoringSnapshot:
    return replace(snapshot, performance=replace(snapshot.performance, **changes))  # type: ignore[arg-type]


def with_tests(snapshot: MonitoringSnapshot = SNAPSHOT, **changes: object) -> MonitoringSnapshot:
    return replace(snapshot, tests=replace(snapshot.tests, **changes))  # type: ignore[arg-type]


def alarmed(name: str, excess: float = 1.0) -> MonitoringSnapshot:
    return with_tests(statistics=CALM.statistics | {name: LIMITS[name] + excess})


def drift(share: float) -> Drift:
    column = ColumnDrift("wasserstein", 0.9, 0.1, True, 0.0, 0.0)
    columns = {f"column_{i}": column for i in range(8)}
    return Drift(share, columns, column, {"gone": "all missing in current rows"}, *[5000] * 4)


NONE = RetrainHistory()
RECENT = RetrainHistory(last_retrain=NOW - MAX_AGE + timedelta(hours=1))
LONG_AGO = RetrainHistory(last_retrain=NOW - MAX_AGE)
IN_SHADOW = RetrainHistory(last_retrain=NOW - MAX_AGE, in_progress=True)
BIASED = alarmed("residual")
OLD = replace(SNAPSHOT, trained_through=NOW - MAX_AGE)
NOT_YET_OLD = replace(SNAPSHOT, trained_through=NOW - MAX_AGE + timedelta(hours=1))


def checked(**found: object) -> InputChecks:
    """Checks of a day on which all feeds are in order, but for what is given."""
    fine = InputChecks(900, {"a": 0.01, "b": -0.02}, {"x": 1.4, "y": 0.2}, label_coverage=1.0)
    return replace(fine, **found)  # type: ignore[arg-type]


TABLE = {
    "nothing wrong": (SNAPSHOT, NONE, "keep", "within_limits"),
    "few labels": (with_tests(BIASED, n_labels=MIN_LABELS - 1), NONE, "keep", "too_few_labels"),
    "few days": (with_tests(BIASED, n_days=MIN_DAYS - 1), NONE, "keep", "too_few_labels"),
    "no test": (with_tests(statistics={}), NONE, "keep", "within_limits"),
    "coverage": (
        measured(BIASED, label_coverage=MIN_COVERAGE - 0.01), NONE, "keep", "labels_missing",
    ),
    "a challenger in shadow": (BIASED, IN_SHADOW, "keep", "challenger_in_shadow"),
    "old, but a challenger in shadow": (OLD, IN_SHADOW, "keep", "challenger_in_shadow"),
    "residuals add up": (BIASED, NONE, "retrain", "residual"),
    "losses add up": (alarmed("excess_loss"), NONE, "retrain", "excess_loss"),
    "at the limit": (alarmed("residual", excess=0.0), NONE, "keep", "within_limits"),
    "old": (OLD, NONE, "retrain", "scheduled"),
    "not yet old": (NOT_YET_OLD, NONE, "keep", "within_limits"),
    "old, and a newer model was rejected": (OLD, RECENT, "keep", "within_limits"),
    "old, and the newest model too": (OLD, LONG_AGO, "retrain", "scheduled"),
    "old with few labels": (with_tests(OLD, n_labels=5), NONE, "retrain", "scheduled"),
    "old with labels missing": (
        measured(OLD, label_coverage=MIN_COVERAGE - 0.01), NONE, "keep", "labels_missing",
    ),
    "old, and a view is missing": (
        replace(OLD, inputs=checked(missing={"a": MISSING_LIMIT + 0.01})), NONE,
        "keep", "view_missing",
    ),
    "old, and a view is nearly missing": (
        replace(OLD, inputs=checked(missing={"a": MISSING_LIMIT})), NONE, "retrain", "scheduled",
    ),
    "old, and a feature is smaller": (
        replace(OLD, inputs=checked(scale={"x": 0.9 / UNIT_FACTOR})), NONE,
        "keep", "unit_changed",
    ),
    "old, and a feature is larger": (
        replace(OLD, inputs=checked(scale={"x": 1.1 * UNIT_FACTOR})), NONE,
        "keep", "unit_changed",
    ),
    "old, and no label of the day is known": (
        replace(OLD, inputs=checked(label_coverage=0.0)), NONE, "keep", "labels_stopped",
    ),
    "old, and the feeds are in order": (
        replace(OLD, inputs=checked()), NONE, "retrain", "scheduled",
    ),
    "every column drifted": (replace(SNAPSHOT, drift=drift(1.0)), NONE, "keep", "within_limits"),
}  # fmt: skip


@pytest.mark.parametrize(("snapshot", "history", "action", "code"), TABLE.values(), ids=TABLE)
def test_decision_table(
    snapshot: MonitoringSnapshot, history: RetrainHistory, action: str, code: str
) -> None:
    decision = decide(snapshot, history)
    assert decision.action == action
    assert decision.reasons[0].code == code


def test_the_same_evidence_is_not_decided_twice() -> None:
    first = decide(BIASED, NONE)
    history = RetrainHistory(frozenset({first.decision_id}))
    again = decide(BIASED, history)
    later = decide(replace(BIASED, now=NOW + timedelta(hours=1)), history)
    assert first.action == "retrain" and again.action == later.action == "keep"
    assert again.reasons[0].code == "decided_already"
    assert again.reasons[0].value == first.decision_id


def test_new_labels_are_new_evidence() -> None:
    first = decide(BIASED, NONE)
    history = RetrainHistory(frozenset({first.decision_id}))
    more = decide(measured(BIASED, n_known=11 * MIN_LABELS), history)
    assert more.decision_id != first.decision_id and more.action == "retrain"


def test_a_difference_in_the_last_bits_is_the_same_evidence() -> None:
    a, b = (
        measured(scores=FINE | {"auc": Estimate(value, 0.2, 0.4)}) for value in (0.1 + 0.2, 0.3)
    )
    assert decide(a, NONE).decision_id == decide(b, NONE).decision_id


def test_every_guard_and_every_trigger_held_back_is_a_reason() -> None:
    snapshot = with_tests(replace(BIASED, trained_through=NOW - MAX_AGE), n_labels=MIN_LABELS - 1)
    codes = [reason.code for reason in decide(snapshot, IN_SHADOW).reasons]
    assert codes == [
        "challenger_in_shadow",
        "too_few_labels",
        "held_back_residual",
        "held_back_scheduled",
    ]
    codes = [reason.code for reason in decide(snapshot, NONE).reasons]
    assert codes == ["scheduled", "held_back_residual"]


def test_a_reason_has_the_value_and_the_limit_that_it_broke() -> None:
    decision = decide(replace(BIASED, trained_through=NOW - MAX_AGE), NONE)
    scheduled, residual = decision.reasons
    assert (residual.code, residual.value, residual.limit) == (
        "residual",
        LIMITS["residual"] + 1,
        LIMITS["residual"],
    )
    assert "is 7.0 spreads on 9 days; limit 6" in residual.text
    assert (scheduled.value, scheduled.limit) == (MAX_AGE.days, MAX_AGE.days)
    (few_days,) = decide(with_tests(n_days=MIN_DAYS - 1), NONE).reasons
    assert (few_days.value, few_days.limit) == (MIN_DAYS - 1, MIN_DAYS)


def test_drift_is_in_the_evidence_as_the_explanation() -> None:
    evidence = decide(replace(SNAPSHOT, drift=drift(0.68)), NONE).evidence
    assert evidence["drift"]["share_drifted"] == 0.68
    assert len(evidence["drift"]["most_drifted"]) == 5 and evidence["drift"]["left_out"] == ["gone"]
    assert decide(SNAPSHOT, NONE).evidence["drift"] is None


def test_a_decision_is_json_with_the_scores_and_their_coverage() -> None:
    decision = json.loads(json.dumps(asdict(decide(BIASED, NONE))))
    assert set(decision["reasons"][0]) == {"code", "value", "limit", "text"}
    performance = decision["evidence"]["performance"]
    assert performance["scores"]["calibration_bias"] == {
        "value": 0.002,
        "low": -0.02,
        "high": 0.024,
    }
    assert performance["label_coverage"] == pytest.approx(0.995833)


def test_traffic_that_can_never_satisfy_the_guards_is_an_error() -> None:
    check_rules(MIN_LABELS, MIN_DAYS)
    for labels, days in ((MIN_LABELS - 1, MIN_DAYS), (MIN_LABELS, MIN_DAYS - 1)):
        with pytest.raises(UnsatisfiableRule, match=f"{labels:,} labels on {days} days. Lower"):
            check_rules(labels, days)


def test_broken_feeds_are_in_the_evidence_with_the_furthest_scales() -> None:
    scale = {f"x{i}": 1.0 + i for i in range(10)} | {"narrow": 0.01}
    found = decide(replace(SNAPSHOT, inputs=checked(scale=scale)), NONE).evidence["inputs"]
    assert found["n_broken"] == 1
    assert [*found["scale"]] == ["narrow", "x9", "x8", "x7", "x6"]


def test_the_schedule_is_that_of_the_caller() -> None:
    assert decide(OLD, NONE, max_age=2 * MAX_AGE).action == "keep"
