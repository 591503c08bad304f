"""Scoring a file: the model's own predictions, in order, in batches; no partial output."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest

from ontime.models.serialization import TrainedModel
from ontime.models.trainer import TrainConfig, build_model
from ontime.problem import FEATURE_SPEC
from ontime.registry import model_registry as registry
from pipelines import score as score_flow
from pipelines.score import score

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def model(examples: pd.DataFrame) -> TrainedModel:
    """Untrained weights, with the median of its own predictions as threshold."""
    built = build_model(examples[:4000], FEATURE_SPEC, TrainConfig())
    built.metadata["threshold"] = float(np.median(built.predict(examples[:4000])))
    return built


@pytest.fixture(autouse=True)
def _champion(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "resolve", lambda *_: "7")
    monkeypatch.setattr(registry, "load", lambda *_: model)


def test_the_predictions_are_the_models_in_the_order_of_the_file(
    examples: pd.DataFrame, model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_flow, "BATCH_ROWS", 300)  # several batches per file
    rows = examples[-1000:].reset_index(drop=True)
    rows.to_parquet(tmp_path / "in.parquet")
    assert score(tmp_path / "in.parquet", tmp_path / "out.parquet") == len(rows)
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found.instance_id.tolist() == rows.instance_id.tolist()
    members = model.predict_members(rows)
    np.testing.assert_allclose(found.probability, members.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.uncertainty, members.std(axis=1), atol=1e-6)
    assert (found.decision == (found.probability >= model.metadata["threshold"])).all()
    assert 0 < found.decision.mean() < 1
    assert set(found.model_version) == {"7"}
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 4


def test_a_file_without_an_input_is_an_error_and_nothing_is_written(
    examples: pd.DataFrame, tmp_path: Path
) -> None:
    missing = FEATURE_SPEC.numeric[-1]
    examples[:10].drop(columns=missing).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=rf"lacks 1 of .*{missing}"):
        score(tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_without_a_champion_the_error_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "resolve", lambda *_: None)
    with pytest.raises(LookupError, match="make train"):
        score(tmp_path / "in.parquet", tmp_path / "out.parquet")
