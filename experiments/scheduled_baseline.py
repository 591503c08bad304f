"""Scheduled-retraining baseline: a new model every few days, without monitoring and without a gate.

    python -m experiments.scheduled_baseline [--days 28]

Each model is trained on everything known at its start and predicts until the next one starts, for
the requests of the last replay. The models read the features that were logged, so the comparison
with the served predictions and with the frozen first version is paired.
"""

import argparse
import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from experiments.results_tables import scheduled_table
from ontime.data.splits import split_at
from ontime.evaluation.bootstrap import compare
from ontime.evaluation.metrics import log_losses
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.models.distillation import distill
from ontime.models.serialization import TrainedModel
from ontime.models.trainer import TrainConfig
from ontime.problem import FEATURE_SPEC, PREDICTION_INTERVAL
from ontime.registry import model_registry
from ontime.settings import Settings
from ontime.storage.prediction_log import PredictionLog
from simulation.progress import Progress, prepared_file, progress_file


def training_times(start: datetime, end: datetime, days: int) -> list[datetime]:
    """The start, and every ``days`` until the end."""
    return [start + timedelta(days=n) for n in range(0, (end - start).days, days)]


@task(cache_policy=NO_CACHE, persist_result=False)
def train_at(examples: pd.DataFrame, moment: datetime, end: datetime) -> TrainedModel:
    """A model of everything known at ``moment``."""
    split = split_at(examples, moment, end)
    return distill(split.train_and_validation, FEATURE_SPEC, TrainConfig())[0]


@flow(name="scheduled-baseline")
def scheduled_baseline(days: int = 28) -> dict[str, Any]:
    """Compare the served predictions of the last demo with a model trained every ``days``.

    Raises:
        FileNotFoundError: if there was no demo.
    """
    settings = Settings()
    prepared = json.loads(prepared_file(settings).read_text())
    progress = Progress.load(progress_file(settings))
    if progress is None:
        raise FileNotFoundError(f"no replay in {settings.data_dir}: run `make demo` first")
    start, end = (datetime.fromisoformat(time) for time in (progress.start, progress.last_tick))
    log = PredictionLog(settings.prediction_db_url)
    rows = log.served(start, end + PREDICTION_INTERVAL, known_by=end)
    rows = rows[rows.label.notna()]
    examples = build_examples(open_feature_store(settings), load_requests(settings))
    served = rows.probability.to_numpy()
    frozen = model_registry.load(settings, prepared["first_version"]).predict(rows)
    scheduled = np.full(len(rows), np.nan)
    times = training_times(start, end, days)
    for moment in times:
        print(f"a model as of {moment:%Y-%m-%d}")
        later = (rows.as_of > moment).to_numpy()  # the next model overwrites its own part
        scheduled[later] = train_at(examples, moment, end).predict(rows[later])
    labels = rows.label.to_numpy(dtype=bool)
    predictions = {"served": served, "scheduled": scheduled, "frozen": frozen}
    report = {
        "start": progress.start,
        "end": progress.last_tick,
        "days": days,
        "models": len(times),
        "log_loss": {name: float(log_losses(labels, p).mean()) for name, p in predictions.items()},
        "served_minus_scheduled": asdict(compare(rows, served, scheduled)),
        "scheduled_minus_frozen": asdict(compare(rows, scheduled, frozen)),
    }
    path = settings.reports_dir / f"scheduled-baseline-{days}.json"
    path.write_text(json.dumps(report, indent=1))
    print(scheduled_table(report))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=28)
    scheduled_baseline(parser.parse_args().days)


if __name__ == "__main__":
    main()
