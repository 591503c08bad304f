"""The gate's rules, one by one, on made-up flights whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from ontime.gate import (
    CALIBRATION_TOLERANCE,
    LATENCY_TOLERANCE,
    MIN_FLIGHTS,
    judge_against_champion,
    judge_first,
)

N, DAYS = 4_000, 20


@pytest.fixture
def flights() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    departure = pd.date_range("2013-05-01", periods=DAYS, freq="D", tz="UTC").repeat(N // DAYS)
    truth = rng.uniform(0.02, 0.9, N)
    return pd.DataFrame(
        {
            "scheduled_departure": departure + pd.to_timedelta(rng.integers(10, 23, N), unit="h"),
            "carrier": rng.choice(["UA", "B6"], N),
            "origin": rng.choice(["EWR", "JFK"], N),
            "truth": truth,
            "is_late": rng.random(N) < truth,
        }
    )


@pytest.fixture
def good(flights: pd.DataFrame) -> np.ndarray:
    return flights.truth.to_numpy()


@pytest.fixture
def worse(good: np.ndarray) -> np.ndarray:
    return 0.5 * good + 0.5 * good.mean()


def test_a_better_challenger_is_promoted_and_the_reason_says_by_how_much(
    flights: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    verdict = judge_against_champion(flights, good, worse, latency_ratio=1.0)
    assert verdict.promote
    assert "better on 4,000 unseen flights" in verdict.reasons[0]
    assert verdict.evidence["log_loss"]["high"] < 0


def test_the_champion_itself_is_refused_as_its_own_challenger(
    flights: pd.DataFrame, good: np.ndarray
) -> None:
    verdict = judge_against_champion(flights, good, good, latency_ratio=1.0)
    assert not verdict.promote
    assert "confidence 0.500" in verdict.reasons[0]


@pytest.mark.parametrize("n", [0, MIN_FLIGHTS - 1])
def test_a_challenger_judged_on_too_few_flights_is_refused(
    flights: pd.DataFrame, good: np.ndarray, worse: np.ndarray, n: int
) -> None:
    few = slice(0, n)
    for verdict in (
        judge_against_champion(flights[few], good[few], worse[few], latency_ratio=1.0),
        judge_first(flights[few], good[few], {"worse": worse[few]}),
    ):
        assert not verdict.promote
        (reason,) = verdict.reasons
        assert reason == f"judged on {n:,} flights, fewer than {MIN_FLIGHTS:,}"


def test_a_challenger_that_wins_but_is_worse_calibrated_is_refused(
    flights: pd.DataFrame, good: np.ndarray
) -> None:
    off = np.clip(good + 5 * CALIBRATION_TOLERANCE, 0.01, 0.99)
    constant = np.full(N, flights.is_late.mean())  # calibrated, and useless
    verdict = judge_against_champion(flights, off, constant, latency_ratio=1.0)
    assert [reason for reason in verdict.reasons if reason.startswith("worse calibrated")]
    assert len(verdict.reasons) == 1


def test_a_challenger_that_wins_but_fails_one_group_is_refused_and_the_group_named(
    flights: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    night = (flights.origin == "JFK").to_numpy()
    mixed = np.where(night, 0.6 * worse + 0.4 * (1 - good), good)
    champion = np.where(night, good, 0.15 * good + 0.85 * good.mean())
    verdict = judge_against_champion(flights, mixed, champion, latency_ratio=1.0)
    assert not verdict.promote
    assert any(reason.startswith("worse for origin JFK") for reason in verdict.reasons)
    assert not any("origin EWR" in reason for reason in verdict.reasons)


def test_a_slower_challenger_is_refused(
    flights: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    verdict = judge_against_champion(flights, good, worse, latency_ratio=LATENCY_TOLERANCE + 0.1)
    assert not verdict.promote
    assert verdict.reasons == ("slower: 1.6 times the champion's time to answer",)


def test_the_first_model_has_to_beat_every_baseline(
    flights: pd.DataFrame, good: np.ndarray, worse: np.ndarray
) -> None:
    base_rate = np.full(N, flights.is_late.mean())
    assert judge_first(flights, good, {"base_rate": base_rate, "logistic": worse}).promote
    refused = judge_first(flights, worse, {"base_rate": base_rate, "logistic": good})
    assert not refused.promote
    assert refused.reasons[0].startswith("better than logistic with confidence 0.0")
