"""Yardstick: a simpler policy on the flights of the last replay: a new model every so many days.

    python -m pipelines.yardstick --days 28

No monitoring and no gate: each model learns from everything known at its moment and serves until
the next. It answers the features that were logged, so the comparison is paired with what served
and with the model frozen at the start.
"""

import argparse
import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from ontime.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from ontime.model import TrainedModel


def refits(start: datetime, end: datetime, days: int) -> list[datetime]:
    """The moments of a new model: the start, and every ``days`` until the end."""
    return [start + timedelta(days=n) for n in range(0, (end - start).days, days)]


@task(cache_policy=NO_CACHE, persist_result=False)
def learn(examples: "pd.DataFrame", moment: datetime, until: datetime) -> "TrainedModel":
    """A model of everything known at ``moment``, to serve until the next."""
    from ontime.dataset import split_at
    from ontime.distillation import distil
    from ontime.features import FEATURE_SPEC
    from ontime.training import TrainConfig

    split = split_at(examples, moment, until)
    return distil(split.known, split.judge, FEATURE_SPEC, TrainConfig())[0]


@flow(name="yardstick")
def yardstick(days: int = 28) -> dict[str, Any]:
    """What a new model every ``days`` would have been worth; written to the reports.

    Raises:
        FileNotFoundError: if no demo has finished.
    """
    from ontime import registry
    from ontime.dataset import build_examples
    from ontime.evaluation import compare, log_losses
    from ontime.feature_store import open_feature_store
    from ontime.prediction_log import PredictionLog
    from ontime.tables import FLIGHTS, read_tables

    settings = Settings()
    progress = json.loads((settings.var / "replay" / "progress.json").read_text())
    prepared = json.loads((settings.var / "replay" / "prepared.json").read_text())
    start, end = (datetime.fromisoformat(progress[key]) for key in ("start", "last_tick"))
    served = PredictionLog(settings.log_url).served(start, end + timedelta(hours=1), known_by=end)
    served = served[served.is_late.notna()]
    examples = build_examples(
        open_feature_store(settings), read_tables(settings.tables_dir, (FLIGHTS,))["flights"]
    )
    answers = np.full(len(served), np.nan)
    moments = refits(start, end, days)
    for moment in moments:
        print(f"a model of {moment:%Y-%m-%d}")
        asked = (served.as_of > moment).to_numpy()  # until the next one overwrites it
        answers[asked] = learn(examples, moment, end).predict(served[asked])
    labels = served.is_late.to_numpy(dtype=bool)
    served_answers = served.probability_late.to_numpy()
    frozen = registry.load(settings, prepared["first_version"]).predict(served)
    report = {
        "start": progress["start"],
        "end": progress["last_tick"],
        "days": days,
        "models": len(moments),
        "log_loss": {
            name: float(log_losses(labels, probabilities).mean())
            for name, probabilities in (
                ("served", served_answers), ("yardstick", answers), ("frozen", frozen),
            )
        },
        "served_minus_yardstick": asdict(compare(served, served_answers, answers)),
        "yardstick_minus_frozen": asdict(compare(served, answers, frozen)),
    }  # fmt: skip
    (settings.reports_dir / f"yardstick-{days}.json").write_text(json.dumps(report, indent=1))
    tell(report)
    return report


def tell(report: dict[str, Any]) -> None:
    print(f"\n{report['start'][:10]} to {report['end'][:10]}, log-loss")
    for name, value in report["log_loss"].items():
        print(f"  {name:<10} {value:.4f}")
    for name in ("served_minus_yardstick", "yardstick_minus_frozen"):
        found = report[name]
        interval = f"[{found['low']:+.4f}, {found['high']:+.4f}]"
        print(f"  {name.replace('_', ' ')}: {found['difference']:+.4f} {interval}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=28)
    yardstick(parser.parse_args().days)


if __name__ == "__main__":
    main()
