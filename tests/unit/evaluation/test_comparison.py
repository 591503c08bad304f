"""Models compared on the same rows: one row of scores each, and differences from the network."""

import numpy as np
import pandas as pd
import pytest

from ontime.evaluation import bootstrap
from ontime.evaluation.comparison import ALL_BASELINES, QUICK_BASELINES, compare_models
from ontime.evaluation.metrics import scores
from ontime.problem import FIRST_GATE_BASELINES


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    def day(rows: pd.DataFrame) -> np.ndarray:
        return rows["day"].to_numpy()

    monkeypatch.setattr(bootstrap, "local_day", day)
    return pd.DataFrame({"label": np.arange(3000) % 4 == 0, "day": np.arange(3000) // 100})


def test_scores_and_differences_have_one_row_per_model(rows: pd.DataFrame) -> None:
    good = np.where(rows.label, 0.6, 0.2)
    base_rate = np.full(len(rows), 0.25)
    models, differences = compare_models(rows, {"network": good, "base_rate": base_rate})
    expected = scores(rows.label.to_numpy(), good)
    assert models.model.tolist() == ["network", "base_rate"]
    assert models.iloc[0][list(expected)].to_dict() == pytest.approx(expected)
    assert (models.ece_low <= models.ece).all() and (models.ece <= models.ece_high).all()
    assert differences.model.tolist() == ["base_rate"]
    assert differences.high[0] < 0 and differences.probability_of_improvement[0] == 1.0


def test_the_network_alone_has_no_difference(rows: pd.DataFrame) -> None:
    _, differences = compare_models(rows, {"network": np.linspace(0.1, 0.9, len(rows))})
    assert differences.empty and "probability_of_improvement" in differences


def test_the_first_gate_has_its_baselines_after_every_training() -> None:
    assert set(FIRST_GATE_BASELINES) <= set(QUICK_BASELINES) < set(ALL_BASELINES)
