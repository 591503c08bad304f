"""Expanding-window backtest: every model on every month, fitted on all that was known before it.

    python -m experiments.backtest [--first YYYY-MM] [--last YYYY-MM]

All models are evaluated on the same rows.

- network, teachers: `ontime.models.distillation`, as a retrain fits them.
- lightgbm: tuned, with early stopping on the last week.
- lightgbm_aggregates: the same, refitted with the last week for the rounds of that early stopping;
  the mean probability of one model per seed (bagging). The strongest baseline.
- lightgbm_refit_bagged: the same without the inputs in `ontime.problem.AGGREGATES`.
- The other baselines are those of `ontime.models.baselines`.

The first three are fitted once per seed. Their scores and the loss of each row are means over the
seeds, not those of the mean probability: one seed is served. ``backtest.json`` holds, as `rows`,
per month, over all months, over the holdout months and over those before (`choice`), the scores,
the log-loss of each seed, and the network's difference to each other model with its interval;
`slices` holds the same within each slice of all months. ``calibration.png`` is the reliability
diagram of the first seed.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from experiments.results_tables import backtest_table, months_table, slices_table
from ontime.data.splits import Split, split_at
from ontime.evaluation import plots
from ontime.evaluation.comparison import QUICK_BASELINES, compare_models, fit_baselines
from ontime.evaluation.metrics import log_losses
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.features.spec import FeatureSpec
from ontime.models.baselines import Boosting, fit_lightgbm, refit_lightgbm
from ontime.models.distillation import distill
from ontime.models.trainer import TrainConfig
from ontime.problem import (
    AGGREGATES,
    BACKTEST_MONTHS,
    FEATURE_SPEC,
    HOLDOUT_FROM,
    MIN_SLICE_INSTANCES,
    SLICES,
)
from ontime.settings import Settings

SEEDS = tuple(TrainConfig().seed + i for i in range(3))
WITHOUT_AGGREGATES = FeatureSpec(
    tuple(name for name in FEATURE_SPEC.tabular if name not in AGGREGATES),
    FEATURE_SPEC.categorical,
)
LIGHTGBMS = ("lightgbm", "lightgbm_refit_bagged", "lightgbm_aggregates")
MODELS = ("network", "teachers", *LIGHTGBMS, *QUICK_BASELINES)
PLOTTED = ("network", "teachers", "lightgbm", "logistic")
Records = list[dict[str, Any]]


class Evaluated(NamedTuple):
    """Test rows [n] and each model's probabilities for them, [seeds, n]."""

    rows: pd.DataFrame
    predictions: dict[str, np.ndarray]


def months(first: str, last: str) -> list[tuple[datetime, datetime]]:
    """Start and end (UTC) of each month from first to last, both "YYYY-MM"."""
    starts = pd.period_range(first, pd.Period(last, "M") + 1, freq="M").to_timestamp()
    return list(pairwise(starts.tz_localize("UTC").to_pydatetime()))


@task(cache_policy=NO_CACHE, persist_result=False)
def evaluate_month(split: Split) -> Evaluated:
    """Fit every model on the split; their probabilities for its test rows."""
    known, test = split.train_and_validation, split.test
    networks, teachers = [], []
    for seed in SEEDS:
        model, its_teachers, _ = distill(known, FEATURE_SPEC, replace(TrainConfig(), seed=seed))
        networks.append(model.predict(test))
        teachers.append(its_teachers.predict(test))
    stopped = fit_stopped(split, FEATURE_SPEC)
    found = {"network": np.stack(networks), "teachers": np.stack(teachers)}
    found["lightgbm"] = np.stack([model.predict(test) for model in stopped])
    found["lightgbm_aggregates"] = refit_and_bag(stopped, known, test)
    found["lightgbm_refit_bagged"] = refit_and_bag(
        fit_stopped(split, WITHOUT_AGGREGATES), known, test
    )
    others = fit_baselines(split, QUICK_BASELINES)
    return Evaluated(test, found | {name: p[None] for name, p in others.items()})


def fit_stopped(split: Split, spec: FeatureSpec) -> list[Boosting]:
    """LightGBM with early stopping, one model per seed."""
    return [fit_lightgbm(split.train, split.validation, spec, {"seed": seed}) for seed in SEEDS]


def refit_and_bag(stopped: list[Boosting], known: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """The mean probability of each seed's model, refitted on everything known; [1, n]."""
    refitted = [
        refit_lightgbm(model, known, {"seed": seed})
        for model, seed in zip(stopped, SEEDS, strict=True)
    ]
    return np.mean([model.predict(test) for model in refitted], axis=0, keepdims=True)


def combine(months: list[Evaluated]) -> Evaluated:
    """Several months as one period."""
    predictions = {
        name: np.concatenate([month.predictions[name] for month in months], axis=1)
        for name in MODELS
    }
    return Evaluated(pd.concat([month.rows for month in months], ignore_index=True), predictions)


def score(evaluated: Evaluated) -> Records:
    """One row per model: scores, the log-loss of each seed, the network's difference to it."""
    models, differences = compare_models(*evaluated)
    table = models.merge(differences, on="model", how="left").astype(object)
    labels = evaluated.rows.label.to_numpy(dtype=bool)
    table["log_loss_of_seeds"] = [
        [float(log_losses(labels, p).mean()) for p in evaluated.predictions[name]]
        for name in table.model
    ]
    return table.where(pd.notna, None).to_dict("records")


def score_slices(evaluated: Evaluated) -> Iterator[dict[str, Any]]:
    """The rows of `score` within each value of a slice that has enough rows and both labels."""
    rows, predictions = evaluated
    for name, values_of in SLICES.items():
        values = values_of(rows)
        for value in np.unique(values):
            inside = values == value
            if inside.sum() >= MIN_SLICE_INSTANCES and rows.label[inside].nunique() == 2:
                part = {model: p[:, inside] for model, p in predictions.items()}
                for row in score(Evaluated(rows[inside], part)):
                    yield {"slice": name, "value": str(value)} | row


@flow(name="backtest")
def backtest(
    first: str = BACKTEST_MONTHS[0], last: str = BACKTEST_MONTHS[1]
) -> dict[str, list[dict[str, Any]]]:
    """Evaluate every model on each month; the tables are written to the reports."""
    settings = Settings()
    examples = build_examples(open_feature_store(settings), load_requests(settings))
    evaluated: dict[str, Evaluated] = {}
    for start, end in months(first, last):
        print(f"{start:%Y-%m}")
        evaluated[f"{start:%Y-%m}"] = evaluate_month(split_at(examples, start, end))
    periods = {
        "choice": [month for month in evaluated if month < HOLDOUT_FROM],
        "holdout": [month for month in evaluated if month >= HOLDOUT_FROM],
        "all": list(evaluated),
    }
    for period, names in periods.items():
        if names:
            evaluated[period] = combine([evaluated[name] for name in names])
    every = evaluated["all"]
    report = {
        "rows": [row | {"month": m} for m, found in evaluated.items() for row in score(found)],
        "slices": list(score_slices(every)),
    }
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    labels = every.rows.label.to_numpy(dtype=bool)
    figure = plots.calibration(labels, {name: every.predictions[name][0] for name in PLOTTED})
    figure.savefig(settings.reports_dir / "calibration.png", dpi=120)
    (settings.reports_dir / "backtest.json").write_text(json.dumps(report, indent=1))
    create_table_artifact(key="backtest", table=report["rows"])
    tables = (backtest_table(report, "all"), months_table(report), slices_table(report))
    print("\n\n".join(tables))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", default=BACKTEST_MONTHS[0], metavar="YYYY-MM")
    parser.add_argument("--last", default=BACKTEST_MONTHS[1], metavar="YYYY-MM")
    arguments = parser.parse_args()
    backtest(arguments.first, arguments.last)


if __name__ == "__main__":
    main()
