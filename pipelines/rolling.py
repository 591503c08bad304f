"""Rolling origin: every model on every month from May, each fitted on all that was known before.

    python -m pipelines.rolling [--first 5] [--last 12]

The table that an honest comparison needs: the same rows, the same months that no model has seen,
the losers included, and the network's difference to each with its interval over days. With it the
network's calibration by group (``rolling.json``) and a reliability diagram (``calibration.png``).
"""

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from ontime.settings import Settings
from pipelines.train import ALL_BASELINES, compare_models, judge_baselines

if TYPE_CHECKING:
    import pandas as pd

    from ontime.dataset import Split


MODELS = ("network", "teachers", *ALL_BASELINES)
DRAWN = ("network", "teachers", "lightgbm", "logistic")
SLICES = ("carrier", "origin", "day_part", "month")
UNTOUCHED_FROM = "2013-09"  # no choice of an input, a network or a number has looked at these
KEPT = ("flight_id", "scheduled_departure", "carrier", "origin")  # of the judged flights


def months(first: int, last: int) -> Iterator[tuple[datetime, datetime]]:
    """The first moment (UTC) of each month of 2013 from ``first`` to ``last``, and of the next."""
    starts = [
        datetime(2013 + n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in range(first - 1, last + 1)
    ]
    yield from pairwise(starts)


@task(cache_policy=NO_CACHE, persist_result=False)
def judge_month(split: "Split") -> "pd.DataFrame":
    """The judged flights with each model's answer in a column of its name."""
    from ontime.distillation import distil
    from ontime.features import FEATURE_SPEC
    from ontime.training import TrainConfig

    model, teachers, _ = distil(split.known, split.judge, FEATURE_SPEC, TrainConfig())
    answers = {"network": model.predict(split.judge), "teachers": teachers.predict(split.judge)}
    answers |= judge_baselines(split, ALL_BASELINES)
    return split.judge[[*KEPT, "is_late"]].assign(**answers)


@flow(name="rolling")
def rolling(first: int = 5, last: int = 12) -> dict[str, Any]:
    """Judge every model on each month; the table is in the reports, and an artifact of the run."""
    import pandas as pd

    from ontime import figures
    from ontime.dataset import build_examples, split_at
    from ontime.evaluation import slice_table
    from ontime.feature_store import open_feature_store
    from ontime.tables import FLIGHTS, read_tables

    settings = Settings()
    flights = read_tables(settings.tables_dir, (FLIGHTS,))["flights"]
    examples = build_examples(open_feature_store(settings), flights)
    judged: dict[str, pd.DataFrame] = {}
    for start, end in months(first, last):
        print(f"{start:%Y-%m}")
        judged[f"{start:%Y-%m}"] = judge_month(split_at(examples, start, end))
    untouched = [rows for month, rows in judged.items() if month >= UNTOUCHED_FROM]
    judged["all"] = pd.concat(judged.values(), ignore_index=True)
    if untouched:
        judged["untouched"] = pd.concat(untouched, ignore_index=True)
    tables = []
    for month, rows in judged.items():
        models, differences = compare_models(rows, {name: rows[name].to_numpy() for name in MODELS})
        against = differences.rename(columns={"network against": "model"})
        tables.append(models.merge(against, on="model", how="left").assign(month=month))
    table = pd.concat(tables).astype(object).where(pd.notna, None)
    labels, network = judged["all"].is_late.to_numpy(dtype=bool), judged["all"].network.to_numpy()
    slices = slice_table(judged["all"], labels, network, SLICES)
    report = {"rows": table.to_dict("records"), "slices": slices.to_dict("records")}
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    drawn = {name: judged["all"][name].to_numpy() for name in DRAWN}
    figures.calibration(labels, drawn).savefig(settings.reports_dir / "calibration.png", dpi=120)
    (settings.reports_dir / "rolling.json").write_text(json.dumps(report, indent=1))
    create_table_artifact(key="rolling-origin", table=report["rows"])
    tell(report["rows"])
    return report


def tell(rows: list[dict[str, Any]]) -> None:
    print("\nmonth      model               auc  log-loss     ece   network minus it")
    for row in rows:
        known = row["difference"] is not None
        interval = (
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]" if known else ""
        )
        scores = f"{row['auc']:.4f} {row['log_loss']:>9.4f} {row['ece']:>7.4f}"
        print(f"{row['month']:<11}{row['model']:<16}{scores}   {interval}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=5, choices=range(2, 13))
    parser.add_argument("--last", type=int, default=12, choices=range(2, 13))
    arguments = parser.parse_args()
    rolling(arguments.first, arguments.last)


if __name__ == "__main__":
    main()
