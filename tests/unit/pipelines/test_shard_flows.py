"""The shards hold what training in memory would see, and the saved model can be loaded."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from ontime.data.splits import TEST
from ontime.models.distillation import fit_teachers
from ontime.models.serialization import TrainedModel
from ontime.models.shards import target_columns
from ontime.models.trainer import TrainConfig
from ontime.problem import FEATURE_SPEC
from pipelines import train_shards, write_shards
from tests.conftest import Dataset

INPUTS = [*FEATURE_SPEC.numeric, *FEATURE_SPEC.categorical]


def test_shards_hold_the_known_rows_and_the_model_trained_on_them_is_saved(
    dataset: Dataset,
    examples: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(write_shards, "TEACHER_ROWS", 4_000)
    config = TrainConfig(epochs=2, batch_size=256)
    for module in (write_shards, train_shards):
        monkeypatch.setattr(module, "TrainConfig", lambda: config)
    rows_of_teachers: list[int] = []

    def counted(rows: pd.DataFrame, *arguments: object) -> object:
        rows_of_teachers.append(len(rows))
        return fit_teachers(rows, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(write_shards, "fit_teachers", counted)

    folder = write_shards.write_shards.fn(dataset.until)
    moment = pd.Timestamp(dataset.until) - TEST
    known = examples[examples.outcome_known_at <= moment]
    paths = sorted((folder / "train").iterdir())
    assert [path.stem for path in paths] == sorted({f"{t:%Y-%m}" for t in known.event_timestamp})
    written = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    expected = known[INPUTS].reset_index(drop=True)
    pd.testing.assert_frame_equal(written[INPUTS], expected, check_exact=True)
    targets = written[target_columns(config.network.members)].to_numpy()
    assert np.corrcoef(targets.mean(axis=1), known.label)[0, 1] > 0.2, "they predict the labels"
    assert 2_000 < rows_of_teachers[0] <= 4_000
    test = pd.read_parquet(folder / "test.parquet")
    assert (test.event_timestamp >= moment).all() and (test.due_at <= dataset.until).all()

    train_shards.train_shards("cpu")
    model = TrainedModel.load(folder / "model")
    loss = model.metadata["scores"]["log_loss"]
    base_rate = known.label.mean()
    of_base_rate = -np.log(np.where(test.label, base_rate, 1 - base_rate)).mean()
    assert loss < of_base_rate
    assert f"log-loss {loss:.4f} on {len(test):,}" in capsys.readouterr().out
    assert datetime.fromisoformat(model.metadata["trained_through"]) >= moment


def test_a_moment_before_any_outcome_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="choose a later moment"):
        write_shards.write_shards.fn(dataset.start + TEST)
