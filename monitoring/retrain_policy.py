"""The retrain policy: keep the champion or retrain, a pure function of monitoring and history.

A guard keeps the champion whatever the triggers say; without a guard, any trigger retrains. Too few
labels hold back alerts only: the schedule needs none. A retrain registers a challenger and the gate
decides on its promotion, so a false alarm costs one training run and not a worse champion.

- Alerts are sequential tests on what was served, whichever version served it: with a training per
  week no champion has two weeks of labels of its own. The tests start anew when a challenger was
  evaluated. Scores of the predictions served in `WINDOW` are evidence.
- In `make policies` no alert improves on the weekly schedule. With a longer `MAX_AGE` an alert
  starts a training between scheduled ones.
- A broken feed (`monitoring.input_checks`) is a guard: a model trained meanwhile would learn from
  its absence. The schedule goes on once a whole day is in order.
- Drift is evidence, never a trigger: in the demo a third to three quarters of the columns drift in
  every week, whether or not a new model would be better.
- A challenger is trained and then scores live traffic in shadow, at stated times on the clock of
  the requests: however long a training really takes, it is evaluated on the same predictions.
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
from monitoring.input_checks import InputChecks, broken_feeds, furthest
from monitoring.performance import Performance
from monitoring.reason import Reason
from monitoring.sequential import LIMITS, NAMES, SequentialTests
from ontime.problem import MIN_MONITORING_DAYS, MIN_MONITORING_LABELS

DAY = timedelta(days=1)
# Of the scores and of the sequential tests' spread.
WINDOW = timedelta(days=28)

# A challenger is in shadow from `TRAINING_TIME` after its decision until the gate evaluates it.
TRAINING_TIME = timedelta(hours=6)  # allowed; a training took less than a minute on two cores
SHADOW_PERIOD = timedelta(days=7)  # from the decision to the gate

# Guards.
MIN_COVERAGE = 0.9  # due labels are not missing at random

# Trigger.
# Since the last training, whatever became of its model. Chosen on May to August: with a gate in
# shadow, a training every week served .0022 better than one every two weeks.
MAX_AGE = timedelta(days=7)

TOP_COLUMNS = 5  # most drifted columns kept in the evidence


class UnsatisfiableRule(ValueError):
    """A rule needs more rows than the traffic brings; the message states rule, value and fix."""


@dataclass(frozen=True)
class MonitoringSnapshot:
    """Monitoring at one time. `performance` and `tests` are of all that was served in `WINDOW`."""

    now: datetime
    champion: str
    trained_through: datetime  # the champion was trained on outcomes known by then
    performance: Performance
    tests: SequentialTests
    drift: Drift | None = None  # None: not measured, or too few rows to compare
    inputs: InputChecks | None = None  # of the last day; None: not checked


@dataclass(frozen=True)
class RetrainHistory:
    """Earlier decisions. A retrain counts from its start, whatever its result."""

    decisions: frozenset[str] = frozenset()  # decision ids
    last_retrain: datetime | None = None
    in_progress: bool = False  # a challenger is in training or in shadow


@dataclass(frozen=True)
class Decision:
    """`dataclasses.asdict` gives JSON."""

    action: Literal["keep", "retrain"]
    reasons: tuple[Reason, ...]
    evidence: dict[str, Any]
    decision_id: str


def decide(
    snapshot: MonitoringSnapshot, history: RetrainHistory, max_age: timedelta = MAX_AGE
) -> Decision:
    """Guards first, then triggers; triggers that a guard held back are among the reasons."""
    evidence = _evidence(snapshot)
    decision_id = _digest(evidence)
    guards = tuple(_guards(snapshot, history, decision_id))
    too_few = tuple(_too_few_labels(snapshot.tests))
    schedule = tuple(_schedule(snapshot, history, max_age))
    alarms = tuple(alerts(snapshot.tests))
    if guards:
        reasons = guards + too_few + _held_back(alarms + schedule)
        return Decision("keep", reasons, evidence, decision_id)
    if too_few and not schedule:
        return Decision("keep", too_few + _held_back(alarms), evidence, decision_id)
    if triggers := schedule + (_held_back(alarms) if too_few else alarms):
        return Decision("retrain", triggers, evidence, decision_id)
    return Decision("keep", (_within_limits(snapshot),), evidence, decision_id)


def _held_back(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    return tuple(
        replace(reason, code=f"held_back_{reason.code}", text=f"held back: {reason.text}")
        for reason in reasons
    )


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
    if snapshot.inputs is not None:
        yield from broken_feeds(snapshot.inputs)
    if history.in_progress:
        text = "a challenger is in training or in shadow; the gate evaluates it first"
        yield Reason("challenger_in_shadow", None, None, text)
    if decision_id in history.decisions:
        text = f"the same evidence led to decision {decision_id}"
        yield Reason("decided_already", decision_id, None, text)
    coverage = found.label_coverage
    if coverage is not None and coverage < MIN_COVERAGE:
        text = f"{coverage:.1%} of the due labels are known; at least {MIN_COVERAGE:.0%} are needed"
        yield Reason("labels_missing", coverage, MIN_COVERAGE, text)


def _too_few_labels(tests: SequentialTests) -> Iterator[Reason]:
    text = (
        f"{tests.n_labels:,} labels on {tests.n_days} days; at least {MIN_MONITORING_LABELS:,} on "
        f"{MIN_MONITORING_DAYS} days are needed"
    )
    if tests.n_labels < MIN_MONITORING_LABELS:
        yield Reason("too_few_labels", tests.n_labels, MIN_MONITORING_LABELS, text)
    elif tests.n_days < MIN_MONITORING_DAYS:
        yield Reason("too_few_labels", tests.n_days, MIN_MONITORING_DAYS, text)


def alerts(tests: SequentialTests) -> Iterator[Reason]:
    """The tests whose statistic is above its limit."""
    for name, value in tests.statistics.items():
        if value > (limit := LIMITS[name]):
            text = f"{NAMES[name]} is {value:.1f} spreads on {tests.n_tested} days; limit {limit:g}"
            yield Reason(name, value, limit, text)


def _schedule(
    snapshot: MonitoringSnapshot, history: RetrainHistory, max_age: timedelta
) -> Iterator[Reason]:
    last = max(history.last_retrain or snapshot.trained_through, snapshot.trained_through)
    if (age := snapshot.now - last) >= max_age:
        text = (
            f"the newest model was trained through {age / DAY:.0f} days ago; the schedule is "
            f"{max_age / DAY:.0f} days"
        )
        yield Reason("scheduled", age / DAY, max_age / DAY, text)


def _within_limits(snapshot: MonitoringSnapshot) -> Reason:
    statistics = snapshot.tests.statistics.items()
    found = ", ".join(
        f"{NAMES[name]} {value:.1f} of {LIMITS[name]:g}" for name, value in statistics
    )
    age = snapshot.now - snapshot.trained_through
    text = f"{found or 'no test'}; trained through {age / DAY:.0f} days ago: within limits"
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
            "tests": asdict(snapshot.tests),
            "drift": drift
            and {
                "share_drifted": drift.share_drifted,
                "prediction": drift.prediction.score,
                "most_drifted": {
                    name: column.score for name, column in [*drift.columns.items()][:TOP_COLUMNS]
                },
                "left_out": sorted(drift.left_out),
            },
            "inputs": snapshot.inputs
            and asdict(snapshot.inputs)
            | {
                "scale": dict(furthest(snapshot.inputs.scale)[:TOP_COLUMNS]),
                "n_broken": len(tuple(broken_feeds(snapshot.inputs))),
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
