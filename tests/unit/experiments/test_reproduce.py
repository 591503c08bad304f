"""A reproduced run is equal to the last bit, and what differs is named."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import mlflow
import pytest

from experiments.reproduce import comparison, print_comparison, reproduced, train_again
from ontime.data.splits import Split
from ontime.errors import RegistryUnavailable
from ontime.models.trainer import TrainConfig
from ontime.problem import FEATURE_SPEC
from ontime.registry.model_registry import EXPERIMENT, LoggedRun, logged_run
from ontime.registry.run_logger import TrainingResult, log_training
from ontime.registry.training_run import code_revision, train_and_evaluate
from pipelines.train import load_split
from tests.conftest import Dataset

pytestmark = pytest.mark.usefixtures("prefect_server")

CONFIG = TrainConfig(seed=7, epochs=1)  # not the default: the logged configuration must be used


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    """Of the teachers, for time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ontime.models.distillation.LIGHTGBM_ROUNDS", 5)
        yield


@pytest.fixture(scope="module")
def as_of(dataset: Dataset) -> datetime:
    return dataset.until - timedelta(days=4)


def train_on(
    dataset: Dataset, as_of: datetime, split: Split, history: dict[str, float]
) -> TrainingResult:
    baselines, revision = ("logistic", "base_rate"), code_revision(dataset.settings)
    return train_and_evaluate(split, history, as_of, CONFIG, "cpu", baselines, revision)


@pytest.fixture(scope="module")
def run(dataset: Dataset, as_of: datetime) -> LoggedRun:
    log_training(
        dataset.settings, train_on(dataset, as_of, *load_split(dataset.settings, as_of, True))
    )
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (found,) = mlflow.MlflowClient().search_runs(
        [experiment.experiment_id], f"tags.as_of = '{as_of.isoformat()}'"
    )
    return logged_run(dataset.settings, found.info.run_id)


@pytest.fixture(scope="module")
def again(dataset: Dataset, run: LoggedRun) -> TrainingResult:
    return train_again(dataset.settings, run)


def differing(run: LoggedRun, again: TrainingResult) -> list[object]:
    return [row["what"] for row in comparison(run, again) if not row["same"]]


def test_data_metrics_and_weights_are_the_same(
    run: LoggedRun, again: TrainingResult, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = comparison(run, again)
    assert differing(run, again) == [] and reproduced(rows)
    compared = {row["what"] for row in rows}
    assert {"data digest", "weights sha256", "auc", "logistic_log_loss", "threads"} <= compared
    assert {"epoch_train_loss", "code_revision", "history_rows_out"} <= compared
    assert (run.tags["device"], run.tags["processes"]) == ("cpu", "1")
    print_comparison(run, rows)
    assert "reproduced: data, metrics and weights are the same" in capsys.readouterr().out


def test_what_differs_is_named(
    run: LoggedRun, again: TrainingResult, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(run, metrics=run.metrics | {"auc": run.metrics["auc"] + 1e-12})
    assert differing(other, again) == ["auc"] and not reproduced(comparison(other, again))
    name = FEATURE_SPEC.numeric[0]
    edited = again.data.assign(**{name: again.data[name].copy()})
    edited.loc[edited[name].last_valid_index(), name] += 1
    assert differing(run, replace(again, data=edited)) == ["data digest"]
    print_comparison(other, comparison(other, again))
    assert "not reproduced; these differ: auc" in capsys.readouterr().out


def test_one_changed_test_row_is_named(dataset: Dataset, run: LoggedRun, as_of: datetime) -> None:
    split, history = load_split(dataset.settings, as_of, True)
    row = split.test.index[0]
    test = split.test.assign(label=split.test.label.copy())
    test.loc[row, "label"] = not test.loc[row, "label"]
    named = differing(run, train_on(dataset, as_of, replace(split, test=test), history))
    assert {"test digest", "log_loss", "logistic_log_loss"} <= set(named)
    assert not {"data digest", "weights sha256"} & set(named)


def test_another_seed_is_another_model(dataset: Dataset, run: LoggedRun) -> None:
    other = train_again(dataset.settings, replace(run, config=run.config | {"seed": 8}))
    named = differing(run, other)
    assert {"weights sha256", "log_loss"} <= set(named)
    assert not {"data digest", "logistic_log_loss"} & set(named)


def test_another_environment_explains_a_difference_and_is_none(
    run: LoggedRun, again: TrainingResult
) -> None:
    other = replace(run, tags=run.tags | {"threads": "64"})
    assert differing(other, again) == ["threads"] and reproduced(comparison(other, again))


def test_an_unknown_run_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(RegistryUnavailable):
        logged_run(dataset.settings, "0" * 32)
