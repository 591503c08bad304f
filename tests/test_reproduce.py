"""A logged run made again: equal to the last bit, and what differs is named."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import mlflow
import pytest
from prefect.testing.utilities import prefect_test_harness

from ontime.registry import LoggedRun, RegistryUnavailable, logged_run
from ontime.run_log import Training, log_training
from ontime.settings import Settings
from ontime.training import TrainConfig
from pipelines.reproduce import comparison, reproduced, tell, train_again
from pipelines.train import judged_training, load_split
from tests.conftest import World

AS_OF = datetime(2013, 2, 22, tzinfo=UTC)
CONFIG = TrainConfig(seed=7, epochs=1)  # not the default: what MLflow holds has to be used


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with prefect_test_harness():
        yield


@pytest.fixture(scope="module")
def run(world: World) -> LoggedRun:
    split, history = load_split(AS_OF)
    training = judged_training(split, history, AS_OF, CONFIG, "cpu", ("logistic", "base_rate"))
    log_training(world.settings, training)
    experiment = mlflow.get_experiment_by_name("ontime")
    assert experiment is not None
    (found,) = mlflow.MlflowClient().search_runs(
        [experiment.experiment_id], f"tags.as_of = '{AS_OF.isoformat()}'"
    )
    return logged_run(world.settings, found.info.run_id)


@pytest.fixture(scope="module")
def again(run: LoggedRun) -> Training:
    return train_again(run)


def differing(run: LoggedRun, training: Training) -> list[object]:
    return [row["what"] for row in comparison(run, training) if not row["same"]]


def test_data_metrics_and_weights_are_the_same(
    run: LoggedRun, again: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = comparison(run, again)
    assert differing(run, again) == [] and reproduced(rows)
    compared = {row["what"] for row in rows}
    assert {"data digest", "weights sha256", "auc", "logistic_log_loss", "threads"} <= compared
    assert {"epoch_train_loss", "code_revision", "history_rows_out"} <= compared
    assert (run.tags["device"], run.tags["processes"]) == ("cpu", "1")
    tell(run, rows)
    assert "reproduced: data, metrics and weights are the same" in capsys.readouterr().out


def test_what_differs_is_named(
    run: LoggedRun, again: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(run, metrics=run.metrics | {"auc": run.metrics["auc"] + 1e-12})
    assert differing(other, again) == ["auc"] and not reproduced(comparison(other, again))
    row = again.data.index[-1]
    edited = again.data.assign(carrier_late_rate_7d=again.data.carrier_late_rate_7d.copy())
    edited.loc[row, "carrier_late_rate_7d"] += 0.01
    assert differing(run, replace(again, data=edited)) == ["data digest"]
    tell(other, comparison(other, again))
    assert "not reproduced; these differ: auc" in capsys.readouterr().out


def test_one_judged_row_that_is_another_is_named(run: LoggedRun) -> None:
    split, history = load_split(AS_OF)
    row = split.judge.index[0]
    judge = split.judge.assign(is_late=split.judge.is_late.copy())
    judge.loc[row, "is_late"] = not judge.loc[row, "is_late"]
    baselines = ("logistic", "base_rate")
    other = judged_training(replace(split, judge=judge), history, AS_OF, CONFIG, "cpu", baselines)
    named = differing(run, other)
    assert {"judge digest", "log_loss", "logistic_log_loss"} <= set(named)
    assert not {"data digest", "valid digest", "weights sha256"} & set(named)


def test_another_seed_is_another_model(run: LoggedRun) -> None:
    other = train_again(replace(run, config=run.config | {"seed": 8}))
    named = differing(run, other)
    assert {"weights sha256", "log_loss"} <= set(named)
    assert not {"data digest", "logistic_log_loss"} & set(named)


def test_another_surrounding_explains_and_is_no_difference(run: LoggedRun, again: Training) -> None:
    other = replace(run, tags=run.tags | {"threads": "64"})
    assert differing(other, again) == ["threads"] and reproduced(comparison(other, again))


def test_a_run_that_is_not_there_is_refused(world: World) -> None:
    with pytest.raises(RegistryUnavailable):
        logged_run(Settings(), "0" * 32)
