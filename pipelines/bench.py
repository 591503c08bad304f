"""Bench: ratios against a peer, both measured in the same run on the same machine.

    python -m pipelines.bench [--times 1 3 10]

training: `ontime.training.fit` against the loop everybody writes first, a `DataLoader` over a
`TensorDataset` with batches of 256 and `loss.item()` every step, for the same network; and the time
until it is as good as LightGBM against LightGBM's own. scoring: rows a second against LightGBM's.
data: see `pipelines.bench_data`. Each measurement is a process of its own, so that its peak of
memory is its own. The figures stand in ``var/reports/bench.json``.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ontime.clock import parse_moment
from ontime.settings import ROOT, Settings
from pipelines import bench_data

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ontime.dataset import Split
    from ontime.model import TrainedModel

AS_OF = parse_moment("2013-05-01")
ORDINARY_BATCH = 256
SCORED_ROWS = 100_000
Figures = dict[str, Any]


def examples_as_of() -> "Split":
    from ontime.dataset import build_examples, split_by_time
    from ontime.feature_store import open_feature_store
    from ontime.tables import FLIGHTS, read_tables

    settings = Settings()
    flights = read_tables(settings.tables_dir, (FLIGHTS,))["flights"]
    asked = flights[flights.scheduled_departure < AS_OF]
    return split_by_time(build_examples(open_feature_store(settings), asked), AS_OF)


def ordinary_fit(split: "Split", epochs: int) -> tuple["TrainedModel", float]:
    """The same network, trained as usual; and rows a second."""
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader, TensorDataset

    from ontime.features import FEATURE_SPEC
    from ontime.training import TrainConfig, untrained

    config = TrainConfig()
    model = untrained(split.fit, FEATURE_SPEC, config)
    network = model.network
    labels = torch.from_numpy(split.fit["is_late"].to_numpy(dtype="float32"))
    data = TensorDataset(*model.tensors(split.fit), labels)
    loader = DataLoader(data, batch_size=ORDINARY_BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=config.weight_decay)
    shape = (config.network.members, ORDINARY_BATCH, config.network.hidden)
    started = perf_counter()
    for _ in range(epochs):
        total = 0.0
        for numeric, categories, late in loader:
            ones = torch.ones(shape)[:, : len(late)]
            masks = [F.dropout(ones, config.network.dropout) for _ in range(config.network.layers)]
            logits = network.logits(network.encoder(numeric), categories, masks)
            targets = late[:, None].expand_as(logits)
            loss = F.binary_cross_entropy_with_logits(logits, targets) * config.network.members
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
    return model, epochs * len(labels) / (perf_counter() - started)


def bench_training() -> Figures:
    from ontime.baselines import fit_lightgbm
    from ontime.features import FEATURE_SPEC
    from ontime.training import TrainConfig, fit

    split = examples_as_of()
    started = perf_counter()
    boosting = fit_lightgbm(split.fit, split.valid, FEATURE_SPEC)
    lightgbm_seconds = perf_counter() - started
    target = log_loss(split.valid, boosting.predict(split.valid))
    started = perf_counter()
    model, history = fit(split.fit, split.valid, FEATURE_SPEC, TrainConfig())
    seconds = perf_counter() - started
    ordinary, ordinary_rate = ordinary_fit(split, TrainConfig().epochs)
    rate = len(history) / sum(1 / record.rows_per_second for record in history)
    good = [record.epoch for record in history if record.valid_log_loss <= target]
    reached = seconds * good[0] / len(history) if good else None  # with its share of the set-up
    return {
        "rows_per_second": rate,
        "ordinary_rows_per_second": ordinary_rate,
        "ratio": rate / ordinary_rate,
        "log_loss": log_loss(split.judge, model.predict(split.judge)),
        "ordinary_log_loss": log_loss(split.judge, ordinary.predict(split.judge)),
        "lightgbm_log_loss": log_loss(split.judge, boosting.predict(split.judge)),
        "seconds": seconds,
        "lightgbm_seconds": lightgbm_seconds,
        "seconds_to_lightgbm_quality": reached,
    }


def log_loss(flights: "pd.DataFrame", answers: "np.ndarray") -> float:
    from ontime.evaluation import log_losses

    return float(log_losses(flights["is_late"].to_numpy(dtype=bool), answers).mean())


def bench_scoring() -> Figures:
    import pandas as pd
    import torch

    from ontime.baselines import fit_lightgbm, lightgbm_table
    from ontime.features import FEATURE_SPEC
    from ontime.training import TrainConfig, fit

    split = examples_as_of()
    model, _ = fit(split.fit, split.valid, FEATURE_SPEC, TrainConfig())
    boosting = fit_lightgbm(split.fit, split.valid, FEATURE_SPEC)
    rows = pd.concat([split.fit, split.valid, split.judge], ignore_index=True)[:SCORED_ROWS]
    numeric, categories = model.tensors(rows)
    table = lightgbm_table(rows, FEATURE_SPEC, boosting.vocabularies).to_numpy(dtype="float32")

    def network_on_tensors() -> None:
        with torch.inference_mode():
            for part in zip(numeric.split(16_384), categories.split(16_384), strict=True):
                model.network(*part)

    def speed(work: Callable[[], object]) -> float:
        work()
        started = perf_counter()
        work()
        return len(rows) / (perf_counter() - started)

    figures: Figures = {
        "rows_per_second": speed(lambda: model.predict(rows)),
        "lightgbm_rows_per_second": speed(lambda: boosting.predict(rows)),
        "tensor_rows_per_second": speed(network_on_tensors),
        "lightgbm_array_rows_per_second": speed(
            lambda: boosting.booster.predict(table, num_threads=2)
        ),
        "trees": boosting.booster.num_trees(),
    }
    ours, theirs = figures["rows_per_second"], figures["lightgbm_rows_per_second"]
    tensors, array = figures["tensor_rows_per_second"], figures["lightgbm_array_rows_per_second"]
    return figures | {"ratio": ours / theirs, "ratio_on_arrays": tensors / array}


PARTS: dict[str, Callable[..., Figures]] = {
    "training": lambda _: bench_training(),
    "scoring": lambda _: bench_scoring(),
    "features": bench_data.features,
    "plain features": bench_data.plain_features,
    "join": lambda _: bench_data.join(),
    "plain join": lambda _: bench_data.plain_join(),
}


def measured(part: str, times: int, var: Path) -> Figures:
    """The figures of one part, run in a process of its own."""
    command = [sys.executable, "-m", "pipelines.bench", "--part", part, "--times", str(times)]
    environment = os.environ | {"ONTIME_VAR": str(var)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def bench(times: list[int]) -> Figures:
    settings = Settings()
    report: Figures = {"data": []}
    for part in ("training", "scoring"):
        report[part] = measured(part, 1, settings.var)
        print(part, json.dumps(report[part], indent=1))
    for n in times:
        with TemporaryDirectory(prefix="ontime-bench-") as scratch:
            bench_data.write_years(settings.tables_dir, Path(scratch) / "tables", n)
            row: Figures = {"times": n}
            for part in ("features", "plain features", "join", "plain join"):
                row[part] = measured(part, n, Path(scratch))
            row["same_cells"] = row["join"].pop("digest") == row["plain join"].pop("digest")
        report["data"].append(row)
        tell_row(row)
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    (settings.reports_dir / "bench.json").write_text(json.dumps(report, indent=1))
    return report


def tell_row(row: Figures) -> None:
    for ours, plain in (("features", "plain features"), ("join", "plain join")):
        a, b = row[ours], row[plain]
        print(
            f"{row['times']:>3} x the year: {ours:<9}{a['seconds']:>7.1f} s {a['peak_gb']:>5.1f} GB"
            f"   plain DuckDB {b['seconds']:>7.1f} s {b['peak_gb']:>5.1f} GB"
            f"   ratio {a['seconds'] / b['seconds']:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--part", choices=sorted(PARTS), help="one measurement, as JSON")
    arguments = parser.parse_args()
    if arguments.part:
        print("\n" + json.dumps(PARTS[arguments.part](arguments.times[0])))
    else:
        bench(arguments.times)


if __name__ == "__main__":
    main()
