"""The models of the policy comparison: one per week, each trained once and shared by all policies.

A model is trained on every outcome known at its moment. Its predictions for all later requests are
cached in ``policies`` of the data folder, under a digest of its rows and configuration, so that a
comparison that was stopped continues and a changed input trains again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from ontime.data.files import atomic_write
from ontime.models.distillation import distill
from ontime.models.trainer import TrainConfig
from ontime.problem import FEATURE_SPEC
from ontime.registry.run_logger import data_digest

TRAINING_INTERVAL = timedelta(days=7)


@dataclass(frozen=True)
class WeeklyModels:
    """Predictions of models trained at different times, for the same rows.

    Attributes:
        rows: [n] labelled requests by event_timestamp, those of `build_examples`.
        probabilities: moment of training -> float64 [n]; NaN for requests before it.
        seconds: of all trainings together.
    """

    rows: pd.DataFrame
    probabilities: dict[datetime, np.ndarray]
    seconds: float


def training_moments(start: datetime, end: datetime) -> list[datetime]:
    """A moment per week, from two weeks before the start (a model with a holdout) to the end."""
    first = start - 2 * TRAINING_INTERVAL
    return [first + n * TRAINING_INTERVAL for n in range((end - first) // TRAINING_INTERVAL)]


def weekly_models(
    examples: pd.DataFrame, start: datetime, end: datetime, moments: Sequence[datetime], to: Path
) -> WeeklyModels:
    """Train each model that is not in the folder ``to`` yet, and predict with it."""
    at = examples.event_timestamp
    rows = examples[(at > start) & (at <= end)].reset_index(drop=True)
    to.mkdir(parents=True, exist_ok=True)
    probabilities, seconds = {}, 0.0
    for moment in moments:
        known = examples[examples.outcome_known_at <= moment]
        config = TrainConfig()
        what = [data_digest(known), data_digest(rows), asdict(config)]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
        path = to / f"{moment:%Y-%m-%d}-{digest}.npz"
        if not path.exists():
            started = perf_counter()
            model = distill(known, FEATURE_SPEC, config)[0]
            took = perf_counter() - started
            later = (rows.event_timestamp > moment).to_numpy()
            predicted = np.full(len(rows), np.nan)
            predicted[later] = model.predict(rows[later])
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.savez(file, probabilities=predicted, seconds=took)
            print(f"{moment:%Y-%m-%d}  {len(known):,} rows  {took:.0f} s", flush=True)
        with np.load(path) as saved:
            probabilities[moment] = saved["probabilities"]
            seconds += float(saved["seconds"])
    return WeeklyModels(rows, probabilities, seconds)
