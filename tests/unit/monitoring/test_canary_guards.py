"""The guards of a canary: each fails alone, and none fails without a cause."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring import canary_guards as guards
from monitoring.canary_guards import CanaryDecision, evaluate_canary
from ontime.evaluation import bootstrap
from ontime.problem import MIN_SLICE_INSTANCES
from ontime.storage.decision_log import ChampionChange

START = datetime(2020, 6, 1, tzinfo=UTC)
N_DAYS, PER_DAY = 4, 1_000
NOW = START + timedelta(days=N_DAYS)
CANARY = ChampionChange(2, "canary", "2", "1", START, [], 0.25)


@pytest.fixture(autouse=True)
def _utc_days(monkeypatch: pytest.MonkeyPatch) -> None:
    def utc_day(rows: pd.DataFrame) -> np.ndarray:
        return rows.as_of.to_numpy(dtype="datetime64[ns]").astype("datetime64[D]")

    monkeypatch.setattr(bootstrap, "local_day", utc_day)


def traffic(**changes: Any) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of a good canary beside its champion, and the champion's probabilities.

    ``changes``: columns that replace those of the canary's rows.
    """
    rng = np.random.default_rng(0)
    n = N_DAYS * PER_DAY
    names = [f"instance {i}" for i in range(n)]
    as_of = START + pd.to_timedelta((np.arange(n) + 1) * 24 * 60 // PER_DAY, unit="min")
    champion = rng.beta(2, 6, n)
    own = np.array([CANARY.takes(name) for name in names])
    slightly_better = np.clip(champion + rng.normal(0, 0.02, n), 0.001, 0.999)
    rows = pd.DataFrame(
        {
            "instance_id": names,
            "as_of": as_of,
            "due_at": as_of + timedelta(hours=12),
            "predicted_at": as_of.floor("h"),  # one batch per hour
            "label": pd.array(rng.random(n) < slightly_better, dtype="boolean"),
            "model_version": np.where(own, "2", "1"),
            "probability": np.where(own, slightly_better, champion),
            "model_seconds": 0.002,
        }
    )
    for name, value in changes.items():
        rows.loc[own, name] = value(rows[own]) if callable(value) else value
    return rows, champion


def decide(
    rows: pd.DataFrame, champion: np.ndarray, shares: tuple[float, ...] = (0.05, 0.25)
) -> CanaryDecision:
    return evaluate_canary(rows, champion, CANARY, shares, NOW)


def test_a_good_canary_is_widened_and_at_its_last_share_promoted() -> None:
    widened = decide(*traffic(), shares=(0.05, 0.25, 0.5))
    assert (widened.action, widened.share) == ("widen", 0.5)
    promoted = decide(*traffic())
    assert (promoted.action, promoted.share) == ("promote", None)
    assert len(promoted.reasons) == 7, "the instances, and one sentence for each guard"
    assert decide(*traffic(), shares=()).action == "promote", "the setting was emptied meanwhile"


def slower(rows: pd.DataFrame) -> float:
    return 0.0031


def some_by_the_champion(rows: pd.DataFrame) -> list[str]:
    return ["1" if i % 50 == 0 else "2" for i in range(len(rows))]


def some_outside(rows: pd.DataFrame) -> np.ndarray:
    probabilities = rows.probability.to_numpy(copy=True)
    probabilities[::16] = 0.9999
    return probabilities


def positive_there(rows: pd.DataFrame) -> np.ndarray:
    labels = rows.label.to_numpy(dtype=bool)
    labels[::16] = True
    return labels


def shifted(rows: pd.DataFrame) -> np.ndarray:
    return rows.probability.to_numpy() + 0.11


def as_often_as_predicted_before(rows: pd.DataFrame) -> np.ndarray:
    """Labels with the rate of the shifted probabilities: calibrated, and none is due too early."""
    return np.random.default_rng(1).random(len(rows)) < shifted(rows)


def shuffled(rows: pd.DataFrame) -> np.ndarray:
    return np.random.default_rng(0).permutation(rows.probability.to_numpy())


def too_high(rows: pd.DataFrame) -> np.ndarray:
    return rows.probability.to_numpy() + 0.08


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_version": some_by_the_champion}, "fallbacks to the champion 0.02"),
        ({"model_seconds": slower}, "latency divided by the champion's 1.550, limit 1.5"),
        (
            {"probability": some_outside, "label": positive_there},
            "outside the champion's range 0.06",
        ),
        (
            {"label": as_often_as_predicted_before, "probability": shifted},
            "shift of the mean probability 0.11",
        ),
        ({"probability": too_high}, "growth of the calibration bias 0.0"),
        ({"probability": shuffled}, "log-loss difference +0."),
    ],
    ids=["errors", "latency", "range", "shift", "calibration", "log-loss"],
)
def test_one_guard_that_fails_rolls_back_and_is_named(changes: dict[str, Any], reason: str) -> None:
    found = decide(*traffic(**changes))
    assert (found.action, found.share) == ("rollback", None)
    (named,) = found.reasons
    assert reason in named


def test_a_canary_that_answers_nothing_is_rolled_back_whatever_their_number() -> None:
    rows, champion = traffic(model_version="1")
    first = rows[rows.instance_id.map(CANARY.takes)].head(1)
    found = decide(first, champion[first.index])
    assert found.action == "rollback"
    assert found.reasons == ["fallbacks to the champion 1.000, limit 0.01"]


def test_with_few_instances_it_waits() -> None:
    rows, champion = traffic(probability=0.9)  # which a guard will see
    taken = np.cumsum(rows.instance_id.map(CANARY.takes))
    few = taken < guards.MIN_ANSWERED
    assert decide(rows[few], champion[few]).action == "wait"
    enough = taken <= guards.MIN_ANSWERED
    assert decide(rows[enough], champion[enough]).action == "rollback"
    assert decide(rows[:0], champion[:0]).action == "wait"


def test_the_step_to_all_instances_waits_for_due_outcomes() -> None:
    rows, champion = traffic(label=None)
    assert decide(rows, champion, shares=(0.25, 0.5)).action == "widen"
    found = decide(rows, champion)
    assert found.action == "wait"
    assert f"0 outcomes are due and known, {MIN_SLICE_INSTANCES} are needed" in found.reasons[-1]
    known_too_early, champion = traffic()
    known_too_early["due_at"] = NOW + timedelta(minutes=1)
    assert decide(known_too_early, champion).action == "wait", "a known label that is not due"


def test_predictions_of_the_share_before_count_for_the_outcomes_only() -> None:
    rows, champion = traffic(model_version=some_by_the_champion)
    wider = ChampionChange(3, "canary", "2", "1", NOW - timedelta(hours=12), [], 0.25)
    present = rows.as_of > wider.as_of
    rows.loc[present & rows.instance_id.map(wider.takes), "model_version"] = "2"
    found = evaluate_canary(rows, champion, wider, (0.25,), NOW)
    assert found.action == "promote", found.reasons
    assert found.reasons[1] == "fallbacks to the champion 0.000, limit 0.01"


def test_few_forward_passes_say_nothing_about_latency() -> None:
    rows, champion = traffic(model_seconds=0.01)
    assert decide(rows, champion).action == "rollback"
    rows["predicted_at"] = rows.predicted_at.dt.floor(f"{N_DAYS}D")
    few = decide(rows, champion)
    assert few.action == "promote" and not any("latency" in reason for reason in few.reasons)


def test_the_range_is_that_of_the_champion_on_all_instances() -> None:
    rows, champion = traffic()
    own = (rows.model_version == "2").to_numpy()
    champion[~own] = np.minimum(champion[~own], 0.4)
    rows.loc[~own, "probability"] = champion[~own]
    assert (rows.probability[own] > 0.4).mean() > guards.MAX_OUTSIDE
    assert not any("range" in reason for reason in failed_guards(decide(rows, champion)))


def failed_guards(decision: CanaryDecision) -> list[str]:
    return decision.reasons if decision.action == "rollback" else []
