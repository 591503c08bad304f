"""Policies on synthetic models: each serves what it could have had then, and nothing later."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from experiments import detection, policies
from experiments.detection import RULES, alarms, delays, detection_report
from experiments.policies import HOLDOUT, POLICIES, Policy, compare_policies, play
from experiments.policy_models import WeeklyModels, training_moments
from experiments.policy_tables import DEFAULT, REFERENCE, policies_section
from monitoring import sequential
from monitoring.retrain_policy import SHADOW_PERIOD
from ontime.problem import HOLDOUT_FROM, MIN_GATE_INSTANCES, MIN_MONITORING_DAYS
from ontime.registry.gate import evaluate_challenger

END = datetime.fromisoformat(f"{HOLDOUT_FROM}-01").replace(tzinfo=UTC) + timedelta(weeks=10)
START = END - timedelta(weeks=20)
PER_DAY = max(240, MIN_GATE_INSTANCES // 6 + 1)
BROKEN = START + timedelta(weeks=5)  # the moment of a model that learned wrong labels
NEVER, WEEKLY = Policy(None), timedelta(days=7)
GATED = POLICIES[DEFAULT]


@pytest.fixture(autouse=True)
def _synthetic_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def day(rows: pd.DataFrame) -> np.ndarray:
        return rows.event_timestamp.to_numpy(dtype="datetime64[ns]").astype("datetime64[D]")

    monkeypatch.setattr("ontime.registry.gate.SLICES", {})
    monkeypatch.setattr("ontime.evaluation.bootstrap.local_day", day)
    monkeypatch.setattr(sequential, "local_day", day)


@pytest.fixture(scope="module")
def models() -> WeeklyModels:
    """A truth that drifts away; a model knows it up to its moment. One model is broken."""
    n = PER_DAY * (END - START).days
    spacing = (END - START) / n
    at = pd.date_range(pd.Timestamp(START) + spacing, END, periods=n)
    rng = np.random.default_rng(0)
    base, weeks = rng.normal(-1, 1, n), ((at - pd.Timestamp(START)) / WEEKLY).to_numpy()

    def probability(log_odds: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-log_odds))

    rows = pd.DataFrame(
        {
            "event_timestamp": at,
            "due_at": at + pd.Timedelta(hours=12),
            "label": rng.random(n) < probability(base + 0.05 * weeks),
        }
    )
    made = {}
    for moment in training_moments(START, END):
        known = (moment - START) / WEEKLY
        predicted = probability(-base if moment == BROKEN else base + 0.05 * known)
        made[moment] = np.where(at > pd.Timestamp(moment), predicted, np.nan)
    return WeeklyModels(rows, made, 7.0)


def moments_served(models: WeeklyModels, served: np.ndarray) -> list[datetime]:
    """The moment of the model behind each prediction; every request has one."""
    found = np.full(len(served), None)
    for moment, probabilities in models.probabilities.items():
        found[probabilities == served] = moment
    assert not pd.isna(found).any()
    return list(found)


def test_without_a_gate_the_newest_model_serves_and_a_frozen_one_never_changes(
    models: WeeklyModels,
) -> None:
    age = {}
    for name, policy in {"frozen": NEVER, "weekly": Policy(WEEKLY)}.items():
        line = play(policy, models, START, END)
        served = pd.Series(moments_served(models, line.served))
        age[name] = models.rows.event_timestamp - pd.to_datetime(served)
        assert age[name].min() > pd.Timedelta(0), "a model that was not trained yet"
    assert age["weekly"].max() <= WEEKLY
    assert age["frozen"].max() == END - START


def test_a_gated_model_serves_a_shadow_period_after_its_training_and_a_broken_one_never(
    models: WeeklyModels,
) -> None:
    line = play(GATED, models, START, END)
    served = moments_served(models, line.served)
    ages = models.rows.event_timestamp - pd.to_datetime(pd.Series(served))
    after = models.rows.event_timestamp > START + SHADOW_PERIOD
    assert ages[after].min() > SHADOW_PERIOD
    assert set(np.array(served)[~after]) == {START - HOLDOUT}, "the first version has a holdout"
    assert BROKEN not in served
    rejected = [event["at"] for event in line.events if event["kind"] == "rejected"]
    assert rejected == [(BROKEN + SHADOW_PERIOD).isoformat()]
    assert line.trainings == 1 + sum(event["kind"] == "retrain" for event in line.events)


def test_the_gate_evaluates_nothing_that_was_not_due(
    models: WeeklyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[pd.DataFrame] = []

    def recording(rows: pd.DataFrame, *arguments: object) -> object:
        evaluated.append(rows)
        return evaluate_challenger(rows, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(policies, "evaluate_challenger", recording)
    line = play(GATED, models, START, END)
    at = [e["at"] for e in line.events if e["kind"] in ("promoted", "rejected")]
    assert len(at) == len(evaluated) > 15
    for now, rows in zip(map(pd.Timestamp, at), evaluated, strict=True):
        assert rows.due_at.max() <= now
        assert rows.event_timestamp.min() > now - SHADOW_PERIOD


def test_an_alert_starts_a_training_where_there_is_no_schedule(models: WeeklyModels) -> None:
    line = play(POLICIES["shadow, superior at .50, alerts only"], models, START, END)
    reasons = [event["reason"] for event in line.events if event["kind"] == "retrain"]
    assert reasons and all("spreads on" in reason for reason in reasons)


def test_the_comparison_is_paired_and_has_the_choice_and_the_holdout_apart(
    models: WeeklyModels,
) -> None:
    frozen = next(iter(POLICIES))
    names = (frozen, REFERENCE, "every 14 days, no gate")
    report = {
        "start": START.isoformat(), "end": END.isoformat(), "models": 22, "training_seconds": 7.0,
        "rows": compare_policies(models, START, END, names),
        "detection": detection_report(models, START, END),
    }  # fmt: skip
    table = pd.DataFrame(report["rows"])
    parts = table[table.period.isin(["choice", "holdout"])].groupby("policy").n.sum()
    assert (parts == len(models.rows)).all()
    zero = table[table.policy == frozen].minus_frozen.iloc[0]
    assert (zero["difference"], zero["low"], zero["high"]) == (0.0, 0.0, 0.0)
    fortnightly = table[table.policy == "every 14 days, no gate"].iloc[-1]
    assert fortnightly.period == "all" and fortnightly.minus_frozen["high"] < 0
    page = "\n".join(policies_section(report))
    assert f"| every 14 days, no gate | {fortnightly.log_loss:.4f} |" in page
    for rule in RULES:
        assert f"| {rule} | holdout |" in page


def test_an_alarm_needs_enough_days_and_rules_find_a_simulated_change() -> None:
    rng = np.random.default_rng(1)
    days = pd.date_range("2020-01-01", periods=120)
    calm = pd.DataFrame(rng.normal(0, 0.03, (120, 2)), days, ["residual", "excess_loss"])
    changed = calm + 0.1
    for name, rule in RULES.items():
        assert len(alarms(rule, calm)) <= 1, name
        found = alarms(rule, changed)
        if name != "Page-Hinkley of the excess loss":  # it tests for a rise, not for a level
            assert found[0] >= MIN_MONITORING_DAYS - 1
        took = [d for d in delays(rule, calm, changed) if d is not None]
        assert took and max(took) <= detection.PATIENCE_DAYS, name
