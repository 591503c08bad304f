"""Keep the champion or retrain: one pure function of what monitoring saw and what was done before.

`decide(signals, history)` looks at no clock, log or registry. Guards keep the champion whatever
the triggers say; without a guard, any trigger retrains. A retrain only makes a challenger: whether
it serves is the gate's judgement, so a false alarm costs a training run, not a worse model.

Notable decisions
- Performance is judged over `WINDOW`, of the champion's own predictions: the caller filters.
  One week is one weather regime: in the first week of May the calibration gap of a model fresh
  from training was +.068 [.053, .082], and gone a week later.
- The constants were chosen on May to August, with LightGBM in the network's place (retrained weekly
  on the same features): numbers below without a source are from there.
- The share of drifted columns is evidence and never a trigger: it rings every week.
- `decision_id` is a digest of the evidence, and the evidence holds no clock: the same labels seen
  again, at any time, are the same decision. A retrain that was decided and never started is for
  the caller to resume; deciding it again is refused here.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from monitoring.drift import Drift
from monitoring.performance import Estimate, Performance

# The stretch of served predictions that a decision looks at. Four weeks: over one or two, the
# calibration gap of an unchanged model swings by .05 with the weather.
WINDOW = timedelta(days=28)

# Guards.
MIN_LABELS = 2_000  # a good two days of traffic; fewer say nothing about rates near .25
MIN_DAYS = 14  # whole days are resampled: below two weeks the interval itself is not to be trusted
MIN_COVERAGE = 0.9  # labels that are missing though due are not missing by chance
COOLDOWN = timedelta(days=14)  # as long as a new champion needs for MIN_DAYS of its own labels

# Triggers.
CALIBRATION_GAP = 0.03  # |mean prediction - late share|
CALIBRATION_MARGIN = 0.01  # how far its interval stays from zero: days in a row are alike
# Nats above what validation promised. Weeks differ in how predictable they are: freshly trained
# models, judged over their first four weeks (May to August), scatter around zero by .022. So this
# is two of these, and an alarm for a broken input; slow decay is MAX_AGE's business.
EXCESS_LOG_LOSS = 0.04
# Since trained_through. Retraining every four weeks was worth .010 log-loss from May to August,
# every week .013, at four times the cost.
MAX_AGE = timedelta(days=28)

TOP_COLUMNS = 5  # most drifted columns kept in the evidence


@dataclass(frozen=True)
class Signals:
    """What monitoring saw. `performance` covers `WINDOW` and the champion's predictions alone."""

    now: datetime
    champion: str
    trained_through: datetime  # outcomes known up to here taught the champion
    performance: Performance
    drift: Drift | None = None  # None: too few rows to compare


@dataclass(frozen=True)
class History:
    """What was done before. A retrain counts from its start, whatever came of it."""

    decisions: frozenset[str] = frozenset()  # decision ids
    last_retrain: datetime | None = None


@dataclass(frozen=True)
class Decision:
    """Reasons are sentences that begin with the rule's name; `evidence` is JSON-able."""

    action: Literal["keep", "retrain"]
    reasons: tuple[str, ...]
    evidence: dict[str, Any]
    decision_id: str


def decide(signals: Signals, history: History) -> Decision:
    evidence = _evidence(signals)
    decision_id = _digest(evidence)
    guards = tuple(_guards(signals, history, decision_id))
    triggers = tuple(_triggers(signals))
    if guards:
        held_back = tuple(f"held back: {trigger}" for trigger in triggers)
        return Decision("keep", guards + held_back, evidence, decision_id)
    if triggers:
        return Decision("retrain", triggers, evidence, decision_id)
    return Decision("keep", (_within_limits(signals),), evidence, decision_id)


def _guards(signals: Signals, history: History, decision_id: str) -> Iterator[str]:
    seen = signals.performance
    if decision_id in history.decisions:
        yield f"decided already: the same evidence led to decision {decision_id}"
    if seen.n_known < MIN_LABELS or seen.n_days < MIN_DAYS or not seen.scores:
        yield (
            f"too few labels: {seen.n_known:,} on {seen.n_days} days, "
            f"needed are {MIN_LABELS:,} on {MIN_DAYS}"
        )
    if seen.label_coverage is not None and seen.label_coverage < MIN_COVERAGE:
        yield (
            f"labels missing: {seen.label_coverage:.1%} of the due outcomes are known, "
            f"needed are {MIN_COVERAGE:.0%}"
        )
    if history.last_retrain and signals.now - history.last_retrain < COOLDOWN:
        yield (
            f"cooldown: last retrain {_days(signals.now - history.last_retrain):.1f} days ago, "
            f"the next at {_days(COOLDOWN):.0f} or more"
        )


def _triggers(signals: Signals) -> Iterator[str]:
    scores = signals.performance.scores
    if scores and _miscalibrated(gap := scores["calibration_gap"]):
        yield (
            f"calibration: mean prediction minus late share is {_signed(gap)}, beyond "
            f"{CALIBRATION_GAP} and {CALIBRATION_MARGIN} clear of zero"
        )
    if scores and _worse_than_promised(excess := scores["excess_log_loss"]):
        yield (
            f"log-loss: {_signed(excess)} nats above what validation promised for this late "
            f"share, tolerated is {EXCESS_LOG_LOSS}"
        )
    if (age := signals.now - signals.trained_through) >= MAX_AGE:
        yield (
            f"scheduled: champion {signals.champion} learnt up to {_days(age):.0f} days ago, "
            f"retrained at {_days(MAX_AGE):.0f}"
        )


def _miscalibrated(gap: Estimate) -> bool:
    clear_of_zero = max(gap.low, -gap.high)
    return abs(gap.value) > CALIBRATION_GAP and clear_of_zero > CALIBRATION_MARGIN


def _worse_than_promised(excess: Estimate) -> bool:
    return excess.value > EXCESS_LOG_LOSS and excess.low > 0


def _within_limits(signals: Signals) -> str:
    scores = signals.performance.scores
    return (
        f"within limits: calibration gap {_signed(scores['calibration_gap'])}, excess log-loss "
        f"{_signed(scores['excess_log_loss'])}, learnt up to "
        f"{_days(signals.now - signals.trained_through):.0f} days ago"
    )


def _evidence(signals: Signals) -> dict[str, Any]:
    """Everything a decision stands on but the clocks, rounded to what is printed of it."""
    seen = asdict(signals.performance)
    del seen["known_by"]
    return _rounded(
        {
            "champion": signals.champion,
            "trained_through": signals.trained_through.isoformat(),
            "performance": seen,
            "drift": _drift_summary(signals.drift) if signals.drift else None,
        }
    )


def _drift_summary(drift: Drift) -> dict[str, Any]:
    columns = list(drift.columns.items())
    return {
        "share_drifted": drift.share_drifted,
        "prediction": drift.prediction.score,
        "most_drifted": {name: column.score for name, column in columns[:TOP_COLUMNS]},
        "left_out": sorted(drift.left_out),
    }


def _rounded(value: Any) -> Any:
    """Six digits: machines differ in the last bits of a sum, decisions must not."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _digest(evidence: dict[str, Any]) -> str:
    text = json.dumps(evidence, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _days(span: timedelta) -> float:
    return span / timedelta(days=1)
