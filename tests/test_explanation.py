"""Contributions add up, are those of an independent library, and say what made the answer."""

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import ShapleyValues

from ontime.evaluation import log_losses
from ontime.explanation import ExplanationError, contributions, players, worth
from ontime.model import FeatureSpec, ModelConfig, TrainedModel
from ontime.training import TrainConfig, fit
from tests.test_model import SPEC, flights

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    network = ModelConfig(hidden=16, members=2)
    config = TrainConfig(
        epochs=8, batch_size=128, learning_rate=5e-3, hide_share=0.2, network=network
    )
    train = flights(6000)
    labels = train[["is_late", "is_late"]].to_numpy(dtype=float)
    return fit(train, labels, flights(1000, seed=1), SPEC, config, device="cpu")[0]


def test_reference_and_contributions_are_the_answer(model: TrainedModel) -> None:
    unknown = pd.DataFrame({"wind": [np.nan], "delay": np.nan, "n_waiting": np.nan})
    nothing = unknown.astype("float32").assign(carrier="never seen", origin="never seen")
    frame = flights(20, seed=2)
    for i in range(len(frame)):
        reference, parts = contributions(model, frame.iloc[[i]])
        assert list(parts) == ["weather", "state", "carrier", "origin"]
        assert reference == pytest.approx(model.predict(nothing)[0], abs=1e-6)
        answer = model.predict(frame.iloc[[i]])[0]
        assert reference + sum(parts.values()) == pytest.approx(answer, abs=1e-6)


def test_contributions_are_those_of_captum(model: TrainedModel) -> None:
    """Captum walks every order of the groups (fine for four, impossible for fourteen)."""
    frame = flights(5, seed=3)
    numeric, categories = model.tensors(frame)
    for i in range(len(frame)):

        def answer(known: torch.Tensor, i: int = i) -> torch.Tensor:
            """Of flags [m, 4] that say which groups are known."""
            numbers = numeric[[i]].where(known[:, [0, 1, 1]] > 0, torch.nan)
            with torch.no_grad():
                return model.network(numbers, categories[[i]] * (known[:, 2:] > 0))

        expected = ShapleyValues(answer).attribute(torch.ones(1, 4))[0].tolist()
        _, parts = contributions(model, frame.iloc[[i]])
        assert list(parts.values()) == pytest.approx(expected, abs=1e-5)


def test_a_missing_group_contributes_nothing(model: TrainedModel) -> None:
    frame = flights(1, seed=4).assign(wind=np.float32("nan"), origin="never seen")
    _, parts = contributions(model, frame)
    assert parts["weather"] == pytest.approx(0.0, abs=1e-9)
    assert parts["origin"] == pytest.approx(0.0, abs=1e-9)
    assert abs(parts["state"]) > 0.001


def test_what_the_groups_are_worth_adds_up_and_finds_the_cause(model: TrainedModel) -> None:
    frame = flights(2000, seed=5)
    unknown = frame.assign(wind=np.nan, delay=np.nan, n_waiting=np.nan, carrier="", origin="")
    unknown = unknown.astype({"wind": "float32", "delay": "float32", "n_waiting": "float32"})
    labels = frame["is_late"].to_numpy()
    table = worth(model, frame)
    saved = log_losses(labels, model.predict(unknown)) - log_losses(labels, model.predict(frame))
    assert table.saved.sum() == pytest.approx(saved.mean(), abs=1e-6)
    assert table.group[0] == "state"  # lateness depends on delay most of all
    by_group = table.set_index("group").saved
    assert abs(by_group["origin"]) < 0.005 < by_group["carrier"]  # and on origin not at all


def test_what_cannot_be_explained_is_refused(model: TrainedModel) -> None:
    with pytest.raises(ExplanationError, match="2 flights, 4 groups"):
        contributions(model, flights(2))
    with pytest.raises(ExplanationError, match=r"in one group to be explained; not \['wind'\]"):
        players(FeatureSpec(("wind",), (), {}))
