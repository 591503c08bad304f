"""Scoring a file: the model's own answers, in order, in pieces; nothing half written."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
from prefect.testing.utilities import prefect_test_harness

from ontime import registry
from ontime.features import FEATURE_SPEC
from ontime.model import TrainedModel
from ontime.training import TrainConfig, fit
from pipelines import score as score_flow
from pipelines.score import score


@pytest.fixture(scope="module")
def model(examples: pd.DataFrame) -> TrainedModel:
    config, train = TrainConfig(epochs=1), examples[:4000]
    labels = np.repeat(train[["is_late"]].to_numpy(dtype=float), config.network.members, axis=1)
    return fit(train, labels, examples[4000:5000], FEATURE_SPEC, config)[0]


@pytest.fixture(autouse=True)
def champion(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "resolve", lambda *_: "7")
    monkeypatch.setattr(registry, "load", lambda *_: model)
    with prefect_test_harness():
        yield


def test_the_answers_are_the_models_in_the_order_of_the_file(
    examples: pd.DataFrame, model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_flow, "ROWS_AT_ONCE", 300)  # so that a file has several pieces
    rows = examples[5000:6000].reset_index(drop=True)
    rows.to_parquet(tmp_path / "in.parquet")
    assert score(tmp_path / "in.parquet", tmp_path / "out.parquet") == len(rows)
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found.flight_id.tolist() == rows.flight_id.tolist()
    np.testing.assert_allclose(found.probability_late, model.predict(rows), atol=1e-6)
    np.testing.assert_allclose(
        found.uncertainty, model.predict_members(rows).std(axis=1), atol=1e-6
    )
    assert set(found.model_version) == {"7"}
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 4


def test_a_file_without_an_input_is_refused_and_nothing_is_written(
    examples: pd.DataFrame, tmp_path: Path
) -> None:
    examples[:10].drop(columns="block_min").to_parquet(tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=r"lacks 1 of .*block_min"):
        score(tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_without_a_champion_it_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "resolve", lambda *_: None)
    with pytest.raises(LookupError, match="make train"):
        score(tmp_path / "in.parquet", tmp_path / "out.parquet")
