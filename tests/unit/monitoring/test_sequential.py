"""Sequential tests find a shift that no single day shows, and stay silent without one."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from monitoring import sequential
from monitoring.sequential import LIMITS, cusum, page_hinkley, sequential_tests
from ontime.problem import MIN_MONITORING_DAYS

START = datetime(2020, 6, 1, tzinfo=UTC)
PER_DAY = 100
SHIFT_DAY = 20


@pytest.fixture(autouse=True)
def _utc_days(monkeypatch: pytest.MonkeyPatch) -> None:
    def utc_day(rows: pd.DataFrame) -> np.ndarray:
        return rows.as_of.to_numpy(dtype="datetime64[ns]").astype("datetime64[D]")

    monkeypatch.setattr(sequential, "local_day", utc_day)


def predictions(n_days: int, shift: float = 0.0) -> pd.DataFrame:
    """Calibrated probabilities; labels become more frequent by ``shift`` from a day on."""
    rng = np.random.default_rng(0)
    n = n_days * PER_DAY
    day = np.arange(n) // PER_DAY
    p = rng.uniform(0.1, 0.5, n)
    label = rng.random(n) < p + shift * (day >= SHIFT_DAY)
    as_of = pd.Timestamp(START) + pd.to_timedelta(day, unit="D")
    return pd.DataFrame({"as_of": as_of, "probability": p, "label": label})


def above(rows: pd.DataFrame, since: datetime | None = None) -> set[str]:
    statistics = sequential_tests(rows, since).statistics
    return {name for name, value in statistics.items() if value > LIMITS[name]}


def test_calibrated_predictions_raise_no_alarm() -> None:
    found = sequential_tests(predictions(28), None)
    assert (found.n_labels, found.n_days, found.n_tested) == (28 * PER_DAY, 28, 28)
    assert set(found.statistics) == set(LIMITS)
    assert above(predictions(28)) == set()


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_shift_adds_up_in_both_directions(shift: float) -> None:
    assert "residual" in above(predictions(28, shift))
    assert "residual" not in above(predictions(SHIFT_DAY + 1, shift)), "one day is not enough"


def test_a_rise_of_the_loss_above_its_entropy_is_found_and_a_hard_period_is_not() -> None:
    assert "excess_loss" in above(predictions(28, shift=0.2))
    rows = predictions(28)
    harder = rows.as_of >= pd.Timestamp(START) + pd.Timedelta(days=SHIFT_DAY)
    p = rows.probability.where(~harder, 0.5)  # a loss of ln 2, which the prediction itself states
    label = rows.label.where(~harder, np.random.default_rng(1).random(len(rows)) < 0.5)
    assert above(rows.assign(probability=p, label=label)) == set()


def test_the_tests_start_anew_at_the_last_gate_result() -> None:
    rows = predictions(28, shift=0.1)
    evaluated = START + timedelta(days=27)
    assert above(rows, evaluated) == set()
    assert sequential_tests(rows, evaluated).n_tested == 1
    assert sequential_tests(rows, START + timedelta(days=99)).statistics == {}


def test_without_enough_days_for_the_spread_nothing_is_tested() -> None:
    assert sequential_tests(predictions(MIN_MONITORING_DAYS - 1), None).statistics == {}
    assert sequential_tests(predictions(MIN_MONITORING_DAYS), None).statistics
    assert sequential_tests(predictions(28)[:0], None).n_days == 0


def test_the_statistics_follow_their_definitions() -> None:
    z = np.array([1.0, 1.0, -0.5, 3.0])
    k = sequential.CUSUM_ALLOWANCE
    upward = [1 - k, 2 - 2 * k, 1.5 - 3 * k, 4.5 - 4 * k]
    assert cusum(2 * z, scale=2.0).tolist() == pytest.approx(upward)
    assert cusum(-2 * z, scale=2.0).tolist() == pytest.approx(upward)
    d = sequential.PAGE_HINKLEY_ALLOWANCE
    # Running means 0, 0, 2: the last value is 4 above its mean.
    assert page_hinkley(np.array([0.0, 0.0, 6.0]), 1.0).tolist() == pytest.approx([0, 0, 4 - d])
