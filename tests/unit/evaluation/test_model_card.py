"""The model card states the problem's texts, the test period and the slices with a bias."""

import pandas as pd
import pytest

from ontime.data.splits import Split
from ontime.evaluation.model_card import model_card
from ontime.models.serialization import TrainedModel
from ontime.problem import LIMITS, POSITIVE_LABEL, QUESTION
from tests.unit.models.conftest import model as model  # the fixture

COSTS = {
    "cost_per_1000": 441.2,
    "cross_validated_threshold": 0.312,
    "cost_per_1000_at_cross_validated_threshold": 442.9,
}


@pytest.fixture
def card(model: TrainedModel) -> str:
    times = pd.date_range("2001-01-01", periods=1500, freq="h", tz="UTC").to_series()
    rows = pd.DataFrame({"event_timestamp": times.reset_index(drop=True)})
    slices = pd.DataFrame(
        {
            "slice": "kind",
            "value": ["a", "b"],
            "calibration_bias": [0.05, -0.01],
            "calibration_bias_error": [0.01, 0.01],
        }
    )
    number = pd.DataFrame({"model": ["network"], "log_loss": [0.123456]})
    tables = {"models": number, "differences": number, "importance": number, "slices": slices}
    model.metadata["trained_through"] = rows.event_timestamp[1200].isoformat()
    return model_card(model, Split.of(rows[:1000], rows[1000:1200], rows[1200:]), tables, COSTS)


def test_the_card_states_the_problem_and_its_limits(card: str) -> None:
    for text in (QUESTION, POSITIVE_LABEL, *LIMITS):
        assert text in card


def test_the_card_states_rows_period_and_threshold(card: str) -> None:
    assert "trained through | 2001-02-20 00:00 UTC (1,200 " in card
    assert "evaluated on | 300 " in card
    assert "from 2001-02-20 to 2001-03-04 |" in card
    assert "decision threshold | 0.30" in card
    assert "| network | 0.1235 |" in card
    assert "441 per 1,000" in card and "443 at 0.312" in card


def test_a_bias_of_more_than_three_errors_is_marked(card: str) -> None:
    assert "- kind: b -0.010 to a +0.050" in card
    (marked,) = [line for line in card.splitlines() if "<-" in line]
    assert marked.startswith("| kind | a |")


def test_without_test_rows_the_card_says_where_the_evaluation_is(model: TrainedModel) -> None:
    rows = pd.DataFrame({"event_timestamp": pd.date_range("2001-01-01", periods=20, tz="UTC")})
    model.metadata["trained_through"] = "2001-02-01T00:00:00+00:00"
    columns = ["slice", "value", "calibration_bias", "calibration_bias_error"]
    slices = pd.DataFrame([("kind", "a", 0.0, 0.1)], columns=columns)
    tables = {"models": rows, "differences": rows[:0], "importance": rows, "slices": slices}
    card = model_card(model, Split.of(rows[:10], rows[10:], rows[:0]), tables, COSTS)
    assert "trained through | 2001-02-01 00:00 UTC (20 " in card
    assert "evaluated on | live traffic in shadow" in card and "None: no test rows." in card
