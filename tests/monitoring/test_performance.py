"""Figures on served predictions: what is scored, what is due, how wide the intervals are."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from monitoring.performance import PerformanceError, performance
from ontime.evaluation import scores

NOW = datetime(2013, 6, 1, tzinfo=UTC)
VALIDATION = {
    "auc": 0.77,
    "pr_auc": 0.55,
    "log_loss": 0.48,
    "brier": 0.15,
    "ece": 0.01,
    "mean_prediction": 0.26,
    "late_share": 0.25,
    "n": 9000.0,
}


def served(days: int = 28, a_day: int = 200, seed: int = 0, shift: float = 0.0) -> pd.DataFrame:
    """Calibrated predictions of the days before NOW; each day has weather of its own."""
    rng = np.random.default_rng(seed)
    weather = np.repeat(rng.normal(-1.3, 0.8, days), a_day)
    odds = weather + rng.normal(0, 0.8, days * a_day)
    p = 1 / (1 + np.exp(-odds))
    minutes = np.sort(rng.integers(0, days * 1440, days * a_day))
    departure = pd.Timestamp(NOW) - pd.to_timedelta(days * 1440 - minutes, unit="min")
    late = rng.random(len(p)) < p
    return pd.DataFrame(
        {
            "as_of": departure.floor("h") - pd.Timedelta(hours=2),
            "scheduled_departure": departure,
            "probability_late": np.clip(p + shift, 0.001, 0.999),
            "is_late": pd.array(late, dtype="boolean"),
            "known_at": departure + pd.to_timedelta(np.where(late, 6, 4), unit="h"),
        }
    )


def test_the_figures_are_those_of_the_due_flights_alone() -> None:
    frame = served()
    found = performance(frame, NOW, VALIDATION)
    due = frame[frame.scheduled_departure <= pd.Timestamp(NOW) - timedelta(hours=12)]
    expected = scores(due.is_late.to_numpy(dtype=bool), due.probability_late.to_numpy())
    assert found.n_served == len(frame) and found.n_due == found.n_known == len(due)
    assert found.label_coverage == 1.0
    for name in ("auc", "log_loss", "brier", "ece"):
        assert found.scores[name].value == pytest.approx(expected[name])
    assert found.mean_prediction == pytest.approx(frame.probability_late.mean())


def test_a_flight_that_reports_early_does_not_count_before_its_fellows() -> None:
    """By NOW the punctual flights of the last hours are known and the late ones are not."""
    frame = served()
    frame.loc[frame.known_at > NOW, ["is_late", "known_at"]] = [pd.NA, pd.NaT]
    known = frame[frame.is_late.notna()]
    assert performance(frame, NOW, VALIDATION).n_known < len(known)
    assert performance(frame, NOW, VALIDATION).label_coverage == 1.0


def test_an_outcome_known_after_the_clock_does_not_count() -> None:
    frame = served()
    frame.loc[frame.index[:100], "known_at"] = pd.Timestamp(NOW) + timedelta(hours=1)
    found = performance(frame, NOW, VALIDATION)
    assert found.n_known == found.n_due - 100
    assert found.label_coverage == pytest.approx(1 - 100 / found.n_due)


def test_a_shifted_model_has_that_calibration_gap_clear_of_zero() -> None:
    gap = performance(served(shift=0.2), NOW, VALIDATION).scores["calibration_gap"]
    assert gap.value == pytest.approx(0.2, abs=0.03)
    assert 0 < gap.low < gap.value < gap.high


def test_intervals_resample_days_and_not_flights() -> None:
    """Ten times the flights of the same days tell hardly more about the late share."""
    few = performance(served(a_day=100), NOW, VALIDATION).scores["constant_log_loss"]
    many = performance(served(a_day=1000), NOW, VALIDATION).scores["constant_log_loss"]
    assert many.high - many.low > 0.5 * (few.high - few.low)


@pytest.mark.parametrize("name", ["auc", "log_loss", "brier", "calibration_gap", "excess_log_loss"])
def test_an_estimate_lies_within_its_interval(name: str) -> None:
    estimate = performance(served(), NOW, VALIDATION).scores[name]
    assert estimate.low < estimate.value < estimate.high


def test_the_excess_is_zero_where_validation_kept_its_promise() -> None:
    """The same share of a constant's loss as on validation, whatever the late share."""
    frame = served()
    own = performance(frame, NOW, VALIDATION)
    late_share = own.late_share
    assert late_share is not None
    promised = VALIDATION | {
        "log_loss": own.scores["log_loss"].value,
        "late_share": late_share,
    }
    excess = performance(frame, NOW, promised).scores["excess_log_loss"]
    assert excess.value == pytest.approx(0)
    assert excess.low < 0 < excess.high


def test_a_harder_week_alone_is_no_excess() -> None:
    """Twice the late share costs log-loss; measured against the constant it costs nothing."""
    rng = np.random.default_rng(0)
    losses, excesses = [], []
    for centre in (-2.0, -0.6):
        frame = served(a_day=500)
        p = 1 / (1 + np.exp(-rng.normal(centre, 1.3, len(frame))))
        frame["probability_late"] = p
        frame["is_late"] = pd.array(rng.random(len(frame)) < p, dtype="boolean")
        found = performance(frame, NOW, VALIDATION)
        losses.append(found.scores["log_loss"].value)
        excesses.append(found.scores["excess_log_loss"].value)
    assert losses[1] - losses[0] > 0.15
    assert abs(excesses[1] - excesses[0]) < 0.03


@pytest.mark.parametrize("rows", [0, 5])
def test_without_labels_there_are_counts_and_no_scores(rows: int) -> None:
    frame = served().tail(rows)  # the last hours: nothing is due
    found = performance(frame, NOW, VALIDATION)
    assert found.n_served == rows and found.n_known == 0 and found.scores == {}
    assert found.label_coverage is None  # unknown is not zero


def test_labels_of_one_kind_are_not_scored() -> None:
    frame = served().assign(is_late=pd.array([False] * 5600, dtype="boolean"))
    found = performance(frame, NOW, VALIDATION)
    assert found.n_known > 0 and found.scores == {}


def test_the_validation_stands_beside_the_figures() -> None:
    found = performance(served(), NOW, VALIDATION)
    assert set(found.scores) - {"excess_log_loss"} < set(found.validation)
    assert found.validation["calibration_gap"] == pytest.approx(0.01)
    assert found.validation["constant_log_loss"] == pytest.approx(0.5623, abs=1e-4)


def test_a_validation_without_a_figure_is_named() -> None:
    with pytest.raises(PerformanceError, match="missing: late_share"):
        performance(
            served(), NOW, {name: v for name, v in VALIDATION.items() if name != "late_share"}
        )


def test_it_is_json_and_the_same_every_time() -> None:
    texts = {json.dumps(asdict(performance(served(), NOW, VALIDATION))) for _ in range(2)}
    assert len(texts) == 1
    json.loads(texts.pop(), parse_constant=pytest.fail)
