"""Contributions add up to the prediction and equal those of an independent library."""

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import ShapleyValues

from ontime.features.spec import FeatureSpec
from ontime.models import explanation
from ontime.models.explanation import ExplanationError, contributions, input_groups
from ontime.models.serialization import TrainedModel
from tests.unit.models.synthetic import synthetic_rows


def test_reference_and_contributions_add_up_to_the_prediction(model: TrainedModel) -> None:
    missing = pd.DataFrame({"size": [np.nan], "age": np.nan, "load": np.nan}, dtype="float32")
    missing = missing.assign(kind="unknown", site="unknown")
    frame = synthetic_rows(20, seed=2)
    for i in range(len(frame)):
        reference, parts = contributions(model, frame.iloc[[i]])
        assert list(parts) == ["sensor", "state", "kind", "site"]
        assert reference == pytest.approx(model.predict(missing)[0], abs=1e-6)
        prediction = model.predict(frame.iloc[[i]])[0]
        assert reference + sum(parts.values()) == pytest.approx(prediction, abs=1e-6)


@pytest.mark.parametrize(("orders", "error"), [(128, 0.0015), (16_384, 0.0002)])
def test_contributions_approach_the_exact_ones_of_captum(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch, orders: int, error: float
) -> None:
    """Captum uses every order of the groups: possible for four groups, not for seventeen."""
    monkeypatch.setattr(explanation, "N_ORDERS", orders)
    frame, largest = synthetic_rows(20, seed=3), 0.0
    numeric, categories = model.tensors(frame)
    for i in range(len(frame)):

        def predict(known: torch.Tensor, i: int = i) -> torch.Tensor:
            """Probabilities for flags [m, 4] of the known groups."""
            values = numeric[[i]].where(known[:, [0, 1, 1]] > 0, torch.nan)
            with torch.no_grad():
                return model.network(values, categories[[i]] * (known[:, 2:] > 0))

        expected = ShapleyValues(predict).attribute(torch.ones(1, 4))[0].tolist()
        _, parts = contributions(model, frame.iloc[[i]])
        assert list(parts.values()) == pytest.approx(expected, abs=error)
        largest = max(largest, *map(abs, expected))
    assert largest > 5 * error


def test_coalitions_are_evaluated_in_batches_of_bounded_size(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, sizes = synthetic_rows(1, seed=5), []
    expected = contributions(model, frame)
    evaluate = model.network.logits

    def record(encoded: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        sizes.append(len(encoded))
        return evaluate(encoded, categories)

    monkeypatch.setattr(model.network, "logits", record)
    monkeypatch.setattr(explanation, "PREDICT_BATCH", 6)
    reference, parts = contributions(model, frame)

    assert sizes == [6, 6, 4]
    assert reference == pytest.approx(expected[0], abs=1e-6)
    assert parts == pytest.approx(expected[1], abs=1e-6)


def test_a_missing_group_contributes_nothing(model: TrainedModel) -> None:
    frame = synthetic_rows(1, seed=4).assign(size=np.float32("nan"), site="unknown")
    _, parts = contributions(model, frame)
    # Equal rows of one float32 product may differ in the last bit, by their place in the batch.
    assert parts["sensor"] == pytest.approx(0.0, abs=1e-7)
    assert parts["site"] == pytest.approx(0.0, abs=1e-7)
    assert abs(parts["state"]) > 0.001


def test_rows_and_groups_that_cannot_be_explained_are_errors(model: TrainedModel) -> None:
    with pytest.raises(ExplanationError, match="one row can be explained at a time; there are 2"):
        contributions(model, synthetic_rows(2))
    with pytest.raises(ExplanationError, match=r"in one group; these are not: \['size'\]"):
        input_groups(FeatureSpec(("size",), (), {}))
