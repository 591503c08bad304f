"""The training loop: reproducible, calibrated with inputs missing, clear about wrong input."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ontime.evaluation.metrics import log_losses, scores
from ontime.models.trainer import (
    TrainConfig,
    TrainingError,
    build_model,
    fit,
    pick_device,
    train_epochs,
)
from tests.unit.models.synthetic import SHORT, SMALL, SPEC


def soft_targets(rows: pd.DataFrame) -> np.ndarray:
    """The true probabilities, for two members."""
    return np.repeat(rows.chance.to_numpy()[:, None], 2, axis=1)


def test_two_fits_with_one_seed_have_the_same_weights_bit_for_bit(
    train: pd.DataFrame, test: pd.DataFrame
) -> None:
    first, second = (fit(train, soft_targets(train), SPEC, SHORT, "cpu")[0] for _ in range(2))
    for name, weights in first.network.state_dict().items():
        assert torch.equal(weights, second.network.state_dict()[name]), name
    other, _ = fit(train, soft_targets(train), SPEC, replace(SHORT, seed=7), "cpu")
    assert (other.predict(test) != first.predict(test)).any()


def test_the_network_predicts_its_targets(
    train: pd.DataFrame, test: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    model, history = fit(train, soft_targets(train), SPEC, SMALL, "cpu")
    known = test[test["size"].notna()]
    assert np.abs(model.predict(known) - known.chance).mean() < 0.03
    assert scores(test.label.to_numpy(), model.predict(test))["auc"] > 0.8
    assert [record.epoch for record in history] == list(range(1, SMALL.epochs + 1))
    assert history[-1].train_loss < history[0].train_loss
    header, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == SMALL.epochs
    assert {len(line) for line in lines} == {len(header)}


def test_each_member_predicts_its_own_targets(train: pd.DataFrame, test: pd.DataFrame) -> None:
    targets = np.stack([train.chance, 1 - train.chance], axis=1)
    model, _ = fit(train, targets, SPEC, SMALL, "cpu")
    first, second = model.predict_members(test).T
    assert np.abs(first - test.chance).mean() < 0.04
    assert np.abs(first + second - 1).mean() < 0.05


def test_predicting_between_epochs_does_not_change_the_training(
    train: pd.DataFrame, test: pd.DataFrame
) -> None:
    model = build_model(train, SPEC, SHORT)
    losses = []
    for _ in train_epochs(model, train, soft_targets(train), SHORT):
        losses.append(log_losses(test.label.to_numpy(), model.predict(test)).mean())
    fitted, _ = fit(train, soft_targets(train), SPEC, SHORT, "cpu")
    assert losses[-1] < losses[0]
    assert (model.predict(test) == fitted.predict(test)).all()


def test_predictions_without_a_group_of_inputs_stay_calibrated(
    train: pd.DataFrame, test: pd.DataFrame
) -> None:
    model, _ = fit(train, soft_targets(train), SPEC, SMALL, "cpu")
    without = test.assign(age=np.float32("nan"), load=np.float32("nan"))
    found = scores(test.label.to_numpy(), model.predict(without))
    assert abs(found["mean_prediction"] - found["positive_rate"]) < 0.03
    assert found["auc"] > 0.55  # from size and kind


def test_an_unknown_device_and_cuda_without_a_gpu_are_errors() -> None:
    with pytest.raises(TrainingError, match="auto, cpu or cuda"):
        pick_device("tpu")
    if torch.cuda.is_available():
        assert pick_device("cuda").type == "cuda"
    else:
        with pytest.raises(TrainingError, match="use auto or cpu"):
            pick_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares CPU with CUDA: needs a GPU")
def test_cpu_and_cuda_agree(train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Their random generators differ, and with them the batches: equal up to that noise."""
    cpu, cuda = (
        log_losses(
            test.label.to_numpy(),
            fit(train, soft_targets(train), SPEC, SMALL, device)[0].predict(test),
        ).mean()
        for device in ("cpu", "cuda")
    )
    assert cpu == pytest.approx(cuda, abs=0.01)


@pytest.mark.parametrize("broken", ["a row too few", "a member too few", "log-odds", "missing"])
def test_targets_that_are_not_probabilities_of_the_rows_are_errors(
    broken: str, train: pd.DataFrame
) -> None:
    targets = soft_targets(train)
    targets = {
        "a row too few": targets[1:],
        "a member too few": targets[:, :1],
        "log-odds": targets * 4 - 2,
        "missing": np.where(targets > 0.9, np.nan, targets),
    }[broken]
    with pytest.raises(TrainingError, match=r"one column per member: \(8000, 2\)"):
        fit(train, targets, SPEC, SMALL, "cpu")


def test_a_batch_that_processes_cannot_divide_is_an_error(
    train: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ontime.models.trainer.rank_and_size", lambda: (0, 2))
    with pytest.raises(TrainingError, match="255 rows cannot be divided among 2"):
        fit(train, soft_targets(train), SPEC, replace(SMALL, batch_size=255), "cpu")


def test_a_configuration_that_cannot_train_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"they are 0, 1, 0\.1"):
        TrainConfig(epochs=0, batch_size=1, group_dropout=0.1)
