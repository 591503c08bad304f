"""The gate reads shadow predictions with due outcomes, and survives being killed."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from monitoring.retrain_policy import TRAINING_TIME
from ontime.models.serialization import TrainedModel
from ontime.settings import Settings
from ontime.storage.decision_log import ChampionChange, DecisionLog
from ontime.storage.prediction_log import PredictionLog
from pipelines import promote as gate_flow

NOW = datetime(2020, 7, 8, tzinfo=UTC)
TRAINED = NOW - timedelta(days=7)


def hours_ago(hours: float) -> pd.Timestamp:
    return pd.Timestamp(NOW) - pd.Timedelta(hours=hours)


@dataclass
class Log:
    """A prediction log of one period: what it was asked for, and rows that it returns."""

    rows: pd.DataFrame
    scores: dict[str, float] = field(default_factory=dict)
    asked: tuple[Any, ...] = ()

    def monitored(self, *period: datetime, known_by: datetime) -> pd.DataFrame:
        self.asked = (*period, known_by)
        return self.rows

    def shadow_scores(self, version: str) -> pd.Series:
        assert version == "2"
        return pd.Series(self.scores, dtype="float64")


def test_only_due_predictions_of_the_champion_after_the_training_are_evaluated() -> None:
    rows = pd.DataFrame(
        {
            "prediction_id": ["due", "not due", "without outcome", "of another version"],
            "due_at": [hours_ago(0), hours_ago(-1), hours_ago(5), hours_ago(5)],
            "label": pd.array([True, False, None, True], dtype="boolean"),
            "model_version": ["1", "1", "1", "0"],
        }
    )
    log = Log(rows)
    found = gate_flow.shadow_rows(cast(PredictionLog, log), "1", TRAINED, NOW)
    assert found.prediction_id.tolist() == ["due"]
    assert log.asked == (TRAINED + TRAINING_TIME, NOW, NOW)


def test_dropped_shadow_predictions_are_computed_from_the_logged_features() -> None:
    rows = pd.DataFrame({"prediction_id": ["a", "b", "c"], "feature": [0.1, 0.2, 0.3]})

    class Model:
        def predict(self, frame: pd.DataFrame) -> np.ndarray:
            return frame.feature.to_numpy()

    log, model = Log(rows, {"b": 0.9, "unrelated": 0.5}), Model()
    probabilities, n_logged = gate_flow.shadow_probabilities(
        cast(PredictionLog, log), "2", cast(TrainedModel, model), rows
    )
    assert probabilities.tolist() == [0.1, 0.9, 0.3]
    assert n_logged == 1


@dataclass
class Decisions:
    """Records what the gate writes, in order."""

    written: list[Any]

    def changes(self) -> list[ChampionChange]:
        return [ChampionChange(2, "promotion", "2", "1", NOW, ["better"])]

    def record_result(self, decision_id: str, promoted: bool, reasons: list[str]) -> None:
        self.written.append((decision_id, promoted, reasons))


@pytest.mark.parametrize("killed_after_the_promotion", [False, True])
def test_the_result_is_recorded_after_the_deployment_also_if_the_first_run_was_killed(
    monkeypatch: pytest.MonkeyPatch, killed_after_the_promotion: bool
) -> None:
    steps: list[Any] = []
    champion = "2" if killed_after_the_promotion else "1"
    monkeypatch.setattr(gate_flow, "reconcile_champion", lambda *_: (champion, 2))
    monkeypatch.setattr(gate_flow, "reload_api", lambda _: steps.append("reload"))

    def promote(as_of: datetime, challenger: str) -> dict[str, Any]:
        assert not killed_after_the_promotion, "it is champion already"
        assert (as_of, challenger) == (NOW, "2")
        return {"promote": True, "reasons": ("better",)}

    monkeypatch.setattr(gate_flow, "promote", promote)
    log = cast(DecisionLog, Decisions(steps))
    decision = {"decision_id": "d1", "challenger": "2"}
    gate_flow.conclude_shadow(Settings(), log, decision, NOW)
    assert steps == ["reload", ("d1", True, ["better"])]
