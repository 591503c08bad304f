"""The model card states the problem's texts, the test period and the slices with a bias."""

import pandas as pd
import pytest

from ontime.data.splits import Split
from ontime.evaluation.model_card import model_card
from ontime.models.serialization import TrainedModel
from ontime.problem import LIMITS, POSITIVE_LABEL, QUESTION
from tests.unit.models.conftest import model as model  # the fixture


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
    return model_card(model, Split(rows[:1000], rows[1000:1200], rows[1200:]), tables)


def test_the_card_states_the_problem_and_its_limits(card: str) -> None:
    for text in (QUESTION, POSITIVE_LABEL, *LIMITS):
        assert text in card


def test_the_card_states_rows_period_and_threshold(card: str) -> None:
    assert "trained through | 2001-02-20 00:00 UTC (1,200 " in card
    assert "evaluated on | 300 " in card
    assert "from 2001-02-20 to 2001-03-04 |" in card
    assert "decision threshold | 0.30" in card
    assert "| network | 0.1235 |" in card


def test_a_bias_of_more_than_three_errors_is_marked(card: str) -> None:
    assert "- kind: b -0.010 to a +0.050" in card
    (marked,) = [line for line in card.splitlines() if "<-" in line]
    assert marked.startswith("| kind | a |")
