"""Scores of served predictions: what is due, what is scored, how wide the intervals are."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

import monitoring.performance
from monitoring.performance import PerformanceError, costs_per_1000, performance
from ontime.evaluation.metrics import scores
from ontime.problem import COST_FALSE_ALARM, COST_MISS

NOW = datetime(2020, 6, 1, tzinfo=UTC)
DUE_AFTER = timedelta(hours=12)
VALIDATION = {
    "auc": 0.77,
    "pr_auc": 0.55,
    "log_loss": 0.48,
    "brier": 0.15,
    "ece": 0.01,
    "mean_prediction": 0.26,
    "positive_rate": 0.25,
    "n": 9000.0,
}


@pytest.fixture(autouse=True)
def _days_of_the_prediction_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clusters of these rows, which have no request fields."""

    def utc_day(rows: pd.DataFrame) -> np.ndarray:
        return rows["as_of"].to_numpy(dtype="datetime64[D]")

    monkeypatch.setattr(monitoring.performance, "local_day", utc_day)


def served(days: int = 28, per_day: int = 200, seed: int = 0, shift: float = 0.0) -> pd.DataFrame:
    """Calibrated predictions (plus ``shift``) of the days before NOW; the rate varies by day."""
    rng = np.random.default_rng(seed)
    logits = np.repeat(rng.normal(-1.3, 0.8, days), per_day) + rng.normal(0, 0.8, days * per_day)
    p = 1 / (1 + np.exp(-logits))
    minutes = np.sort(rng.integers(0, days * 1440, days * per_day))
    as_of = pd.Timestamp(NOW) - pd.to_timedelta(days * 1440 - minutes, unit="min")
    label = rng.random(len(p)) < p
    return pd.DataFrame(
        {
            "as_of": as_of,
            "due_at": as_of + DUE_AFTER,
            "probability": np.clip(p + shift, 0.001, 0.999),
            "label": pd.array(label, dtype="boolean"),
            "known_at": as_of + pd.to_timedelta(np.where(label, 6, 4), unit="h"),
        }
    )


def test_only_due_instances_are_scored() -> None:
    frame = served()
    found = performance(frame, NOW, VALIDATION)
    due = frame[frame.due_at <= NOW]
    expected = scores(due.label.to_numpy(dtype=bool), due.probability.to_numpy())
    assert found.n_served == len(frame) and found.n_due == found.n_known == len(due) < len(frame)
    assert found.label_coverage == 1.0
    for name in ("auc", "log_loss", "brier", "ece"):
        assert found.scores[name].value == pytest.approx(expected[name])
    assert found.mean_prediction == pytest.approx(frame.probability.mean())


def test_a_label_that_is_known_early_does_not_count_before_it_is_due() -> None:
    """At NOW the newest negative labels are known and the newest positive ones are not."""
    frame = served()
    frame.loc[frame.known_at > NOW, ["label", "known_at"]] = [pd.NA, pd.NaT]
    found = performance(frame, NOW, VALIDATION)
    assert found.n_known < frame.label.notna().sum()
    assert found.label_coverage == 1.0


def test_a_label_known_after_the_clock_does_not_count() -> None:
    frame = served()
    frame.loc[frame.index[:100], "known_at"] = pd.Timestamp(NOW) + timedelta(hours=1)
    found = performance(frame, NOW, VALIDATION)
    assert found.n_known == found.n_due - 100
    assert found.label_coverage == pytest.approx(1 - 100 / found.n_due)


def test_a_shifted_model_has_that_calibration_bias() -> None:
    bias = performance(served(shift=0.2), NOW, VALIDATION).scores["calibration_bias"]
    assert bias.value == pytest.approx(0.2, abs=0.03)
    assert 0 < bias.low < bias.value < bias.high


def test_days_are_resampled_and_not_rows() -> None:
    """Ten times the rows of the same days hardly narrow the interval of the base rate."""
    few = performance(served(per_day=100), NOW, VALIDATION).scores["base_rate_log_loss"]
    many = performance(served(per_day=1000), NOW, VALIDATION).scores["base_rate_log_loss"]
    assert many.high - many.low > 0.5 * (few.high - few.low)


@pytest.mark.parametrize(
    "name", ["auc", "log_loss", "brier", "calibration_bias", "excess_log_loss"]
)
def test_an_estimate_is_within_its_interval(name: str) -> None:
    estimate = performance(served(), NOW, VALIDATION).scores[name]
    assert estimate.low < estimate.value < estimate.high


def test_the_excess_is_zero_at_the_normalized_entropy_of_validation() -> None:
    first = performance(served(), NOW, VALIDATION)
    assert first.positive_rate is not None
    log_loss = first.scores["log_loss"].value
    same = VALIDATION | {"log_loss": log_loss, "positive_rate": first.positive_rate}
    excess = performance(served(), NOW, same).scores["excess_log_loss"]
    assert excess.value == pytest.approx(0)
    assert excess.low < 0 < excess.high


def test_a_harder_period_alone_is_no_excess() -> None:
    """Twice the positive rate costs log-loss, and none of it counts as excess."""
    rng = np.random.default_rng(0)
    losses, excesses = [], []
    for centre in (-2.0, -0.6):
        frame = served(per_day=500)
        p = 1 / (1 + np.exp(-rng.normal(centre, 1.3, len(frame))))
        frame["probability"] = p
        frame["label"] = pd.array(rng.random(len(frame)) < p, dtype="boolean")
        found = performance(frame, NOW, VALIDATION)
        losses.append(found.scores["log_loss"].value)
        excesses.append(found.scores["excess_log_loss"].value)
    assert losses[1] - losses[0] > 0.15
    assert abs(excesses[1] - excesses[0]) < 0.03


def test_decisions_cost_less_than_deciding_alike_for_every_instance() -> None:
    frame = served()
    costs = performance(frame, NOW, VALIDATION).cost_per_1000
    scored = frame[frame.due_at <= NOW]
    rate = scored.label.mean()
    assert costs["always"] == pytest.approx(1000 * COST_FALSE_ALARM * (1 - rate))
    assert costs["never"] == pytest.approx(1000 * COST_MISS * rate)
    assert costs["served"] < min(costs["always"], costs["never"])
    known_rates = {0.0: "never", 1.0: "always"}
    for known_rate, same in known_rates.items():
        assert costs_per_1000(scored, known_rate)["base_rate"] == costs[same]
    assert performance(frame.tail(2), NOW, VALIDATION).cost_per_1000 == {}


@pytest.mark.parametrize("rows", [0, 5])
def test_without_labels_there_are_counts_and_no_scores(rows: int) -> None:
    found = performance(served().tail(rows), NOW, VALIDATION)  # nothing is due
    assert found.n_served == rows and found.n_known == 0 and found.scores == {}
    assert found.label_coverage is None  # unknown is not zero


def test_labels_of_one_class_are_not_scored() -> None:
    frame = served()
    frame["label"] = pd.array([False] * len(frame), dtype="boolean")
    found = performance(frame, NOW, VALIDATION)
    assert found.n_known > 0 and found.scores == {}


def test_validation_has_the_same_scores() -> None:
    found = performance(served(), NOW, VALIDATION)
    assert set(found.scores) - {"excess_log_loss"} < set(found.validation)
    assert found.validation["calibration_bias"] == pytest.approx(0.01)
    assert found.validation["base_rate_log_loss"] == pytest.approx(0.5623, abs=1e-4)
    assert found.validation["normalized_entropy"] == pytest.approx(0.48 / 0.5623, abs=1e-4)


def test_a_missing_validation_score_is_named() -> None:
    incomplete = {name: value for name, value in VALIDATION.items() if name != "positive_rate"}
    with pytest.raises(PerformanceError, match="missing: positive_rate"):
        performance(served(), NOW, incomplete)


def test_the_result_is_json_and_equal_every_time() -> None:
    texts = {json.dumps(asdict(performance(served(), NOW, VALIDATION))) for _ in range(2)}
    assert len(texts) == 1
    json.loads(texts.pop(), parse_constant=pytest.fail)
