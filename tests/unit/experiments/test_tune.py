"""The search: nested runs, pruned, resumed; the best trial is written to the configuration."""

from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import optuna
import pandas as pd
import pytest

from experiments import tune
from experiments.tune import (
    SPACES,
    finished,
    in_use,
    open_study,
    prepare_month,
    search,
    write_best,
)
from ontime.data.splits import Split
from ontime.models.hyperparameters import HYPERPARAMETERS, read_hyperparameters
from ontime.problem import HYPERPARAMETERS_FILE

pytestmark = pytest.mark.slow

Losses = Callable[[list[list[float]]], None]


@pytest.fixture(autouse=True, scope="module")
def _mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def splits(examples: pd.DataFrame) -> list[Split]:
    """Two tiny months."""
    rows = examples[:: len(examples) // 3000]
    edges = [int(share * len(rows)) for share in (0.75, 0.83, 0.92, 1)]
    return [
        Split.of(rows[:first], rows[first:second], rows[second:third])
        for first, second, third in (edges[:3], edges[1:])
    ]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    """Sets the log-losses of the trials, month by month."""

    def use(trials: list[list[float]]) -> None:
        reached = iter([loss for trial in trials for loss in trial])
        monkeypatch.setattr(tune, "log_loss", lambda *_: next(reached))

    return use


def runs_below(study: optuna.Study) -> pd.DataFrame:
    parent = study.user_attrs["mlflow_run"]
    return mlflow.search_runs(
        experiment_names=[tune.EXPERIMENT], filter_string=f"tags.mlflow.parentRunId = '{parent}'"
    )


@pytest.mark.parametrize("model", sorted(SPACES))
def test_the_first_trial_is_what_is_in_use_and_every_trial_a_nested_run(
    model: str, splits: list[Split], tmp_path: Path
) -> None:
    study = open_study(model, "rows", tmp_path)
    search(study, model, [prepare_month(split, model) for split in splits], trials=2)
    assert study.trials[0].params == in_use(model)
    assert study.trials[1].params != in_use(model)
    runs = runs_below(study)
    assert len(runs) == 2 and set(runs["tags.state"]) == {"complete"}
    reached = sorted(trial.value or 0.0 for trial in study.trials)
    assert sorted(runs["metrics.log_loss"]) == pytest.approx(reached)
    assert {f"params.{name}" for name in in_use(model)} <= set(runs.columns)


def test_a_search_that_was_stopped_continues(tmp_path: Path, losses: Losses) -> None:
    losses([[0.5, 0.4], [0.6, 0.4], [0.5, 0.3]])
    first = open_study("network", "rows", tmp_path)
    search(first, "network", [None, None], trials=2)  # type: ignore[list-item]
    again = open_study("network", "rows", tmp_path)
    search(again, "network", [None, None], trials=3)  # type: ignore[list-item]
    assert [t.value for t in finished(again)] == pytest.approx([0.45, 0.5, 0.4])
    tried = {str(trial.params) for trial in finished(again)}
    assert len(tried) == 3, "no configuration is tried twice"
    assert again.user_attrs["mlflow_run"] == first.user_attrs["mlflow_run"]
    assert len(runs_below(again)) == 3
    search(again, "network", [], trials=3)  # nothing left to do
    assert finished(open_study("network", "other rows", tmp_path)) == []


def test_a_killed_trial_and_its_run_are_closed(tmp_path: Path, losses: Losses) -> None:
    losses([[0.5], [0.6]])
    study = open_study("network", "rows", tmp_path)
    search(study, "network", [None], trials=1)  # type: ignore[list-item]
    killed, parent = study.ask(), study.user_attrs["mlflow_run"]
    client = mlflow.MlflowClient()
    experiment = client.get_run(parent).info.experiment_id
    client.create_run(experiment, tags={"mlflow.parentRunId": parent})
    assert "RUNNING" in set(runs_below(study).status)
    search(study, "network", [None], trials=2)  # type: ignore[list-item]
    assert study.trials[killed.number].state is optuna.trial.TrialState.FAIL
    assert sorted(runs_below(study).status) == ["FINISHED", "FINISHED", "KILLED"]


def test_a_trial_that_is_behind_is_pruned_after_a_month(
    tmp_path: Path, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "MIN_COMPLETE", 2)
    losses([[0.5, 0.4], [0.5, 0.4], [0.9], [0.4, 0.4]])
    study = open_study("lightgbm", "rows", tmp_path)
    search(study, "lightgbm", [None, None], trials=4)  # type: ignore[list-item]
    states = [trial.state.name for trial in finished(study)]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert sorted(runs_below(study)["tags.state"]) == ["complete", "complete", "complete", "pruned"]


def test_an_easy_month_does_not_hide_a_bad_score_in_a_hard_one(
    tmp_path: Path, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "MIN_COMPLETE", 2)
    losses([[0.5, 0.4, 0.6, 0.6], [0.5, 0.4, 0.6, 0.6], [0.5, 0.39, 0.9]])
    study = open_study("network", "rows", tmp_path)
    search(study, "network", [None] * 4, trials=3)  # type: ignore[list-item]
    assert [trial.state.name for trial in finished(study)] == ["COMPLETE", "COMPLETE", "PRUNED"]


def test_the_best_trial_is_written_to_its_own_section_alone(tmp_path: Path, losses: Losses) -> None:
    losses([[0.5], [0.4]])
    study = open_study("lightgbm", "rows", tmp_path)
    search(study, "lightgbm", [None], trials=2)  # type: ignore[list-item]
    file = tmp_path / "hyperparameters.json"
    file.write_text(HYPERPARAMETERS_FILE.read_text())
    assert write_best(study, file)
    written = read_hyperparameters(file)
    assert written["lightgbm"] == study.best_params != HYPERPARAMETERS["lightgbm"]
    assert {k: v for k, v in written.items() if k != "lightgbm"} == {
        k: v for k, v in read_hyperparameters().items() if k != "lightgbm"
    }
    assert not write_best(study, file), "the file has these values already"


@pytest.mark.parametrize("model", sorted(SPACES))
def test_the_space_has_every_tuned_value(model: str) -> None:
    trial = optuna.trial.FixedTrial(in_use(model))
    chosen = SPACES[model](trial, read_hyperparameters())  # type: ignore[arg-type]
    flat = {name: value for section in chosen.values() for name, value in section.items()}
    assert flat == in_use(model)


def test_a_search_continues_after_its_best_trial_was_written(
    tmp_path: Path, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses([[0.5], [0.4], [0.3]])
    study = open_study("network", "rows", tmp_path)
    search(study, "network", [None], trials=2)  # type: ignore[list-item]
    file = tmp_path / "hyperparameters.json"
    file.write_text(HYPERPARAMETERS_FILE.read_text())
    assert write_best(study, file)
    monkeypatch.setattr(tune, "read_hyperparameters", lambda: read_hyperparameters(file))
    again = open_study("network", "rows", tmp_path)
    search(again, "network", [None], trials=3)  # type: ignore[list-item]
    assert [trial.state.name for trial in finished(again)] == ["COMPLETE"] * 3
