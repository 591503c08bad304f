"""The gate's rules, one by one, on synthetic rows whose true probabilities are known."""

import numpy as np
import pandas as pd
import pytest

from ontime.problem import MIN_GATE_INSTANCES, MIN_SLICE_INSTANCES
from ontime.registry.gate import (
    CALIBRATION_TOLERANCE,
    LATENCY_TOLERANCE,
    NOT_INFERIOR,
    GateRule,
    evaluate_challenger,
    evaluate_first_model,
)

N = max(MIN_GATE_INSTANCES, 3 * MIN_SLICE_INSTANCES, 4_000)
N_DAYS = 20


@pytest.fixture(autouse=True)
def _synthetic_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    slices = {"site": lambda rows: rows["site"].to_numpy(dtype=str)}
    monkeypatch.setattr("ontime.registry.gate.SLICES", slices)
    monkeypatch.setattr("ontime.evaluation.bootstrap.local_day", lambda rows: rows["day"])


@pytest.fixture
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    truth, site = rng.uniform(0.02, 0.9, N), rng.choice(["x", "y"], N)
    label = rng.random(N) < truth
    return pd.DataFrame(
        {"day": np.arange(N) % N_DAYS, "site": site, "truth": truth, "label": label}
    )


@pytest.fixture
def good(rows: pd.DataFrame) -> np.ndarray:
    return rows.truth.to_numpy()


@pytest.fixture
def worse(good: np.ndarray) -> np.ndarray:
    return 0.5 * good + 0.5 * good.mean()


def test_a_better_challenger_is_promoted_and_the_reason_states_the_difference(
    rows: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    result = evaluate_challenger(rows, good, worse, latency_ratio=1.0)
    assert result.promote
    (reason,) = result.reasons
    assert reason.startswith("probability 1.000 of a log-loss difference below 0 on ")
    assert f"{result.evidence['log_loss']['difference']:+.4f}" in reason
    assert result.evidence["log_loss"]["high"] < 0


def test_an_equal_challenger_is_promoted_by_non_inferiority_and_not_by_certain_superiority(
    rows: pd.DataFrame, good: np.ndarray
) -> None:
    assert evaluate_challenger(rows, good, good, 1.0, GateRule(0.005, 0.95)).promote
    result = evaluate_challenger(rows, good, good, 1.0, GateRule(0.0, 0.90))
    assert not result.promote
    assert "probability 0.500 of a log-loss difference below 0, below 0.90" in result.reasons[0]


def test_by_default_only_a_clearly_worse_challenger_is_rejected(
    rows: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    assert evaluate_challenger(rows, good, good, 1.0).promote
    assert not evaluate_challenger(rows, worse, good, 1.0).promote


def test_two_seeds_agree_within_the_stated_error(
    rows: pd.DataFrame, good: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    week = rows.assign(day=np.arange(N) % 7)
    noise = np.random.default_rng(3).normal(0, 0.05, N)
    other = np.clip(good + noise, 0.01, 0.99)
    found = []
    for seed in range(20):
        monkeypatch.setattr("ontime.registry.gate.SEED", seed)
        result = evaluate_challenger(week, good, other, 1.0, GateRule(-0.005, 0.5))
        probability = result.evidence["log_loss"]["probability_of_improvement"]
        found.append((probability, result.evidence["monte_carlo_error"], result.promote))
    probabilities = np.array([probability for probability, *_ in found])
    assert 0.05 < probabilities.mean() < 0.95, "a case on which seeds could disagree"
    assert probabilities.std() < 2 * found[0][1] < 0.004
    assert len({promoted for *_, promoted in found}) == 1


@pytest.mark.parametrize("n", [0, MIN_GATE_INSTANCES - 1])
def test_a_challenger_evaluated_on_too_few_rows_is_rejected(
    rows: pd.DataFrame, good: np.ndarray, worse: np.ndarray, n: int
) -> None:
    few = slice(0, n)
    for result in (
        evaluate_challenger(rows[few], good[few], worse[few], latency_ratio=1.0),
        evaluate_first_model(rows[few], good[few], {"worse": worse[few]}, {}),
    ):
        assert not result.promote
        (reason,) = result.reasons
        assert reason.startswith(f"evaluated on {n:,} ")
        assert reason.endswith(f"fewer than {MIN_GATE_INSTANCES:,}")
        assert result.evidence == {"n": n}


def test_a_better_challenger_that_is_worse_calibrated_is_rejected(
    rows: pd.DataFrame, good: np.ndarray
) -> None:
    shifted = np.clip(good + 5 * CALIBRATION_TOLERANCE, 0.01, 0.99)
    constant = np.full(N, rows.label.mean())  # calibrated without any discrimination
    result = evaluate_challenger(rows, shifted, constant, latency_ratio=1.0)
    assert not result.promote
    (reason,) = result.reasons
    assert reason.startswith("worse calibrated than the champion: ECE")


def test_a_better_challenger_that_is_worse_in_one_slice_is_rejected_and_the_slice_named(
    rows: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    is_y = (rows.site == "y").to_numpy()
    mixed = np.where(is_y, 0.6 * worse + 0.4 * (1 - good), good)
    champion = np.where(is_y, good, 0.15 * good + 0.85 * good.mean())
    result = evaluate_challenger(rows, mixed, champion, latency_ratio=1.0)
    assert not result.promote
    assert any(reason.startswith("worse for site y: log-loss") for reason in result.reasons)
    assert list(result.evidence["worse_slices"]) == ["site y"]


def test_a_slower_challenger_is_rejected(
    rows: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    result = evaluate_challenger(rows, good, worse, latency_ratio=LATENCY_TOLERANCE + 0.1)
    assert not result.promote
    assert result.reasons == ("slower: 1.6 times the champion's latency, limit 1.5",)


def test_the_first_model_must_be_better_than_every_baseline(
    rows: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    base_rate = np.full(N, rows.label.mean())
    assert evaluate_first_model(rows, good, {"base_rate": base_rate, "logistic": worse}, {}).promote
    rejected = evaluate_first_model(rows, worse, {"base_rate": base_rate, "logistic": good}, {})
    assert not rejected.promote
    assert rejected.reasons[0].startswith("not better than the logistic baseline")
    assert rejected.evidence["log_loss_against_base_rate"]["high"] < 0


def test_the_first_model_may_be_behind_trees_by_the_margin_and_no_more(
    rows: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    base_rate = {"base_rate": np.full(N, rows.label.mean())}
    slightly = 0.98 * good + 0.02 * good.mean()
    result = evaluate_first_model(rows, slightly, base_rate, {"lightgbm": good})
    assert result.promote
    assert 0 < result.evidence["log_loss_against_lightgbm"]["difference"] < NOT_INFERIOR.margin
    assert result.reasons[0].endswith("not inferior to lightgbm by 0.005")
    rejected = evaluate_first_model(rows, worse, base_rate, {"lightgbm": good})
    assert not rejected.promote
    assert "probability 0.000 of a log-loss difference below 0.005" in rejected.reasons[0]
