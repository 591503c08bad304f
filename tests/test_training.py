"""The loop: reproducible, taught what "missing" means, and clear when it cannot."""

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
    chance = 1 / (1 + np.exp(-odds))
    days = pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(rng.integers(0, 40, n), unit="D")
    return frame.assign(chance=chance, is_late=rng.random(n) < chance, scheduled_departure=days)


def taught(rows: pd.DataFrame) -> np.ndarray:
    """Two teachers who know the truth."""
    return np.repeat(rows.chance.to_numpy()[:, None], 2, axis=1)


@pytest.fixture(scope="module")
def train() -> pd.DataFrame:
    return flights(8_000, 1)


@pytest.fixture(scope="module")
def unseen() -> pd.DataFrame:
    return flights(3_000, 2)


def test_two_fits_with_one_seed_have_the_same_weights_bit_for_bit(
    train: pd.DataFrame, unseen: pd.DataFrame
) -> None:
    first, second = (fit(train, taught(train), unseen, SPEC, SMALL, "cpu")[0] for _ in range(2))
    for name, weights in first.network.state_dict().items():
        assert torch.equal(weights, second.network.state_dict()[name]), name
    other, _ = fit(train, taught(train), unseen, SPEC, replace(SMALL, seed=7), "cpu")
    assert (other.predict(unseen) != first.predict(unseen)).any()


def test_it_learns_what_it_is_told(
    train: pd.DataFrame, unseen: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    model, history = fit(train, taught(train), unseen, SPEC, SMALL, "cpu")
    assert np.abs(model.predict(unseen) - unseen.chance).mean() < 0.03
    found = scores(unseen.is_late.to_numpy(), model.predict(unseen))
    assert found["auc"] > 0.8
    # The last epoch is the model; bf16 in training, float32 after.
    assert found["log_loss"] == pytest.approx(history[-1].unseen_log_loss, abs=2e-3)
    assert history[-1].train_loss < history[0].train_loss
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines if line.strip()[:1].isdigit()}) == 1, "aligned"


def test_each_member_answers_as_its_own_teacher(train: pd.DataFrame, unseen: pd.DataFrame) -> None:
    one, other = train.chance.to_numpy(), 1 - train.chance.to_numpy()
    model, _ = fit(train, np.stack([one, other], axis=1), unseen, SPEC, SMALL, "cpu")
    first, second = model.predict_members(unseen).T
    assert np.abs(first - unseen.chance).mean() < 0.03
    assert np.abs(first + second - 1).mean() < 0.05


def test_what_is_unseen_decides_nothing(train: pd.DataFrame, unseen: pd.DataFrame) -> None:
    shuffled = unseen.assign(is_late=unseen.is_late.sample(frac=1, random_state=0).to_numpy())
    answers = [
        fit(train, taught(train), rows, SPEC, SMALL, "cpu")[0].predict(unseen)
        for rows in (unseen, shuffled)
    ]
    assert (answers[0] == answers[1]).all()


def test_without_a_whole_group_the_answers_stay_calibrated(
    train: pd.DataFrame, unseen: pd.DataFrame
) -> None:
    model, _ = fit(train, taught(train), unseen, SPEC, SMALL, "cpu")
    blind = unseen.assign(slack=np.float32("nan"), delay=np.float32("nan"))
    found = scores(unseen.is_late.to_numpy(), model.predict(blind))
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
def test_cpu_and_cuda_agree(train: pd.DataFrame, unseen: pd.DataFrame) -> None:
    """Their random generators differ, so that the batches do: equal up to that noise."""
    cpu, cuda = (
        fit(train, taught(train), unseen, SPEC, SMALL, device)[1] for device in ("cpu", "cuda")
    )
    assert cpu[-1].unseen_log_loss == pytest.approx(cuda[-1].unseen_log_loss, abs=0.01)


@pytest.mark.parametrize("broken", ["no labels", "missing label", "one kind"])
def test_rows_that_cannot_judge_are_refused(
    broken: str, train: pd.DataFrame, unseen: pd.DataFrame
) -> None:
    rows = {
        "no labels": unseen.drop(columns="is_late"),
        "missing label": unseen.assign(
            is_late=unseen.is_late.astype("object").where(unseen.index > 0)
        ),
        "one kind": unseen[unseen.is_late],
    }[broken]
    with pytest.raises(TrainingError):
        fit(train, taught(train), rows, SPEC, SMALL, "cpu")


@pytest.mark.parametrize("broken", ["a row too few", "a member too few", "log-odds", "missing"])
def test_targets_that_are_none_are_refused(
    broken: str, train: pd.DataFrame, unseen: pd.DataFrame
) -> None:
    targets = {
        "a row too few": taught(train)[1:],
        "a member too few": taught(train)[:, :1],
        "log-odds": taught(train) * 4 - 2,
        "missing": np.where(taught(train) > 0.9, np.nan, taught(train)),
    }[broken]
    with pytest.raises(TrainingError, match=r"a row a flight and a column a member: \(8000, 2\)"):
        fit(train, targets, unseen, SPEC, SMALL, "cpu")
