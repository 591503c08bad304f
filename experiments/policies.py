"""Retraining policies on the same requests: what a gate, a schedule and alerts are worth.

    python -m experiments.policies [--end DATE]

One model per week is trained on everything known then and shared by all policies, so that two
policies differ in their choices only. Choices are made on the months before `HOLDOUT_FROM`; the
months from then on are reported apart. A policy acts once a week, as monitoring does.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow

from experiments.backtest import months
from experiments.detection import detection_report
from experiments.policy_models import (
    TRAINING_INTERVAL,
    WeeklyModels,
    training_moments,
    weekly_models,
)
from experiments.policy_tables import DEFAULT, FROZEN, REFERENCE, policies_section
from monitoring.retrain_policy import SHADOW_PERIOD, TRAINING_TIME, WINDOW, alerts
from monitoring.sequential import sequential_tests
from ontime.data.timestamps import parse_utc
from ontime.evaluation.bootstrap import compare
from ontime.evaluation.metrics import decision_costs, expected_cost_threshold, scores
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.problem import (
    BACKTEST_MONTHS,
    COST_FALSE_ALARM,
    COST_MISS,
    DEMO_END,
    DEMO_START,
    HOLDOUT_FROM,
)
from ontime.registry.gate import GateRule, evaluate_challenger
from ontime.settings import Settings

HOLDOUT = timedelta(days=14)


@dataclass
class Line:
    """What a policy served and did. `served` [n]: probabilities; `champion`: its moment."""

    served: np.ndarray
    champion: datetime
    trainings: int = 1
    events: list[dict[str, Any]] = field(default_factory=list)

    def note(self, at: datetime, kind: str, reason: str = "") -> None:
        self.events.append({"at": at.isoformat(), "kind": kind, "reason": reason})


@dataclass(frozen=True)
class Policy:
    """One way to retrain.

    Attributes:
        every: the schedule; None: never.
        rule: of the gate; None: every model is deployed at once.
        holdout: evaluated on its own newest two weeks, which it is not trained on, and not in
            shadow.
        alerts: whether sequential alerts start a training between scheduled ones.
    """

    every: timedelta | None
    rule: GateRule | None = None
    holdout: bool = False
    alerts: bool = False


SUPERIOR_90, SUPERIOR_50 = GateRule(0.0, 0.90), GateRule(0.0, 0.50)
NOT_INFERIOR, VETO = GateRule(0.005, 0.50), GateRule(0.0, 0.05)


def days(n: int) -> timedelta:
    return timedelta(days=n)


POLICIES = {
    FROZEN: Policy(None),
    "holdout gate at .90, every 28 days": Policy(days(28), SUPERIOR_90, holdout=True),
    REFERENCE: Policy(days(28)),
    "every 14 days, no gate": Policy(days(14)),
    "every 7 days, no gate": Policy(days(7)),
    "shadow, superior at .90, every 14 days": Policy(days(14), SUPERIOR_90),
    "shadow, superior at .50, every 14 days": Policy(days(14), SUPERIOR_50),
    "shadow, not inferior by .005, every 14 days": Policy(days(14), NOT_INFERIOR),
    "shadow, unless clearly worse, every 14 days": Policy(days(14), VETO),
    "shadow, superior at .50, every 7 days": Policy(days(7), SUPERIOR_50),
    DEFAULT: Policy(days(7), VETO),
    "shadow, superior at .50, every 28 days": Policy(days(28), SUPERIOR_50),
    "shadow, superior at .50, every 28 days, alerts": Policy(days(28), SUPERIOR_50, alerts=True),
    "shadow, superior at .50, every 14 days, alerts": Policy(days(14), SUPERIOR_50, alerts=True),
    "shadow, superior at .50, alerts only": Policy(None, SUPERIOR_50, alerts=True),
}


def play(policy: Policy, models: WeeklyModels, start: datetime, end: datetime) -> Line:
    """The predictions that the policy serves for every request from start to end."""
    gated = policy.rule is not None
    line = Line(np.full(len(models.rows), np.nan), start - HOLDOUT if gated else start)
    in_shadow: datetime | None = None
    newest = line.champion
    now = start
    while now < end:
        if in_shadow is not None and now >= in_shadow + SHADOW_PERIOD:
            evaluate_shadow(policy, models, line, in_shadow, now)
            in_shadow = None
        is_old = policy.every is not None and now - newest >= policy.every
        alarms = alerts_of(models, line, now) if policy.alerts else []
        if in_shadow is None and (is_old or alarms):
            newest = now - HOLDOUT if policy.holdout else now
            line.trainings += 1
            line.note(now, "retrain", "; ".join(alarms) or "scheduled")
            if policy.holdout:
                evaluate_holdout(policy, models, line, newest, now)
            elif gated:
                in_shadow = now
            else:
                line.champion = now
        week = within(models.rows, now, now + TRAINING_INTERVAL)
        line.served[week] = models.probabilities[line.champion][week]
        now += TRAINING_INTERVAL
    return line


def within(rows: pd.DataFrame, after: datetime, until: datetime) -> np.ndarray:
    """Requests with after < prediction time <= until, bool [n]."""
    at = rows.event_timestamp
    return ((at > after) & (at <= until)).to_numpy()


def alerts_of(models: WeeklyModels, line: Line, now: datetime) -> list[str]:
    """The alerts on what was served since the last gate result, with the outcomes due now."""
    evaluated = [event["at"] for event in line.events if event["kind"] in ("promoted", "rejected")]
    since = max(map(datetime.fromisoformat, evaluated), default=None)
    due = (models.rows.due_at <= now).to_numpy() & within(models.rows, now - WINDOW, now)
    rows = models.rows[due].assign(probability=line.served[due])
    rows = rows.assign(as_of=rows.event_timestamp)
    return [reason.text for reason in alerts(sequential_tests(rows, since))]


def evaluate_shadow(
    policy: Policy, models: WeeklyModels, line: Line, moment: datetime, now: datetime
) -> None:
    """The gate on the requests of the shadow period that are due."""
    rows = models.rows
    evaluated = (rows.event_timestamp >= moment + TRAINING_TIME) & (rows.due_at <= now)
    apply_gate(policy, models, line, moment, now, evaluated.to_numpy())


def evaluate_holdout(
    policy: Policy, models: WeeklyModels, line: Line, moment: datetime, now: datetime
) -> None:
    """The gate on the two weeks that neither model was trained on."""
    rows = models.rows
    evaluated = (rows.event_timestamp > moment) & (rows.due_at <= now)
    apply_gate(policy, models, line, moment, now, evaluated.to_numpy())


def apply_gate(
    policy: Policy,
    models: WeeklyModels,
    line: Line,
    moment: datetime,
    now: datetime,
    evaluated: np.ndarray,
) -> None:
    challenger, champion = (models.probabilities[m][evaluated] for m in (moment, line.champion))
    assert policy.rule is not None
    result = evaluate_challenger(models.rows[evaluated], challenger, champion, 1.0, policy.rule)
    line.note(now, "promoted" if result.promote else "rejected", "; ".join(result.reasons))
    if result.promote:
        line.champion = moment


def measure(rows: pd.DataFrame, served: np.ndarray) -> dict[str, float]:
    """Scores, calibration bias and cost per 1,000 requests."""
    labels = rows.label.to_numpy(dtype=bool)
    found = scores(labels, served)
    threshold = expected_cost_threshold(COST_FALSE_ALARM, COST_MISS)
    costs = decision_costs(labels, served, threshold, COST_FALSE_ALARM, COST_MISS)
    return {
        "log_loss": found["log_loss"],
        "ece": found["ece"],
        "calibration_bias": found["mean_prediction"] - found["positive_rate"],
        "cost_per_1000": 1000 * float(costs.mean()),
    }


def periods(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The tuning months, the holdout months, the demo's period and all, bool [n]."""
    holdout = (rows.event_timestamp >= pd.Timestamp(HOLDOUT_FROM, tz="UTC")).to_numpy()
    demo = (rows.event_timestamp <= DEMO_END).to_numpy()
    return {"choice": ~holdout, "holdout": holdout, "demo": demo, "all": holdout | ~holdout}


def compare_policies(
    models: WeeklyModels, start: datetime, end: datetime, policies: Iterable[str] = POLICIES
) -> list[dict[str, Any]]:
    """One row per policy and period, with paired intervals against two references."""
    lines = {name: play(POLICIES[name], models, start, end) for name in policies}
    frozen = next(iter(lines))
    table = []
    for period, where in periods(models.rows).items():
        if not where.any():
            continue
        rows = models.rows[where]
        for name, line in lines.items():
            kinds = [event["kind"] for event in line.events]
            served = line.served[where]
            table.append(
                {"period": period, "policy": name, "n": len(rows), "trainings": line.trainings}
                | {"promoted": kinds.count("promoted"), "rejected": kinds.count("rejected")}
                | measure(rows, served)
                | {
                    f"minus_{key}": asdict(compare(rows, served, lines[other].served[where]))
                    for key, other in (("frozen", frozen), ("reference", REFERENCE))
                }
                | {"events": line.events if period == "all" else []}
            )
    return table


@flow(name="policies")
def policies(start: datetime = DEMO_START, end: datetime | None = None) -> dict[str, Any]:
    """Train the weekly models, play every policy, measure the alerts; written to the reports."""
    settings = Settings()
    end = end or months(*BACKTEST_MONTHS)[-1][1]
    examples = build_examples(open_feature_store(settings), load_requests(settings))
    moments = training_moments(start, end)
    models = weekly_models(examples, start, end, moments, settings.data_dir / "policies")
    report = {
        "start": start.isoformat(),
        "end": end.isoformat(),
        "models": len(moments),
        "training_seconds": round(models.seconds, 1),
        "rows": compare_policies(models, start, end),
        "detection": detection_report(models, start, end),
    }
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    (settings.reports_dir / "policies.json").write_text(json.dumps(report, indent=1))
    print("\n\n".join(policies_section(report)))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--end", type=parse_utc, help="UTC; by default the end of the backtest")
    policies(end=parser.parse_args().end)


if __name__ == "__main__":
    main()
