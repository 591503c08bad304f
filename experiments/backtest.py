"""Expanding-window backtest: every model on every month, fitted on all that was known before it.

    python -m experiments.backtest [--first YYYY-MM] [--last YYYY-MM]

All models are evaluated on the same rows. ``backtest.json`` holds the scores per month, over all
months and over the holdout months, the difference of the network to each other model with its
interval, and the network's calibration by slice; ``calibration.png`` is the reliability diagram.
"""

import argparse
import json
from datetime import datetime
from itertools import pairwise
from typing import Any

import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from experiments.results_tables import backtest_table, months_table
from ontime.data.splits import Split, split_at
from ontime.evaluation import plots
from ontime.evaluation.comparison import ALL_BASELINES, compare_models, fit_baselines
from ontime.evaluation.slices import slice_table
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.models.distillation import distill
from ontime.models.trainer import TrainConfig
from ontime.problem import BACKTEST_MONTHS, FEATURE_SPEC, HOLDOUT_FROM
from ontime.settings import Settings

MODELS = ("network", "teachers", *ALL_BASELINES)
PLOTTED = ("network", "teachers", "lightgbm", "logistic")


def months(first: str, last: str) -> list[tuple[datetime, datetime]]:
    """Start and end (UTC) of each month from first to last, both "YYYY-MM"."""
    starts = pd.period_range(first, pd.Period(last, "M") + 1, freq="M").to_timestamp()
    return list(pairwise(starts.tz_localize("UTC").to_pydatetime()))


@task(cache_policy=NO_CACHE, persist_result=False)
def evaluate_month(split: Split) -> pd.DataFrame:
    """The test rows with the probabilities of each model in a column of its name."""
    model, teachers, _ = distill(split.train_and_validation, FEATURE_SPEC, TrainConfig())
    predictions = {"network": model.predict(split.test), "teachers": teachers.predict(split.test)}
    return split.test.assign(**predictions | fit_baselines(split, ALL_BASELINES))


@flow(name="backtest")
def backtest(
    first: str = BACKTEST_MONTHS[0], last: str = BACKTEST_MONTHS[1]
) -> dict[str, list[dict[str, Any]]]:
    """Evaluate every model on each month; the tables are written to the reports."""
    settings = Settings()
    examples = build_examples(open_feature_store(settings), load_requests(settings))
    evaluated: dict[str, pd.DataFrame] = {}
    for start, end in months(first, last):
        print(f"{start:%Y-%m}")
        evaluated[f"{start:%Y-%m}"] = evaluate_month(split_at(examples, start, end))
    holdout = [rows for month, rows in evaluated.items() if month >= HOLDOUT_FROM]
    every = evaluated["all"] = pd.concat(evaluated.values(), ignore_index=True)
    if holdout:
        evaluated["holdout"] = pd.concat(holdout, ignore_index=True)
    tables = []
    for month, rows in evaluated.items():
        models, differences = compare_models(rows, {name: rows[name].to_numpy() for name in MODELS})
        tables.append(models.merge(differences, on="model", how="left").assign(month=month))
    table = pd.concat(tables).astype(object).where(pd.notna, None)
    labels = every.label.to_numpy(dtype=bool)
    slices = slice_table(every, labels, every.network.to_numpy())
    report = {"rows": table.to_dict("records"), "slices": slices.to_dict("records")}
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    figure = plots.calibration(labels, {name: every[name].to_numpy() for name in PLOTTED})
    figure.savefig(settings.reports_dir / "calibration.png", dpi=120)
    (settings.reports_dir / "backtest.json").write_text(json.dumps(report, indent=1))
    create_table_artifact(key="backtest", table=report["rows"])
    print(f"{backtest_table(report)}\n\n{months_table(report)}")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", default=BACKTEST_MONTHS[0], metavar="YYYY-MM")
    parser.add_argument("--last", default=BACKTEST_MONTHS[1], metavar="YYYY-MM")
    arguments = parser.parse_args()
    backtest(arguments.first, arguments.last)


if __name__ == "__main__":
    main()
