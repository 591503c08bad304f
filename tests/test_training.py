"""The loop: reproducible, stopped early, taught what "missing" means, and clear when it cannot."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ontime.evaluation import scores
from ontime.model import FeatureSpec, ModelConfig
from ontime.training import TrainConfig, TrainingError, fit, pick_device

SPEC = FeatureSpec(
    ("wind", "slack", "delay"),
    ("carrier",),
    {"weather": ("wind",), "aircraft": ("slack", "delay")},
)
SMALL = TrainConfig(
    epochs=6, batch_size=256, learning_rate=5e-3, network=ModelConfig(hidden=32, members=2)
)


def flights(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "wind": rng.gamma(2.0, 5.0, n).astype("float32"),
            "slack": rng.normal(0, 60, n).astype("float32"),
            "delay": rng.normal(0, 20, n).astype("float32"),
            "carrier": rng.choice(["AA", "UA"], n),
        }
    )
    odds = -1.5 + 0.05 * frame.wind - 0.03 * frame.slack + (frame.carrier == "UA")
    return frame.assign(is_late=rng.random(n) < 1 / (1 + np.exp(-odds)))


@pytest.fixture(scope="module")
def train() -> pd.DataFrame:
    return flights(8_000, 1)


@pytest.fixture(scope="module")
def valid() -> pd.DataFrame:
    return flights(3_000, 2)


def test_two_fits_with_one_seed_have_the_same_weights_bit_for_bit(
    train: pd.DataFrame, valid: pd.DataFrame
) -> None:
    first, second = (fit(train, valid, SPEC, SMALL, "cpu")[0] for _ in range(2))
    for name, weights in first.network.state_dict().items():
        assert torch.equal(weights, second.network.state_dict()[name]), name
    other, _ = fit(train, valid, SPEC, replace(SMALL, seed=7), "cpu")
    assert (other.predict(valid) != first.predict(valid)).any()


def test_it_learns_and_keeps_the_weights_of_its_best_epoch(
    train: pd.DataFrame, valid: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    model, history = fit(train, valid, SPEC, SMALL, "cpu")
    found = scores(valid.is_late.to_numpy(), model.predict(valid))
    assert found["auc"] > 0.8
    best = min(record.valid_log_loss for record in history)
    assert found["log_loss"] == pytest.approx(best, abs=2e-3)  # bf16 in training, float32 after
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines if line.strip()[:1].isdigit()}) == 1, "aligned"


def test_it_stops_when_validation_no_longer_gets_better(
    train: pd.DataFrame, valid: pd.DataFrame
) -> None:
    shuffled = valid.assign(is_late=valid.is_late.sample(frac=1, random_state=0).to_numpy())
    _, history = fit(train, shuffled, SPEC, replace(SMALL, epochs=30, patience=2), "cpu")
    assert len(history) < 30


def test_without_a_whole_group_the_answers_stay_calibrated(
    train: pd.DataFrame, valid: pd.DataFrame
) -> None:
    model, _ = fit(train, valid, SPEC, SMALL, "cpu")
    blind = valid.assign(slack=np.float32("nan"), delay=np.float32("nan"))
    found = scores(valid.is_late.to_numpy(), model.predict(blind))
    assert abs(found["mean_prediction"] - found["late_share"]) < 0.03
    assert found["auc"] > 0.6  # wind and carrier are still there


def test_cuda_without_a_gpu_and_unknown_devices_are_refused() -> None:
    with pytest.raises(TrainingError, match="auto, cpu or cuda"):
        pick_device("tpu")
    if torch.cuda.is_available():
        assert pick_device("cuda").type == "cuda"
    else:
        with pytest.raises(TrainingError, match="use auto or cpu"):
            pick_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares CPU with CUDA: needs a GPU")
def test_cpu_and_cuda_agree(train: pd.DataFrame, valid: pd.DataFrame) -> None:
    """Their random generators differ, so that the batches do: equal up to that noise."""
    cpu, cuda = (fit(train, valid, SPEC, SMALL, device)[1] for device in ("cpu", "cuda"))
    assert cpu[-1].valid_log_loss == pytest.approx(cuda[-1].valid_log_loss, abs=0.01)


@pytest.mark.parametrize("broken", ["no labels", "missing label", "one kind"])
def test_rows_that_cannot_be_trained_on_are_refused(broken: str, valid: pd.DataFrame) -> None:
    rows = {
        "no labels": valid.drop(columns="is_late"),
        "missing label": valid.assign(
            is_late=valid.is_late.astype("object").where(valid.index > 0)
        ),
        "one kind": valid[valid.is_late],
    }[broken]
    with pytest.raises(TrainingError):
        fit(rows, valid, SPEC, SMALL, "cpu")
