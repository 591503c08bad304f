"""The search: nested runs, pruned, resumed; the winner lands where the configuration is read."""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pandas as pd
import pytest

from ontime.baselines import LIGHTGBM_PARAMETERS
from ontime.dataset import Split
from ontime.model import ModelConfig
from ontime.training import TrainConfig
from ontime.tuned import TUNED, TUNED_FILE, TunedError, read_tuned
from pipelines import tune
from pipelines.tune import SPACES, finished, in_use, open_study, search, taught, write_winner

Losses = Callable[[list[list[float]]], None]


@pytest.fixture(autouse=True)
def _mlflow(tmp_path: Path) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def splits(examples: pd.DataFrame) -> list[Split]:
    """Two tiny months."""
    return [
        Split(examples[:4500], examples[4500:5000], examples[5000:5500]),
        Split(examples[:5000], examples[5000:5500], examples[5500:6000]),
    ]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    """Trials reach these log-losses, month by month."""

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
    model: str, splits: list[Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TUNED["training"], "epochs", 1)
    study = open_study(model, "rows", tmp_path)
    search(study, model, [taught(split, model) for split in splits], trials=2)
    assert study.trials[0].params == in_use(model)
    assert study.trials[1].params != in_use(model)
    runs = runs_below(study)
    assert len(runs) == 2 and set(runs["tags.state"]) == {"complete"}
    reached = sorted(trial.value or 0.0 for trial in study.trials)
    assert sorted(runs["metrics.log_loss"]) == pytest.approx(reached)
    assert {f"params.{name}" for name in in_use(model)} <= set(runs.columns)


def test_a_search_that_was_stopped_goes_on(tmp_path: Path, losses: Losses) -> None:
    losses([[0.5, 0.4], [0.6, 0.4], [0.5, 0.3]])
    first = open_study("network", "rows", tmp_path)
    search(first, "network", [None, None], trials=2)  # type: ignore[list-item]
    again = open_study("network", "rows", tmp_path)
    search(again, "network", [None, None], trials=3)  # type: ignore[list-item]
    assert [t.value for t in finished(again)] == pytest.approx([0.45, 0.5, 0.4])
    tried = {str(trial.params) for trial in finished(again)}
    assert len(tried) == 3, "what was tried before is not tried again"
    assert again.user_attrs["mlflow_run"] == first.user_attrs["mlflow_run"]
    assert len(runs_below(again)) == 3
    search(again, "network", [], trials=3)  # nothing left to do
    assert finished(open_study("network", "other rows", tmp_path)) == []


def test_what_was_killed_does_not_look_as_if_it_ran(tmp_path: Path, losses: Losses) -> None:
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
    monkeypatch.setattr(tune, "NOT_PRUNED", 2)
    losses([[0.5, 0.4], [0.5, 0.4], [0.9], [0.4, 0.4]])
    study = open_study("lightgbm", "rows", tmp_path)
    search(study, "lightgbm", [None, None], trials=4)  # type: ignore[list-item]
    states = [trial.state.name for trial in finished(study)]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert sorted(runs_below(study)["tags.state"]) == ["complete", "complete", "complete", "pruned"]


def test_an_easy_month_does_not_carry_a_trial_through_a_hard_one(
    tmp_path: Path, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "NOT_PRUNED", 2)
    losses([[0.5, 0.4, 0.6, 0.6], [0.5, 0.4, 0.6, 0.6], [0.5, 0.39, 0.9]])
    study = open_study("network", "rows", tmp_path)
    search(study, "network", [None] * 4, trials=3)  # type: ignore[list-item]
    assert [trial.state.name for trial in finished(study)] == ["COMPLETE", "COMPLETE", "PRUNED"]


def test_the_winner_is_written_into_its_own_section_alone(tmp_path: Path, losses: Losses) -> None:
    losses([[0.5], [0.4]])
    study = open_study("lightgbm", "rows", tmp_path)
    search(study, "lightgbm", [None], trials=2)  # type: ignore[list-item]
    file = tmp_path / "tuned.json"
    file.write_text(TUNED_FILE.read_text())
    assert write_winner(study, file)
    written = read_tuned(file)
    assert written["lightgbm"] == study.best_params != TUNED["lightgbm"]
    assert {k: v for k, v in written.items() if k != "lightgbm"} == {
        k: v for k, v in read_tuned().items() if k != "lightgbm"
    }
    assert not write_winner(study, file), "it stands there already"


def test_what_is_tuned_is_what_the_models_read() -> None:
    def names(config: type[Any]) -> set[str]:
        return {field.name for field in fields(config)}

    assert set(TUNED["training"]) <= names(TrainConfig)
    assert set(TUNED["network"]) <= names(ModelConfig)
    assert set(TUNED["lightgbm"]) <= set(LIGHTGBM_PARAMETERS)
    for model, space in SPACES.items():
        chosen = space(optuna.trial.FixedTrial(in_use(model)))  # type: ignore[arg-type]
        flat = {name: value for section in chosen.values() for name, value in section.items()}
        assert flat == in_use(model), "the space holds every number that is tuned"


def test_a_file_without_its_sections_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tuned.json").write_text(json.dumps({"network": {}}))
    with pytest.raises(TunedError, match=r"sections .*'lightgbm'.*, not \['network'\]"):
        read_tuned(tmp_path / "tuned.json")
