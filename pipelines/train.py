"""Train: fit the network and its baselines on what was known at a moment, judge, log, register.

    python -m pipelines.train --as-of 2013-05-01 [--device auto|cpu|cuda]
    torchrun --nproc-per-node=2 -m pipelines.train --as-of 2013-05-01

The version that is registered (alias `challenger`) is the very model that was judged.
"""

import argparse
import platform
import shutil
import subprocess
from datetime import datetime
from functools import partial
from importlib.metadata import version as installed
from time import perf_counter
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from ontime.clock import parse_moment
from ontime.settings import ROOT, Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ontime.dataset import Split
    from ontime.run_log import Training
    from ontime.training import TrainConfig

SLICES = ("carrier", "origin", "day_part")
WORTH_ROWS = 2_000  # flights that say what the inputs are worth: half a second


@task(cache_policy=NO_CACHE, persist_result=False)
def load_split(as_of: datetime) -> tuple["Split", dict[str, float]]:
    """Examples known at ``as_of`` from Feast's historical join, split by time; and what it took."""
    from ontime.clock import prediction_time
    from ontime.dataset import build_examples, split_by_time
    from ontime.feature_store import open_feature_store
    from ontime.tables import FLIGHTS, read_tables

    settings = Settings()
    flights = read_tables(settings.tables_dir, (FLIGHTS,))["flights"]
    asked = flights[prediction_time(flights.scheduled_departure) < as_of]
    started = perf_counter()
    examples = build_examples(open_feature_store(settings), asked)
    history = {
        "history_seconds": perf_counter() - started,
        "history_rows_in": int(asked.tailnum.notna().sum()),
        "history_rows_out": len(examples),
    }
    return split_by_time(examples, as_of), history


@task(cache_policy=NO_CACHE, persist_result=False)
def fit_and_register(
    split: "Split",
    history: dict[str, float],
    as_of: datetime,
    device: str,
    baselines: tuple[str, ...],
) -> tuple[str, list[dict[str, Any]], str]:
    """Fit, judge and log; the new version, the table of models and the model card."""
    from ontime.run_log import log_training
    from ontime.training import TrainConfig

    training = judged_training(split, history, as_of, TrainConfig(), device, baselines)
    version = log_training(Settings(), training)
    return version, training.tables["models"].to_dict("records"), training.model_card


def judged_training(
    split: "Split",
    history: dict[str, float],
    as_of: datetime,
    config: "TrainConfig",
    device: str,
    baselines: tuple[str, ...],
) -> "Training":
    """Fit and judge: everything of a run that is worth logging, and nothing logged yet."""
    from dataclasses import asdict

    from ontime import figures
    from ontime.distillation import distil
    from ontime.evaluation import expected_cost_threshold, slice_table
    from ontime.explanation import worth
    from ontime.features import FEATURE_SPEC
    from ontime.model_card import COST_RATIO, model_card
    from ontime.run_log import Training, data_digest

    known = split.known
    model, teachers, epochs = distil(known, split.judge, FEATURE_SPEC, config, device)
    answers = {"network": model.predict(split.judge), "teachers": teachers.predict(split.judge)}
    answers |= judge_baselines(split, baselines)
    models, differences = compare_models(split.judge, answers)
    teaching = {"teachers_rounds": teachers.rounds, "teachers_days_left_out": teachers.log_loss}
    labels = split.judge.is_late.to_numpy(dtype=bool)
    slices = slice_table(split.judge, labels, answers["network"], SLICES)
    some = split.judge.sample(min(WORTH_ROWS, len(split.judge)), random_state=0)
    groups = worth(model, some)
    trained_through = split.judge.event_timestamp.min().to_pydatetime()
    threshold = expected_cost_threshold(1.0, COST_RATIO)
    scores = models[models.model == "network"].iloc[0].drop("model").to_dict()
    model.metadata |= {
        "trained_through": trained_through.isoformat(),
        "threshold": threshold,
        "scores": scores,
    }
    sizes = {name: len(part) for name, part in vars(split).items()}
    card = model_card(
        models,
        differences,
        slices,
        groups,
        sizes,
        config.network.members,
        trained_through,
        split.judge.event_timestamp.min(),
        split.judge.event_timestamp.max(),
        threshold,
    )
    judged = split.judge[["flight_id", "event_timestamp", "scheduled_departure", "is_late"]]
    return Training(
        as_of=as_of,
        model=model,
        parameters=asdict(config) | {f"rows_{name}": n for name, n in sizes.items()},
        curves={
            "train_loss": [record.train_loss for record in epochs],
            "unseen_log_loss": [record.unseen_log_loss for record in epochs],
            "unseen_auc": [record.unseen_auc for record in epochs],
        },
        metrics=flat_metrics(models) | teaching | history,
        tables={
            "models": models,
            "differences": differences,
            "slices": slices,
            "worth": groups,
        },
        judged=judged.assign(**answers),
        figures={
            "calibration": figures.calibration(labels, answers),
            "roc_and_precision_recall": figures.roc_and_precision_recall(labels, answers),
            "learning_curve": figures.learning_curve(epochs),
        },
        model_card=card,
        data=known,
        tags={
            "as_of": as_of.isoformat(),
            "baselines": " ".join(baselines),
            "judge_digest": data_digest(split.judge),
            "code_revision": code_revision(),
        }
        | surroundings(device),
    )


def judge_baselines(split: "Split", names: tuple[str, ...]) -> dict[str, "np.ndarray"]:
    """Each baseline, fitted on the same rows, answering the same unseen flights."""
    from ontime import baselines
    from ontime.features import FEATURE_SPEC

    fits: dict[str, Any] = {
        "lightgbm": baselines.fit_lightgbm,
        "logistic": baselines.fit_logistic,
        "rolling_rate": partial(baselines.fit_rolling_rate, column="origin_hour_late_rate_28d"),
        "base_rate": baselines.fit_base_rate,
    }
    return {
        name: fits[name](split.fit, split.valid, FEATURE_SPEC).predict(split.judge)
        for name in names
    }


def compare_models(
    flights: "pd.DataFrame", answers: dict[str, "np.ndarray"]
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Scores a model; and log-loss of the network against each other model; with intervals."""
    from dataclasses import asdict

    import pandas as pd

    from ontime.evaluation import compare, ece_interval, scores

    labels = flights.is_late.to_numpy(dtype=bool)
    models = pd.DataFrame(
        [
            {"model": name}
            | scores(labels, answer)
            | dict(zip(("ece_low", "ece_high"), ece_interval(flights, answer), strict=True))
            for name, answer in answers.items()
        ]
    )
    differences = pd.DataFrame(
        [
            {"network against": name} | asdict(compare(flights, answers["network"], answer))
            for name, answer in answers.items()
            if name != "network"
        ],
        columns=["network against", "difference", "low", "high", "confidence"],
    )
    return models, differences


def flat_metrics(models: "pd.DataFrame") -> dict[str, float]:
    """The network's scores under their own names, the baselines' with theirs in front."""
    metrics: dict[str, float] = {}
    for row in models.to_dict("records"):
        prefix = "" if row["model"] == "network" else f"{row['model']}_"
        metrics |= {f"{prefix}{name}": v for name, v in row.items() if name != "model"}
    return metrics


def surroundings(device: str) -> dict[str, str]:
    """What beside data, code and configuration decides the last bits of a weight or a metric."""
    import torch

    from ontime.processes import rank_and_size
    from ontime.training import bf16_is_fast, pick_device

    where = pick_device(device)  # "auto" is not a place
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: installed(name) for name in ("duckdb", "lightgbm", "numpy", "scikit-learn")},
        "device": where.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16": str(bf16_is_fast(where)),
        "threads": str(torch.get_num_threads()),
        "processes": str(rank_and_size()[1]),
    }


def code_revision() -> str:
    """The commit that is checked out, with ``+`` if files differ from it.

    Without git, as in the image, what the settings say.
    """
    if shutil.which("git") is not None:
        describe = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
        found = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    return Settings().code_revision


QUICK_BASELINES = ("logistic", "rolling_rate", "base_rate")  # the teachers are always judged
ALL_BASELINES = ("lightgbm", *QUICK_BASELINES)


@flow(name="train")
def train(as_of: datetime, device: str = "auto", baselines: tuple[str, ...] = ALL_BASELINES) -> str:
    """Train on what was known at ``as_of``; the version that is now `challenger`."""
    print(f"train as of {as_of:%Y-%m-%d %H:%M} UTC")
    split, history = load_split(as_of)
    parts = ", ".join(f"{len(part):,} to {name}" for name, part in vars(split).items())
    print(f"  flights: {parts}")
    version, models, card = fit_and_register(split, history, as_of, device, baselines)
    create_table_artifact(key="models", table=models, description=f"Version {version}, judged")
    create_markdown_artifact(key="model-card", markdown=card)
    print(f"  version {version} registered as challenger")
    return version


def follow(as_of: datetime, device: str) -> None:
    """What torchrun's other processes do: the same fit of the same rows, and nothing else."""
    from ontime.distillation import distil
    from ontime.features import FEATURE_SPEC
    from ontime.training import TrainConfig

    split, _ = load_split.fn(as_of)
    distil(split.known, split.judge, FEATURE_SPEC, TrainConfig(), device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_moment, default=parse_moment("2013-05-01"))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = parser.parse_args()

    from ontime.processes import process_group, rank_and_size
    from ontime.training import pick_device

    with process_group(pick_device(arguments.device).type == "cuda"):
        if rank_and_size()[0] == 0:
            train(arguments.as_of, arguments.device)
        else:
            follow(arguments.as_of, arguments.device)


if __name__ == "__main__":
    main()
