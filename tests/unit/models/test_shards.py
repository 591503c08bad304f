"""Training from shards: the rows, statistics and quality of training in memory, in less memory."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ontime.evaluation.metrics import log_losses
from ontime.models import shards
from ontime.models.inputs import numeric_tensor
from ontime.models.shards import assign, build_model, fit_shards, row_groups, write_shard
from ontime.models.trainer import TrainingError
from ontime.models.trainer import build_model as build_model_in_memory
from ontime.models.trainer import fit as fit_in_memory
from tests.unit.models.synthetic import SMALL, SPEC, synthetic_rows

TARGETS = ["target_0", "target_1"]


def soft_targets(rows: pd.DataFrame) -> np.ndarray:
    return np.repeat(rows.chance.to_numpy()[:, None], 2, axis=1)


@pytest.fixture(scope="module", autouse=True)
def _small_row_groups() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "GROUP_ROWS", 500)
        patch.setattr(shards, "POOL_ROWS", 2_000)
        yield


@pytest.fixture(scope="module")
def folder(train: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training rows sorted by what matters most, in files of different sizes."""
    folder = tmp_path_factory.mktemp("shards")
    rows = train.sort_values("age", ignore_index=True)
    for number, part in enumerate((rows[:700], rows[700:3_100], rows[3_100:])):
        write_shard(folder / f"{number}.parquet", part, soft_targets(part), SPEC)
    return folder


def test_an_epoch_deals_every_row_group_once_and_evenly(folder: Path) -> None:
    groups = row_groups(folder, TARGETS)
    assert sum(group.rows for group in groups) == 8_000
    generator = torch.Generator().manual_seed(0)
    first, second = (assign(groups, 3, generator) for _ in range(2))
    assert first != second
    for assigned in (first, second):
        assert Counter(group for own in assigned for group in own) == Counter(groups)
        rows = [sum(group.rows for group in own) for own in assigned]
        assert max(rows) - min(rows) <= 500, "at most one row group apart"


def test_batches_hold_every_row_once_and_mix_the_files(folder: Path, train: pd.DataFrame) -> None:
    model = build_model(folder, SPEC, SMALL)
    groups = assign(row_groups(folder, TARGETS), 1, torch.Generator().manual_seed(0))[0]
    generator = torch.Generator().manual_seed(0)
    batches = list(shards.shuffled_batches(model, groups, TARGETS, 256, generator))
    targets = torch.cat([y[:, 0] for _, _, y in batches]).numpy()
    left_out = Counter(train.chance.astype("float32")) - Counter(targets)
    assert len(targets) == 8_000 // 256 * 256 == 8_000 - left_out.total()
    # The files are sorted, so that neighbours alone would have a small part of the variance.
    within = np.mean([float(y[:, 0].var()) for _, _, y in batches])
    assert within > 0.7 * train.chance.var()
    assert train.sort_values("age").chance.rolling(256).var().mean() < 0.5 * train.chance.var()


def test_memory_is_that_of_pools_whatever_the_number_of_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = shards._read

    def counted(*arguments: object) -> object:
        batch = original(*arguments)  # type: ignore[arg-type]
        read.append(len(batch[2]))
        return batch

    monkeypatch.setattr(shards, "_read", counted)
    model = build_model(folder, SPEC, SMALL)
    for number, _ in enumerate(shards.train_epochs(model, folder, SMALL), 1):
        assert sum(read) == number * 8_000
        assert max(read) <= 2_500, "a pool and a row group"


def test_statistics_are_those_of_all_rows_in_memory(folder: Path, train: pd.DataFrame) -> None:
    ours, theirs = build_model(folder, SPEC, SMALL), build_model_in_memory(train, SPEC, SMALL)
    assert ours.vocabularies == theirs.vocabularies
    numeric = numeric_tensor(train, SPEC)
    with torch.no_grad():
        encoded = [model.network.encoder(numeric) for model in (ours, theirs)]
    # Ranks are equal up to the distance of two quantiles, deviations up to the tails' share of std.
    torch.testing.assert_close(*encoded, atol=0.03, rtol=0.01)


def test_columns_without_values_and_with_one_rare_value_are_encoded(tmp_path: Path) -> None:
    rows = synthetic_rows(3_000).assign(size=np.float32("nan"), load=np.float32(0))
    rows.loc[7, "load"] = 1.0
    write_shard(tmp_path / "0.parquet", rows, soft_targets(rows), SPEC)
    encoder = build_model(tmp_path, SPEC, SMALL).network.encoder
    assert encoder.inverse_iqr[0] == 0, "no value"
    assert encoder.inverse_iqr[2] > 0, "the smallest and the largest value are among the quantiles"


def test_the_model_is_as_good_as_one_trained_in_memory(
    folder: Path, train: pd.DataFrame, test: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    in_memory, _ = fit_in_memory(train, soft_targets(train), SPEC, SMALL, "cpu")
    first, history = fit_shards(folder, SPEC, SMALL, "cpu")
    again, _ = fit_shards(folder, SPEC, SMALL, "cpu")
    assert (first.predict(test) == again.predict(test)).all(), "one seed, one model"
    labels = test.label.to_numpy()
    losses = [log_losses(labels, model.predict(test)).mean() for model in (first, in_memory)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)
    assert [record.epoch for record in history] == list(range(1, SMALL.epochs + 1))
    assert "train loss" in capsys.readouterr().out


def test_shards_that_cannot_be_trained_on_are_errors(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match="make shards"):
        fit_shards(tmp_path, SPEC, SMALL, "cpu")
    rows = synthetic_rows(600)
    write_shard(tmp_path / "0.parquet", rows, soft_targets(rows)[:, :1], SPEC)
    with pytest.raises(TrainingError, match=r"lacks 1 of 7: \['target_1'\]"):
        fit_shards(tmp_path, SPEC, SMALL, "cpu")
    write_shard(tmp_path / "0.parquet", rows, soft_targets(rows) * 4, SPEC)
    with pytest.raises(TrainingError, match="targets must be probabilities"):
        fit_shards(tmp_path, SPEC, SMALL, "cpu")
    monkeypatch.setattr("ontime.models.shards.rank_and_size", lambda: (0, 64))
    with pytest.raises(TrainingError, match="each of 64 processes needs 4 rows in row groups"):
        next(shards.train_epochs(build_model(folder, SPEC, SMALL), folder, SMALL))
