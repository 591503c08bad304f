"""Training from shards against training in memory, on the examples repeated.

    python -m experiments.benchmark_shards PART FOLDER [--times N]

PART: ``write`` makes the folder; ``memory`` and ``shards`` train on it, each in its own process,
so that its peak memory is its own. The labels are the targets: teachers cost both sides the same.
Prints the results as JSON.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.benchmark_data import timed
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.models import shards, trainer
from ontime.models.trainer import EpochRecord, TrainConfig, pick_device
from ontime.problem import DEMO_START, FEATURE_SPEC
from ontime.settings import Settings

CONFIG = TrainConfig(epochs=3)
Results = dict[str, Any]


def write(folder: Path, times: int) -> Results:
    """The labelled examples at the start of the demo, each repetition as a file."""
    settings = Settings()
    requests = load_requests(settings)
    requests = requests[requests.event_timestamp < DEMO_START]
    rows = build_examples(open_feature_store(settings), requests)
    rows = rows[rows.outcome_known_at <= DEMO_START]
    targets = np.repeat(rows.label.to_numpy(np.float32)[:, None], CONFIG.network.members, axis=1)
    folder.mkdir(parents=True)
    shards.write_shard(folder / "0.parquet", rows, targets, FEATURE_SPEC)
    for number in range(1, times):
        shutil.copy(folder / "0.parquet", folder / f"{number}.parquet")
    return {"rows": len(rows) * times}


def in_memory(folder: Path) -> Iterator[EpochRecord]:
    rows = pd.read_parquet(folder)
    targets = rows[shards.target_columns(CONFIG.network.members)].to_numpy()
    model = trainer.build_model(rows, FEATURE_SPEC, CONFIG)
    model.network.to(pick_device("auto"))
    return trainer.train_epochs(model, rows, targets, CONFIG)


def from_shards(folder: Path) -> Iterator[EpochRecord]:
    model = shards.build_model(folder, FEATURE_SPEC, CONFIG)
    model.network.to(pick_device("auto"))
    return shards.train_epochs(model, folder, CONFIG)


TRAININGS = {"memory": in_memory, "shards": from_shards}


def train(part: str, folder: Path) -> Results:
    """Seconds and peak memory with reading and statistics, the last loss, the epochs' speed."""
    history: list[EpochRecord] = []

    def run() -> int:
        history.extend(TRAININGS[part](folder))
        return len(history)

    results = timed(run)
    seconds_per_row = sum(1 / record.rows_per_second for record in history)
    return results | {
        "rows_per_second": len(history) / seconds_per_row,
        "train_loss": history[-1].train_loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("write", *TRAININGS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=1)
    given = parser.parse_args()
    if given.part == "write":
        results = write(given.folder, given.times)
    else:
        results = train(given.part, given.folder)
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
