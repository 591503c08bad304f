"""Tune: search for a configuration with Optuna, each trial a nested run of MLflow.

    python -m pipelines.tune [--model network|lightgbm] [--trials 50]

Both models have the same budget and the same goal: the mean log-loss over the months April to July,
each judged by a model of all that was known when the month began. No later month is looked at. A
trial that is behind after a month is pruned.
A search that was stopped goes on with the same command; the first trial is what is in use now.
Other examples, as after a change of a feature, are another search. Code is not compared: after a
change of a model, remove ``var/tune``. The winner is written into `src/ontime/tuned.json`, if it is
better than what is in use: look at the difference, and commit it.
"""

import argparse
import io
import json
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import mlflow
import optuna
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from ontime.settings import Settings
from ontime.tuned import TUNED_FILE, read_tuned
from pipelines.rolling import months

if TYPE_CHECKING:
    import numpy as np

    from ontime.dataset import Split

EXPERIMENT = "ontime-tune"
FIRST, LAST = 4, 7  # months
NOT_PRUNED = 8  # the first trials are not compared with too few others


def network_space(trial: optuna.Trial) -> dict[str, dict[str, Any]]:
    """Small networks, trained for longer: 256 units were not better, and score half as fast."""
    return {
        "training": {
            "epochs": trial.suggest_int("epochs", 10, 24),
            "batch_size": trial.suggest_categorical("batch_size", [1024, 2048, 4096]),
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1.5e-2, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
            "hide_share": trial.suggest_float("hide_share", 0.05, 0.2),
        },
        "network": {
            "hidden": trial.suggest_categorical("hidden", [64, 96, 128]),
            "layers": trial.suggest_int("layers", 1, 3),
            "embedding": trial.suggest_categorical("embedding", [4, 8, 16]),
        },
    }


def lightgbm_space(trial: optuna.Trial) -> dict[str, dict[str, Any]]:
    return {
        "lightgbm": {
            "num_leaves": trial.suggest_int("num_leaves", 8, 128, log=True),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 20, 400, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 1.0),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 100.0, log=True),
            "cat_smooth": trial.suggest_float("cat_smooth", 5.0, 200.0, log=True),
        }
    }


SPACES = {"network": network_space, "lightgbm": lightgbm_space}


class Month(NamedTuple):
    """What a trial is judged on. For the network the teachers' answers too: one fit a search."""

    split: "Split"
    targets: "np.ndarray | None"


@task(cache_policy=NO_CACHE, persist_result=False)
def load_months(model: str) -> list[Month]:
    """For each month what was known when it began, what to judge, and what teachers say."""
    from ontime.dataset import build_examples, split_at
    from ontime.feature_store import open_feature_store
    from ontime.tables import FLIGHTS, read_tables

    settings = Settings()
    ranges = list(months(FIRST, LAST))
    flights = read_tables(settings.tables_dir, (FLIGHTS,))["flights"]
    asked = flights[flights.scheduled_departure < ranges[-1][1]]
    examples = build_examples(open_feature_store(settings), asked)
    return [taught(split_at(examples, start, end), model) for start, end in ranges]


def taught(split: "Split", model: str) -> Month:
    from ontime.distillation import fit_teachers
    from ontime.features import FEATURE_SPEC
    from ontime.training import TrainConfig

    if model != "network":
        return Month(split, None)
    config, known = TrainConfig(), split.known
    teachers = fit_teachers(known, FEATURE_SPEC, config.network.members, config.seed)
    return Month(split, teachers.predict_members(known))


def log_loss(chosen: dict[str, dict[str, Any]], month: Month) -> float:
    """Mean log-loss on the judged flights of a model fitted with what was chosen."""
    from ontime.baselines import fit_lightgbm
    from ontime.evaluation import log_losses
    from ontime.features import FEATURE_SPEC
    from ontime.model import ModelConfig
    from ontime.training import TrainConfig, fit

    split, targets = month
    if targets is not None:
        network = ModelConfig(**asdict(TrainConfig().network) | chosen["network"])
        config = TrainConfig(**chosen["training"], network=network)
        with redirect_stdout(io.StringIO()):  # a line a trial is progress enough
            fitted, _ = fit(split.known, targets, split.judge, FEATURE_SPEC, config)
        answers = fitted.predict(split.judge)
    else:
        boosting = fit_lightgbm(split.fit, split.valid, FEATURE_SPEC, chosen["lightgbm"])
        answers = boosting.predict(split.judge)
    labels = split.judge.is_late.to_numpy(dtype=bool)
    return float(log_losses(labels, answers).mean())


def open_study(model: str, data: str, folder: Path, seed: int = 2013) -> optuna.Study:
    """The search on the examples of digest ``data``, new or gone on with.

    Of a new one the first trial is what is in use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=f"{model} {data[:8]}",
        storage=f"sqlite:///{folder}/optuna.db",
        load_if_exists=True,
    )
    # A sampler begins at its seed with every start: with the same one it would try again what it
    # tried before it was stopped.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    if not any(trial.params == in_use(model) for trial in finished(study)):
        study.enqueue_trial(in_use(model))
    return study


def in_use(model: str) -> dict[str, Any]:
    """What `tuned.json` says, as the parameters of a trial."""
    sections = ("training", "network") if model == "network" else ("lightgbm",)
    return {name: value for section in sections for name, value in read_tuned()[section].items()}


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)


def is_behind(study: optuna.Study, months: int, mean: float) -> bool:
    """Worse than the median complete trial was after as many months.

    The median stopping rule of Vizier (Golovin et al., 2017) and Optuna's pruner take a trial's
    best value so far. Months are not equally hard: an easy May would carry it through a bad June.
    """
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    reached = [trial.intermediate_values[months] for trial in complete]
    return len(reached) >= NOT_PRUNED and mean > median(reached)


def end_killed(study: optuna.Study, parent: mlflow.ActiveRun) -> None:
    """A search that was killed left a trial and its run as if they were running still."""
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    client = mlflow.MlflowClient()
    below = f"tags.mlflow.parentRunId = '{parent.info.run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([parent.info.experiment_id], below):
        client.set_terminated(run.info.run_id, "KILLED")


def search(study: optuna.Study, model: str, judged: list[Month], trials: int) -> None:
    """Go on until there are as many finished trials; each is a run below one parent in MLflow."""
    mlflow.set_experiment(EXPERIMENT)
    parent = study.user_attrs.get("mlflow_run")
    with mlflow.start_run(run_id=parent, run_name=None if parent else f"tune {model}") as run:
        study.set_user_attr("mlflow_run", run.info.run_id)
        end_killed(study, run)

        def objective(trial: optuna.Trial) -> float:
            with mlflow.start_run(run_name=f"trial {trial.number}", nested=True):
                chosen = SPACES[model](trial)
                mlflow.log_params(trial.params)
                losses: list[float] = []
                for month in judged:
                    losses.append(log_loss(chosen, month))
                    mean = sum(losses) / len(losses)
                    reached = {"month_log_loss": losses[-1], "log_loss": mean}
                    mlflow.log_metrics(reached, step=len(losses))
                    trial.report(mean, len(losses))
                    if len(losses) < len(judged) and is_behind(study, len(losses), mean):
                        mlflow.set_tag("state", "pruned")
                        raise optuna.TrialPruned
                mlflow.set_tag("state", "complete")
                return mean

        while (done := len(finished(study))) < trials:
            study.optimize(objective, n_trials=1)
            trial = study.trials[-1]
            complete = trial.state is optuna.trial.TrialState.COMPLETE
            what = f"{trial.value:.5f}" if complete else "pruned"
            best = f"best {study.best_value:.5f}"
            print(f"  trial {done + 1} of {trials}: {what}, {best}", flush=True)
        mlflow.log_metric("log_loss", study.best_value)
        # Tags, because a parameter of MLflow stands for good and a search may go on.
        mlflow.set_tags({f"best_{name}": value for name, value in study.best_params.items()})


def write_winner(study: optuna.Study, path: Path) -> bool:
    """The winner's numbers into `tuned.json`; False if they stand there already."""
    tuned, before, best = read_tuned(path), path.read_text(), study.best_params
    for section in tuned.values():
        section |= {name: best[name] for name in section if name in best}
    path.write_text(json.dumps(tuned, indent=1) + "\n")
    return path.read_text() != before


@flow(name="tune")
def tune(model: str = "network", trials: int = 50) -> float:
    """Search; the best mean log-loss, April to July."""
    import pandas as pd

    from ontime.registry import connect
    from ontime.run_log import data_digest

    settings = Settings()
    connect(settings)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    judged = load_months(model)
    digest = data_digest(pd.concat(vars(judged[-1].split).values()))
    study = open_study(model, digest, settings.var / "tune")
    print(f"tune {model}: {len(finished(study))} of {trials} trials are done")
    search(study, model, judged, trials)
    rows = [{"trial": t.number, "log_loss": t.value, "state": t.state.name} | t.params
            for t in finished(study)]  # fmt: skip
    create_table_artifact(key=f"tune-{model}", table=rows)
    used = [f"{t.value:.5f}" for t in finished(study) if t.params == in_use(model)]
    print(f"in use {' '.join(used) or 'not tried'}")
    print(f"best {study.best_value:.5f}: {study.best_params}")
    if write_winner(study, TUNED_FILE):
        print(f"written to {TUNED_FILE}: look at the difference, and commit it")
    return float(study.best_value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SPACES), default="network")
    parser.add_argument("--trials", type=int, default=50)
    arguments = parser.parse_args()
    tune(arguments.model, arguments.trials)


if __name__ == "__main__":
    main()
