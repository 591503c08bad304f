"""Write the examples as shards for training beyond memory, month by month.

    python -m pipelines.write_shards [--as-of TIME]

Below ``shards`` of the data folder: ``train/<month>.parquet`` has the rows whose outcome was known
two weeks before ``as_of``, with soft targets; ``test.parquet`` the due rows of those two weeks. The
features of one month are in memory at a time, and the requests of all.

The teachers are LightGBM models, which train in memory: on `TEACHER_ROWS` rows at most, drawn at
random from every month. They then predict the targets of every row.
"""

import argparse
import shutil
from datetime import datetime
from pathlib import Path

import pandas as pd
from prefect import flow

from ontime.data.splits import TEST
from ontime.data.timestamps import parse_utc
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, check_views, load_requests
from ontime.models.distillation import fit_teachers, soft_targets
from ontime.models.shards import write_shard
from ontime.models.trainer import TrainConfig
from ontime.problem import DEMO_START, FEATURE_SPEC, INSTANCES
from ontime.settings import Settings

TEACHER_ROWS = 500_000


@flow(name="write_shards")
def write_shards(as_of: datetime = DEMO_START) -> Path:
    """Write the shards of what was known at ``as_of``; returns their folder.

    Raises:
        EmptyView: if a view that is not optional has no value in the teachers' rows.
    """
    settings, config = Settings(), TrainConfig()
    folder = settings.data_dir / "shards"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("examples", "train"):
        (folder / name).mkdir(parents=True)
    sample, test = _write_examples(settings, folder / "examples", as_of)
    check_views(sample)
    print(f"  teachers: {len(sample):,} {INSTANCES}")
    teachers = fit_teachers(sample, FEATURE_SPEC, config.network.members, config.seed)
    n_rows = 0
    for path in sorted((folder / "examples").iterdir()):
        rows = pd.read_parquet(path)
        members = teachers.predict_members(rows)
        targets = soft_targets(members, rows, config.label_weight)
        write_shard(folder / "train" / path.name, rows, targets, FEATURE_SPEC)
        n_rows += len(rows)
    shutil.rmtree(folder / "examples")
    test.to_parquet(folder / "test.parquet")
    print(f"  shards: {n_rows:,} {INSTANCES} to train on, {len(test):,} to test on, in {folder}")
    return folder


def _write_examples(
    settings: Settings, folder: Path, as_of: datetime
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the training rows of each month; returns the teachers' sample and the test rows."""
    store = open_feature_store(settings)
    requests = load_requests(settings)
    requests = requests[requests.eligible & (requests.event_timestamp < as_of)]
    share = min(1.0, TEACHER_ROWS / len(requests))
    moment = as_of - TEST
    samples, tests = [], []
    for month, part in requests.groupby(requests.event_timestamp.dt.strftime("%Y-%m")):
        rows = build_examples(store, part)
        known = rows[rows.outcome_known_at <= moment]
        if len(known):
            known.to_parquet(folder / f"{month}.parquet")
            samples.append(known.sample(frac=share, random_state=0))
        due = (rows.due_at <= as_of) & (rows.outcome_known_at <= as_of)
        tests.append(rows[due & (rows.event_timestamp >= moment)])
    if not samples:
        raise ValueError(f"no outcome was known at {moment}: choose a later moment than {as_of}")
    return pd.concat(samples, ignore_index=True), pd.concat(tests, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc, default=DEMO_START)
    write_shards(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
