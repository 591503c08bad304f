"""Train the network from shards, which `pipelines.write_shards` wrote, in bounded memory.

    python -m pipelines.train_shards [--device auto|cpu|cuda]
    torchrun --nproc-per-node=2 -m pipelines.train_shards

Prints the log-loss on the test rows and saves the model as ``shards/model`` of the data folder. It
is not registered: a version in the registry is evaluated with its training rows in memory.
"""

import argparse

import pandas as pd

from ontime.evaluation.metrics import expected_cost_threshold, scores
from ontime.models.distributed import process_group, rank_and_size
from ontime.models.shards import fit_shards
from ontime.models.trainer import TrainConfig, pick_device
from ontime.problem import COST_FALSE_ALARM, COST_MISS, FEATURE_SPEC, INSTANCES
from ontime.settings import Settings


def train_shards(device: str) -> None:
    """Fit, and on rank 0 evaluate and save."""
    folder = Settings().data_dir / "shards"
    model, _ = fit_shards(folder / "train", FEATURE_SPEC, TrainConfig(), device)
    if rank_and_size()[0] > 0:
        return
    test = pd.read_parquet(folder / "test.parquet")
    found = scores(test.label.to_numpy(dtype=bool), model.predict(test))
    model.metadata |= {
        "trained_through": test.event_timestamp.min().isoformat(),
        "threshold": expected_cost_threshold(COST_FALSE_ALARM, COST_MISS),
        "scores": found,
    }
    model.save(folder / "model")
    print(f"log-loss {found['log_loss']:.4f} on {len(test):,} {INSTANCES}: {folder / 'model'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    device = parser.parse_args().device
    with process_group(pick_device(device).type == "cuda"):
        train_shards(device)


if __name__ == "__main__":
    main()
