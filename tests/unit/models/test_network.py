"""Inputs and outputs of the network: missing, unknown, absent and infinite values."""

import numpy as np
import pytest

from ontime.errors import ModelError
from ontime.models.serialization import TrainedModel
from tests.unit.models.synthetic import synthetic_rows


def test_a_missing_value_is_not_predicted_like_the_median(model: TrainedModel) -> None:
    frame = synthetic_rows(5)
    median = frame.assign(age=float(model.network.encoder.median[1]))
    assert not np.allclose(model.predict(frame.assign(age=np.nan)), model.predict(median))


def test_an_unknown_category_has_index_zero(model: TrainedModel) -> None:
    frame = synthetic_rows(3).assign(kind=["unknown", None, "a"])
    _, categories = model.tensors(frame)
    assert categories[:, 0].tolist() == [0, 0, 1]
    assert np.isfinite(model.predict(frame)).all()


def test_the_prediction_is_the_mean_of_the_members(model: TrainedModel) -> None:
    members = model.predict_members(synthetic_rows(50))
    assert members.shape == (50, 3)
    assert members.std(axis=1).min() > 0
    np.testing.assert_allclose(model.predict(synthetic_rows(50)), members.mean(axis=1))


def test_extra_columns_and_the_order_of_columns_and_rows_do_not_matter(model: TrainedModel) -> None:
    frame = synthetic_rows(100)
    shuffled = frame[frame.columns[::-1]].assign(extra="x").iloc[::-1]
    np.testing.assert_allclose(model.predict(shuffled)[::-1], model.predict(frame), atol=1e-7)


def test_predicting_in_batches_gives_what_one_batch_gives(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = synthetic_rows(100)
    whole = model.predict(frame)
    monkeypatch.setattr("ontime.models.serialization.PREDICT_BATCH", 7)
    np.testing.assert_allclose(model.predict(frame), whole, atol=1e-7)


def test_no_rows_give_no_predictions(model: TrainedModel) -> None:
    assert model.predict(synthetic_rows(3).iloc[:0]).shape == (0,)


def test_an_absent_column_is_named(model: TrainedModel) -> None:
    with pytest.raises(ModelError, match=r"absent: \['age'\]"):
        model.predict(synthetic_rows(3).drop(columns="age"))


def test_an_infinite_number_is_an_error_that_names_column_and_row(model: TrainedModel) -> None:
    frame = synthetic_rows(3)
    frame.loc[1, "age"] = np.inf
    with pytest.raises(ModelError, match="'age' is inf in row 1"):
        model.predict(frame)
