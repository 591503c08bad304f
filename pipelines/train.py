"""Train: fit the network and its baselines on what was known at a time, evaluate, register.

    python -m pipelines.train [--as-of TIME] [--device auto|cpu|cuda]
    torchrun --nproc-per-node=2 -m pipelines.train

The registered version (alias `challenger`) is the evaluated model itself; nothing is refitted. A
first model is evaluated on a test split, its newest two weeks. Once there is a champion, a model is
trained on every known outcome and evaluated in shadow.
"""

import argparse
from datetime import datetime
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from monitoring.retrain_policy import (
    SHADOW_PERIOD,
    TRAINING_TIME,
    WINDOW,
    UnsatisfiableRule,
    check_rules,
)
from ontime.data.memory import release_freed_memory
from ontime.data.splits import Split, split_by_time, split_without_test
from ontime.data.timestamps import parse_utc
from ontime.evaluation.comparison import ALL_BASELINES
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, check_views, load_requests
from ontime.models.distillation import distill
from ontime.models.distributed import process_group, rank_and_size
from ontime.models.trainer import TrainConfig, pick_device
from ontime.problem import DEMO_START, FEATURE_SPEC, INSTANCES, MIN_GATE_INSTANCES, local_day
from ontime.registry import model_registry as registry
from ontime.registry.run_logger import log_training
from ontime.registry.training_run import code_revision, train_and_evaluate
from ontime.settings import Settings


@task(cache_policy=NO_CACHE, persist_result=False)
def load_split(
    settings: Settings, as_of: datetime, holdout: bool
) -> tuple[Split, dict[str, float]]:
    """The examples known at ``as_of``, split by time, and the metrics of the historical join.

    Args:
        holdout: whether the newest two weeks are test rows.
    """
    requests = load_requests(settings)
    requests = requests[requests.event_timestamp < as_of]
    release_freed_memory()  # what monitoring left
    started = perf_counter()
    examples = build_examples(open_feature_store(settings), requests)
    history = {
        "history_seconds": perf_counter() - started,
        "history_rows_in": int(requests.eligible.sum()),
        "history_rows_out": len(examples),
    }
    split = (split_by_time if holdout else split_without_test)(examples, as_of)
    del requests, examples
    release_freed_memory()
    return split, history


def check_traffic(split: Split, as_of: datetime) -> None:
    """Raise UnsatisfiableRule if gate or retrain policy need more rows than the traffic brings."""
    since = as_of - WINDOW
    recent = pd.concat([rows[rows.event_timestamp >= since] for rows in split.parts.values()])
    check_rules(len(recent), len(np.unique(local_day(recent))))
    in_shadow = len(recent) * (SHADOW_PERIOD - TRAINING_TIME) // WINDOW
    test = {"test period": len(split.test)} if len(split.test) else {}
    for period, n in (test | {"shadow period": in_shadow}).items():
        if n < MIN_GATE_INSTANCES:
            raise UnsatisfiableRule(
                f"the gate needs {MIN_GATE_INSTANCES:,} {INSTANCES}; the {period} has {n:,}. Lower "
                "MIN_GATE_INSTANCES in ontime.problem"
            )


@task(cache_policy=NO_CACHE, persist_result=False)
def fit_and_register(
    settings: Settings,
    split: Split,
    history: dict[str, float],
    as_of: datetime,
    device: str,
    baselines: tuple[str, ...],
) -> tuple[str, list[dict[str, Any]], str]:
    """Train, evaluate and log; returns version, table of models and model card."""
    revision = code_revision(settings)
    result = train_and_evaluate(split, history, as_of, TrainConfig(), device, baselines, revision)
    version = log_training(settings, result)
    return version, result.tables["models"].to_dict("records"), result.model_card


@flow(name="train")
def train(
    as_of: datetime = DEMO_START, device: str = "auto", baselines: tuple[str, ...] = ALL_BASELINES
) -> str:
    """Train on what was known at ``as_of``; returns the version, which is now `challenger`.

    Raises:
        UnsatisfiableRule: if the traffic can never meet a minimum of the gate or of monitoring.
        EmptyView: if a view that is not optional has no value in any training row.
    """
    print(f"train as of {as_of:%Y-%m-%d %H:%M} UTC")
    settings = Settings()
    registry.connect(settings)
    holdout = registry.resolve(settings, registry.CHAMPION) is None
    split, history = load_split(settings, as_of, holdout)
    check_traffic(split, as_of)
    check_views(split.train)
    sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in split.parts.items())
    print(f"  {INSTANCES}: {sizes}")
    version, models, card = fit_and_register(settings, split, history, as_of, device, baselines)
    del split
    release_freed_memory()
    create_table_artifact(key="models", table=models, description=f"Version {version}, test rows")
    create_markdown_artifact(key="model-card", markdown=card)
    print(f"  version {version} registered as challenger")
    return version


def train_on_other_rank(as_of: datetime, device: str) -> None:
    """The part of torchrun's processes other than rank 0: the same fit, nothing evaluated."""
    settings = Settings()
    holdout = registry.resolve(settings, registry.CHAMPION) is None
    split, _ = load_split.fn(settings, as_of, holdout)
    distill(split.train_and_validation, FEATURE_SPEC, TrainConfig(), device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc, default=DEMO_START)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = parser.parse_args()
    with process_group(pick_device(arguments.device).type == "cuda"):
        run = train if rank_and_size()[0] == 0 else train_on_other_rank
        run(arguments.as_of, arguments.device)


if __name__ == "__main__":
    main()
