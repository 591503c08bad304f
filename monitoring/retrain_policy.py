"""The retrain policy: keep the champion or retrain, a pure function of monitoring and history.

A guard keeps the champion whatever the triggers say; without a guard, any trigger retrains. A
retrain registers a challenger and the gate decides on its promotion, so a false alarm costs one
training run and not a worse champion.

- Scores of the champion's own predictions over `WINDOW`, which the caller filters. One week is one
  regime: in one replay the calibration bias of a freshly trained model was +0.068 [0.053, 0.082] in
  its first week and zero in the next.
- Constants were chosen in replays of four months (docs/lab-notes.md), with LightGBM in place of the
  network, retrained weekly on the same features.
- Drift is evidence, never a trigger: in the demo a third to three quarters of the columns drift in
  every week, whether or not a new model would be better.
- `decision_id` is a digest of the evidence, which holds no time of the decision: the same labels
  give the same decision. The caller resumes a retrain that did not finish.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from monitoring.drift import Drift
from monitoring.performance import Performance
from ontime.problem import MIN_MONITORING_DAYS, MIN_MONITORING_LABELS

DAY = timedelta(days=1)
# Over one or two weeks the calibration bias of an unchanged model varies by 0.05 with the regime.
WINDOW = timedelta(days=28)

# Guards.
MIN_COVERAGE = 0.9  # due labels are not missing at random
COOLDOWN = timedelta(days=14)  # a new champion has MIN_MONITORING_DAYS of its own labels by then

# Triggers.
CALIBRATION_BIAS = 0.03  # absolute difference of mean prediction and positive rate
CALIBRATION_MARGIN = 0.01  # distance of its interval from zero: consecutive days are correlated
# Nats. Over their first four weeks, freshly trained models scatter around zero with a standard
# deviation of 0.022, because periods differ in difficulty. The limit is two of these, an alarm for
# broken inputs; slow decay is covered by MAX_AGE.
EXCESS_LOG_LOSS = 0.04
# Since trained_through. Retraining every four weeks lowered the log-loss by 0.010, every week by
# 0.013 at four times the cost.
MAX_AGE = timedelta(days=28)

TOP_COLUMNS = 5  # most drifted columns kept in the evidence


class UnsatisfiableRule(ValueError):
    """A rule needs more rows than the traffic brings; the message states rule, value and fix."""


@dataclass(frozen=True)
class MonitoringSnapshot:
    """Monitoring at one time. `performance` covers `WINDOW` and the champion's predictions only."""

    now: datetime
    champion: str
    trained_through: datetime  # the champion was trained on outcomes known by then
    performance: Performance
    drift: Drift | None = None  # None: too few rows to compare


@dataclass(frozen=True)
class RetrainHistory:
    """Earlier decisions. A retrain counts from its start, whatever its result."""

    decisions: frozenset[str] = frozenset()  # decision ids
    last_retrain: datetime | None = None


@dataclass(frozen=True)
class Reason:
    """A rule that applied: its code, the value found, the limit it broke, and both as text."""

    code: str
    value: float | str | None
    limit: float | None
    text: str


@dataclass(frozen=True)
class Decision:
    """`dataclasses.asdict` gives JSON."""

    action: Literal["keep", "retrain"]
    reasons: tuple[Reason, ...]
    evidence: dict[str, Any]
    decision_id: str


def decide(snapshot: MonitoringSnapshot, history: RetrainHistory) -> Decision:
    """Guards first, then triggers; triggers that a guard held back are among the reasons."""
    evidence = _evidence(snapshot)
    decision_id = _digest(evidence)
    guards = tuple(_guards(snapshot, history, decision_id))
    triggers = tuple(_triggers(snapshot))
    if guards:
        held_back = tuple(
            replace(reason, code=f"held_back_{reason.code}", text=f"held back: {reason.text}")
            for reason in triggers
        )
        return Decision("keep", guards + held_back, evidence, decision_id)
    if triggers:
        return Decision("retrain", triggers, evidence, decision_id)
    return Decision("keep", (_within_limits(snapshot),), evidence, decision_id)


def check_rules(n_labels_in_window: int, n_days: int) -> None:
    """Raise UnsatisfiableRule if a full `WINDOW` has fewer labels or days than the guards need."""
    if n_labels_in_window < MIN_MONITORING_LABELS or n_days < MIN_MONITORING_DAYS:
        raise UnsatisfiableRule(
            f"the retrain policy needs {MIN_MONITORING_LABELS:,} labels on {MIN_MONITORING_DAYS} "
            f"days within {WINDOW / DAY:.0f} days; the last {WINDOW / DAY:.0f} days have "
            f"{n_labels_in_window:,} labels on {n_days} days. Lower MIN_MONITORING_LABELS or "
            "MIN_MONITORING_DAYS in ontime.problem, or train on more data"
        )


def _guards(
    snapshot: MonitoringSnapshot, history: RetrainHistory, decision_id: str
) -> Iterator[Reason]:
    found = snapshot.performance
    if decision_id in history.decisions:
        text = f"the same evidence led to decision {decision_id}"
        yield Reason("decided_already", decision_id, None, text)
    text = (
        f"{found.n_known:,} labels on {found.n_days} days; at least {MIN_MONITORING_LABELS:,} on "
        f"{MIN_MONITORING_DAYS} days are needed, of both classes"
    )
    if found.n_known >= MIN_MONITORING_LABELS and found.n_days < MIN_MONITORING_DAYS:
        yield Reason("too_few_labels", found.n_days, MIN_MONITORING_DAYS, text)
    elif found.n_known < MIN_MONITORING_LABELS or not found.scores:
        yield Reason("too_few_labels", found.n_known, MIN_MONITORING_LABELS, text)
    coverage = found.label_coverage
    if coverage is not None and coverage < MIN_COVERAGE:
        text = f"{coverage:.1%} of the due labels are known; at least {MIN_COVERAGE:.0%} are needed"
        yield Reason("labels_missing", coverage, MIN_COVERAGE, text)
    if history.last_retrain and snapshot.now - history.last_retrain < COOLDOWN:
        days = (snapshot.now - history.last_retrain) / DAY
        text = (
            f"the last retrain was {days:.1f} days ago; the cooldown is {COOLDOWN / DAY:.0f} days"
        )
        yield Reason("cooldown", days, COOLDOWN / DAY, text)


def _triggers(snapshot: MonitoringSnapshot) -> Iterator[Reason]:
    if scores := snapshot.performance.scores:
        bias, excess = scores["calibration_bias"], scores["excess_log_loss"]
        from_zero = max(bias.low, -bias.high)  # of the interval; negative if zero is within
        if abs(bias.value) > CALIBRATION_BIAS and from_zero > CALIBRATION_MARGIN:
            text = (
                f"mean prediction minus positive rate is {bias}; the limits are "
                f"{CALIBRATION_BIAS} and an interval {CALIBRATION_MARGIN} away from zero"
            )
            yield Reason("calibration", bias.value, CALIBRATION_BIAS, text)
        if excess.value > EXCESS_LOG_LOSS and excess.low > 0:
            text = (
                f"the log-loss is {excess} nats above the one expected from validation at this "
                f"positive rate; the limit is {EXCESS_LOG_LOSS}"
            )
            yield Reason("log_loss", excess.value, EXCESS_LOG_LOSS, text)
    if (age := snapshot.now - snapshot.trained_through) >= MAX_AGE:
        text = (
            f"champion {snapshot.champion} was trained through {age / DAY:.0f} days ago; the "
            f"schedule is {MAX_AGE / DAY:.0f} days"
        )
        yield Reason("scheduled", age / DAY, MAX_AGE / DAY, text)


def _within_limits(snapshot: MonitoringSnapshot) -> Reason:
    scores, age = snapshot.performance.scores, snapshot.now - snapshot.trained_through
    text = (
        f"calibration bias {scores['calibration_bias']}, excess log-loss "
        f"{scores['excess_log_loss']}, trained through {age / DAY:.0f} days ago: within limits"
    )
    return Reason("within_limits", None, None, text)


def _evidence(snapshot: MonitoringSnapshot) -> dict[str, Any]:
    """Every number that the rules use, without times of the decision."""
    performance = asdict(snapshot.performance)
    del performance["known_by"]
    drift = snapshot.drift
    return _rounded(
        {
            "champion": snapshot.champion,
            "trained_through": snapshot.trained_through.isoformat(),
            "performance": performance,
            "drift": drift
            and {
                "share_drifted": drift.share_drifted,
                "prediction": drift.prediction.score,
                "most_drifted": {
                    name: column.score for name, column in [*drift.columns.items()][:TOP_COLUMNS]
                },
                "left_out": sorted(drift.left_out),
            },
        }
    )


def _rounded(value: Any) -> Any:
    """Six decimals: the last bits of a sum differ between machines, the decision id must not."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _digest(evidence: dict[str, Any]) -> str:
    text = json.dumps(evidence, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
