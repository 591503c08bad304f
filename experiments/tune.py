"""Hyperparameter search with Optuna; each trial is a nested run in MLflow.

    python -m experiments.tune [--model network|lightgbm] [--trials 50]

The objective is the mean log-loss over the problem's tuning months, each predicted by a model of
everything known when the month began; the holdout months are not read. A trial that is behind the
median after some months is pruned. The first trial is the configuration in use.

A search that was stopped continues with the same command. Other examples (a changed feature) start
another search; changed code does not, so delete ``tune`` in the data folder after changing a model.
The best configuration is written to the problem's ``hyperparameters.json``: review and commit it.
"""

import argparse
import io
import json
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import mlflow
import numpy as np
import optuna
import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from experiments.backtest import months
from ontime.data.splits import Split, split_at
from ontime.evaluation.metrics import log_losses
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.models.baselines import fit_lightgbm
from ontime.models.distillation import fit_teachers, soft_targets
from ontime.models.hyperparameters import read_hyperparameters
from ontime.models.network import ModelConfig
from ontime.models.trainer import TrainConfig, fit
from ontime.problem import FEATURE_SPEC, HYPERPARAMETERS_FILE, TUNING_MONTHS
from ontime.registry.model_registry import connect
from ontime.registry.run_logger import data_digest
from ontime.settings import Settings

EXPERIMENT = "ontime-tune"
MIN_COMPLETE = 8  # no trial is pruned before as many are complete
Hyperparameters = dict[str, dict[str, Any]]  # section -> name -> value


def network_space(trial: optuna.Trial, start: Hyperparameters) -> Hyperparameters:
    """Ranges around the values in use at the start, so that a problem of any size can be tuned."""
    training, network = start["training"], start["network"]
    epochs, batch, hidden, width = (
        *(training[name] for name in ("epochs", "batch_size")),
        *(network[name] for name in ("hidden", "embedding")),
    )
    return {
        "training": {
            "epochs": trial.suggest_int("epochs", max(1, epochs // 2), 2 * epochs),
            "batch_size": trial.suggest_categorical("batch_size", [batch // 2, batch, 2 * batch]),
            "learning_rate": _suggest_near(trial, "learning_rate", training, factor=5),
            "weight_decay": _suggest_near(trial, "weight_decay", training, factor=20),
            "group_dropout": trial.suggest_float("group_dropout", 0.0, 0.5),
            "label_weight": trial.suggest_float("label_weight", 0.0, 1.0),
            "dropout": trial.suggest_float("dropout", 0.0, 0.4),
        },
        "network": {
            "hidden": trial.suggest_categorical("hidden", [2 * hidden // 3, hidden, 2 * hidden]),
            "layers": trial.suggest_int("layers", 1, max(3, network["layers"])),
            "embedding": trial.suggest_categorical("embedding", [width, 2 * width, 4 * width]),
        },
    }


def lightgbm_space(trial: optuna.Trial, start: Hyperparameters) -> Hyperparameters:
    used = start["lightgbm"]
    leaves, rows = used["num_leaves"], used["min_data_in_leaf"]
    return {
        "lightgbm": {
            "num_leaves": trial.suggest_int(
                "num_leaves", max(2, leaves // 4), 4 * leaves, log=True
            ),
            "min_data_in_leaf": trial.suggest_int(
                "min_data_in_leaf", max(1, rows // 4), 4 * rows, log=True
            ),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 1.0),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
            "lambda_l2": _suggest_near(trial, "lambda_l2", used, factor=20),
            "cat_smooth": _suggest_near(trial, "cat_smooth", used, factor=10),
        }
    }


def _suggest_near(trial: optuna.Trial, name: str, used: dict[str, Any], factor: float) -> float:
    return trial.suggest_float(name, used[name] / factor, used[name] * factor, log=True)


SPACES = {"network": network_space, "lightgbm": lightgbm_space}


class Month(NamedTuple):
    """What every trial is evaluated on."""

    split: Split
    members: np.ndarray | None  # the network's teachers' predictions [n, k]: one fit per search


@task(cache_policy=NO_CACHE, persist_result=False)
def load_months(settings: Settings, model: str) -> list[Month]:
    """For each tuning month, the rows known when it began and the rows predicted in it."""
    ranges = months(*TUNING_MONTHS)
    requests = load_requests(settings)
    requests = requests[requests.event_timestamp < ranges[-1][1]]
    examples = build_examples(open_feature_store(settings), requests)
    return [prepare_month(split_at(examples, start, end), model) for start, end in ranges]


def prepare_month(split: Split, model: str) -> Month:
    if model != "network":
        return Month(split, None)
    config, rows = TrainConfig(), split.train_and_validation
    teachers = fit_teachers(rows, FEATURE_SPEC, config.network.members, config.seed)
    return Month(split, teachers.fitted)


def log_loss(chosen: Hyperparameters, month: Month) -> float:
    """Log-loss on the test rows of a model fitted with the chosen hyperparameters."""
    split, members = month
    if members is not None:
        network = ModelConfig(**asdict(TrainConfig().network) | chosen["network"])
        config = TrainConfig(**chosen["training"], network=network)
        with redirect_stdout(io.StringIO()):  # one line per trial is enough
            rows = split.train_and_validation
            targets = soft_targets(members, rows, config.label_weight)
            model, _ = fit(rows, targets, FEATURE_SPEC, config)
        probabilities = model.predict(split.test)
    else:
        boosting = fit_lightgbm(split.train, split.validation, FEATURE_SPEC, chosen["lightgbm"])
        probabilities = boosting.predict(split.test)
    return float(log_losses(split.test.label.to_numpy(dtype=bool), probabilities).mean())


def open_study(model: str, digest: str, folder: Path) -> optuna.Study:
    """The search on examples with this digest, a new one or one to continue."""
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=f"{model} {digest[:8]}",
        storage=f"sqlite:///{folder}/optuna.db",
        load_if_exists=True,
    )
    # The ranges of a study may not change, and the file does when a search ends.
    if "start" not in study.user_attrs:
        study.set_user_attr("start", read_hyperparameters())
    # A sampler starts at its seed in every process: with one seed it would repeat earlier trials.
    study.sampler = optuna.samplers.TPESampler(seed=TrainConfig().seed + len(study.trials))
    if not any(trial.params == in_use(model) for trial in finished(study)):
        study.enqueue_trial(in_use(model))
    return study


def in_use(model: str) -> dict[str, Any]:
    """The hyperparameters in use, as the parameters of a trial."""
    sections = ("training", "network") if model == "network" else ("lightgbm",)
    current = read_hyperparameters()
    return {name: value for section in sections for name, value in current[section].items()}


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)


def is_behind(study: optuna.Study, n_months: int, mean: float) -> bool:
    """True if the mean log-loss is above the complete trials' median after as many months.

    The median stopping rule of Vizier (Golovin et al., 2017) and Optuna's pruner compare a trial's
    best value so far. Months differ in difficulty: a low first month would hide a high second one.
    """
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    means = [trial.intermediate_values[n_months] for trial in complete]
    return len(means) >= MIN_COMPLETE and mean > median(means)


def end_killed(study: optuna.Study, parent: mlflow.ActiveRun) -> None:
    """Close the trial and the run that a killed search left in state RUNNING."""
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    client = mlflow.MlflowClient()
    nested = f"tags.mlflow.parentRunId = '{parent.info.run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([parent.info.experiment_id], nested):
        client.set_terminated(run.info.run_id, "KILLED")


def search(study: optuna.Study, model: str, tuning_months: list[Month], trials: int) -> None:
    """Run until ``trials`` are finished, each as a run nested in one parent run of MLflow."""
    mlflow.set_experiment(EXPERIMENT)
    parent = study.user_attrs.get("mlflow_run")
    with mlflow.start_run(run_id=parent, run_name=None if parent else f"tune {model}") as run:
        study.set_user_attr("mlflow_run", run.info.run_id)
        end_killed(study, run)

        def objective(trial: optuna.Trial) -> float:
            with mlflow.start_run(run_name=f"trial {trial.number}", nested=True):
                chosen = SPACES[model](trial, study.user_attrs["start"])
                mlflow.log_params(trial.params)
                losses: list[float] = []
                for month in tuning_months:
                    losses.append(log_loss(chosen, month))
                    n, mean = len(losses), sum(losses) / len(losses)
                    mlflow.log_metrics({"month_log_loss": losses[-1], "log_loss": mean}, step=n)
                    trial.report(mean, n)
                    if n < len(tuning_months) and is_behind(study, n, mean):
                        mlflow.set_tag("state", "pruned")
                        raise optuna.TrialPruned
                mlflow.set_tag("state", "complete")
                return mean

        while (done := len(finished(study))) < trials:
            study.optimize(objective, n_trials=1)
            trial = study.trials[-1]
            complete = trial.state is optuna.trial.TrialState.COMPLETE
            result = f"{trial.value:.5f}" if complete else "pruned"
            print(
                f"  trial {done + 1} of {trials}: {result}, best {study.best_value:.5f}", flush=True
            )
        mlflow.log_metric("log_loss", study.best_value)
        # Tags: MLflow does not allow another value of a parameter when the search continues.
        mlflow.set_tags({f"best_{name}": value for name, value in study.best_params.items()})


def write_best(study: optuna.Study, path: Path) -> bool:
    """Write the best trial's values to the hyperparameter file; False if it has them already."""
    sections, before, best = read_hyperparameters(path), path.read_text(), study.best_params
    for section in sections.values():
        section |= {name: best[name] for name in section if name in best}
    path.write_text(json.dumps(sections, indent=1) + "\n")
    return path.read_text() != before


@flow(name="tune")
def tune(model: str = "network", trials: int = 50) -> float:
    """Search; returns the best mean log-loss."""
    settings = Settings()
    connect(settings)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuning_months = load_months(settings, model)
    digest = data_digest(pd.concat(vars(tuning_months[-1].split).values()))
    study = open_study(model, digest, settings.data_dir / "tune")
    print(f"tune {model}: {len(finished(study))} of {trials} trials are finished")
    search(study, model, tuning_months, trials)
    rows = [
        {"trial": trial.number, "log_loss": trial.value, "state": trial.state.name} | trial.params
        for trial in finished(study)
    ]
    create_table_artifact(key=f"tune-{model}", table=rows)
    used = [f"{t.value:.5f}" for t in finished(study) if t.params == in_use(model)]
    print(f"in use {' '.join(used) or 'not tried'}")
    print(f"best {study.best_value:.5f}: {study.best_params}")
    if write_best(study, HYPERPARAMETERS_FILE):
        print(f"written to {HYPERPARAMETERS_FILE}: review the difference and commit it")
    return float(study.best_value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SPACES), default="network")
    parser.add_argument("--trials", type=int, default=50)
    arguments = parser.parse_args()
    tune(arguments.model, arguments.trials)


if __name__ == "__main__":
    main()
