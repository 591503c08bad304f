"""Training and scoring against peers, on what was known at the start of the demo.

    python -m experiments.benchmark_models

Training: `ontime.models.trainer` against an ordinary loop (a `DataLoader` over a `TensorDataset`,
batches of 256, `loss.item()` in every step), and the time until the network, its teachers included,
is as good as LightGBM on the test rows. Retraining: a network with its teachers on everything known
when the last month of the backtest began. Scoring: rows per second of `predict` on one frame, and
of network and trees on ready arrays; milliseconds of one forward pass of few rows. Prints the
results as JSON.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from time import perf_counter
from timeit import repeat
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from experiments.backtest import months
from ontime.data.splits import Split, split_at, split_by_time
from ontime.evaluation.bootstrap import compare
from ontime.evaluation.metrics import log_losses
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.models.baselines import Boosting, fit_lightgbm
from ontime.models.distillation import distill, fit_teachers, soft_targets
from ontime.models.dropout import FeatureGroupDropout, unit_dropout
from ontime.models.network import PREDICT_BATCH
from ontime.models.serialization import TrainedModel
from ontime.models.trainer import (
    TrainConfig,
    build_model,
    pick_device,
    train_epochs,
)
from ontime.problem import BACKTEST_MONTHS, DEMO_START, FEATURE_SPEC
from ontime.settings import Settings

ORDINARY_BATCH = 256
SCORED_ROWS = 100_000
FORWARD_ROWS = (1, 100)
Results = dict[str, Any]


def ordinary_fit(
    rows: pd.DataFrame, targets: np.ndarray, config: TrainConfig
) -> tuple[TrainedModel, float]:
    """The same network, inputs, targets and schedule in an ordinary loop; rows per second.

    The learning rate follows the batch size by the square-root rule (Malladi et al., 2022).
    """
    torch.manual_seed(config.seed)
    model = build_model(rows, FEATURE_SPEC, config)
    network = model.network
    numeric, categories = model.tensors(rows)
    with torch.no_grad():  # once, as in the trainer
        encoded = torch.cat([network.encoder(part) for part in numeric.split(PREDICT_BATCH)])
    data = TensorDataset(encoded, categories, torch.from_numpy(targets).float())
    loader = DataLoader(data, batch_size=ORDINARY_BATCH, shuffle=True, drop_last=True)
    rate = config.learning_rate * math.sqrt(ORDINARY_BATCH / config.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        rate,
        total_steps=config.epochs * len(loader),
        pct_start=config.warm_up,
        cycle_momentum=False,
    )
    generator = torch.Generator().manual_seed(config.seed)
    drop_groups = FeatureGroupDropout(FEATURE_SPEC, config.group_dropout, generator)
    started = perf_counter()
    for _ in range(config.epochs):
        total = 0.0
        for x, c, y in loader:
            drop_groups(x, c)
            factors = unit_dropout(network, len(x), config.dropout, generator)
            loss = F.binary_cross_entropy_with_logits(network.logits(x, c, factors), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
    return model, config.epochs * len(loader) * ORDINARY_BATCH / (perf_counter() - started)


def training(split: Split, config: TrainConfig) -> tuple[Results, TrainedModel, Boosting]:
    """The results, and the two models that `scoring` compares."""
    rows, test = split.train_and_validation, split.test
    started = perf_counter()
    boosting = fit_lightgbm(split.train, split.validation, FEATURE_SPEC)
    lightgbm_seconds = perf_counter() - started
    lightgbm_loss = log_loss(test, boosting.predict(test))

    started = perf_counter()
    teachers = fit_teachers(rows, FEATURE_SPEC, config.network.members, config.seed)
    targets = soft_targets(teachers.fitted, rows, config.label_weight)
    teachers_seconds = perf_counter() - started
    model = build_model(rows, FEATURE_SPEC, config)
    model.network.to(pick_device("auto"))
    speeds, test_losses, seconds = [], [], []
    scoring_seconds = 0.0
    for record in train_epochs(model, rows, targets, config):
        seconds.append(perf_counter() - started - scoring_seconds)  # teachers and encoding included
        speeds.append(record.rows_per_second)
        test_losses.append(log_loss(test, model.predict(test)))
        scoring_seconds = perf_counter() - started - seconds[-1]
    model.network.eval().cpu()
    # From this epoch on it stays as good as LightGBM; an epoch that was so by luck does not count.
    worse = [epoch for epoch, loss in enumerate(test_losses, 1) if loss > lightgbm_loss]
    reached = max(worse, default=0) + 1
    ordinary, ordinary_speed = ordinary_fit(rows, targets, config)
    predictions = {
        "network": model.predict(test),
        "ordinary": ordinary.predict(test),
        "teachers": teachers.predict(test),
        "lightgbm": boosting.predict(test),
    }
    results: Results = {
        "rows": len(rows),
        "rows_per_second": len(speeds) / sum(1 / speed for speed in speeds),
        "ordinary_rows_per_second": ordinary_speed,
        "log_loss": {name: log_loss(test, p) for name, p in predictions.items()},
        "minus_ordinary": asdict(compare(test, predictions["network"], predictions["ordinary"])),
        "seconds": seconds[-1],
        "teachers_seconds": teachers_seconds,
        "lightgbm_seconds": lightgbm_seconds,
        "epochs_to_lightgbm_quality": reached if reached <= len(seconds) else None,
        "seconds_to_lightgbm_quality": seconds[reached - 1] if reached <= len(seconds) else None,
    }
    return results, model, boosting


def retraining(rows: pd.DataFrame, config: TrainConfig) -> Results:
    """Seconds of one retrain: teachers, their predictions, the network."""
    started = perf_counter()
    distill(rows, FEATURE_SPEC, config)
    return {"rows": len(rows), "seconds": perf_counter() - started}


def forward_ms(model: TrainedModel, rows: pd.DataFrame, n: int) -> float:
    """Milliseconds of a forward pass of n rows, the median of many, on one thread as in serving."""
    numeric, categories = model.tensors(rows[:n])
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        seconds = repeat(lambda: model.network(numeric, categories), number=1, repeat=500)
    torch.set_num_threads(n_threads)
    return 1000 * float(np.median(seconds))


def log_loss(rows: pd.DataFrame, probabilities: np.ndarray) -> float:
    return float(log_losses(rows["label"].to_numpy(dtype=bool), probabilities).mean())


def scoring(model: TrainedModel, boosting: Boosting, rows: pd.DataFrame) -> Results:
    """Rows per second, each in the fastest of five rounds of about a tenth of a second.

    Raises:
        AssertionError: if arrays and frame give different probabilities.
    """
    numeric, categories = model.tensors(rows)
    codes = categories.numpy().astype(np.float32) - 1  # LightGBM counts from 0; unknown is NaN
    tabular = numeric[:, : len(model.spec.tabular)].numpy()
    table = np.column_stack([tabular, np.where(codes < 0, np.nan, codes)])

    def network() -> np.ndarray:
        parts = zip(numeric.split(PREDICT_BATCH), categories.split(PREDICT_BATCH), strict=True)
        with torch.inference_mode():
            return torch.cat([model.network(*part) for part in parts]).numpy()

    def trees() -> np.ndarray:
        return np.asarray(boosting.booster.predict(table))

    def speed(predict: Callable[[], np.ndarray], expected: np.ndarray) -> float:
        np.testing.assert_allclose(predict(), expected, atol=1e-5)
        return len(rows) / min(repeat(predict, number=1, repeat=5))

    of_network, of_trees = model.predict(rows), boosting.predict(rows)
    return {
        "rows": len(rows),
        "rows_per_second": speed(lambda: model.predict(rows), of_network),
        "lightgbm_rows_per_second": speed(lambda: boosting.predict(rows), of_trees),
        "tensor_rows_per_second": speed(network, of_network),
        "lightgbm_array_rows_per_second": speed(trees, of_trees),
        "trees": boosting.booster.num_trees(),
        "forward_ms": {str(n): forward_ms(model, rows, n) for n in FORWARD_ROWS},
    }


def main() -> None:
    settings = Settings()
    examples = build_examples(open_feature_store(settings), load_requests(settings))
    split = split_by_time(examples[examples.event_timestamp < DEMO_START], DEMO_START)
    trained, model, boosting = training(split, TrainConfig())
    known = split_at(examples, *months(BACKTEST_MONTHS[1], BACKTEST_MONTHS[1])[0])
    retrained = retraining(known.train_and_validation, TrainConfig())
    rows = pd.concat([split.train, split.validation, split.test], ignore_index=True)[:SCORED_ROWS]
    results = {"training": trained, "retraining": retrained}
    print("\n" + json.dumps(results | {"scoring": scoring(model, boosting, rows)}))


if __name__ == "__main__":
    main()
