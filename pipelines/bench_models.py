"""Training and scoring against peers, on what was known at the beginning of May.

training: `ontime.training.fit` against the loop everybody writes first, a `DataLoader` over a
`TensorDataset` with batches of 256 and `loss.item()` every step; and the time until it is as good
as LightGBM on unseen weeks, the teachers' included, against LightGBM's own. scoring: rows a second
of `predict` on one frame, and of network and trees alone on ready arrays.
"""

import math
from collections.abc import Callable
from datetime import datetime
from time import perf_counter
from timeit import repeat
from typing import TYPE_CHECKING, Any

from ontime.clock import parse_moment
from ontime.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ontime.baselines import Boosting
    from ontime.dataset import Split
    from ontime.model import TrainedModel
    from ontime.training import TrainConfig

AS_OF = parse_moment("2013-05-01")
ORDINARY_BATCH = 256
SCORED_ROWS = 100_000
Figures = dict[str, Any]


def examples_as_of(as_of: datetime) -> "Split":
    from ontime.dataset import build_examples, split_by_time
    from ontime.feature_store import open_feature_store
    from ontime.tables import FLIGHTS, read_tables

    settings = Settings()
    flights = read_tables(settings.tables_dir, (FLIGHTS,))["flights"]
    asked = flights[flights.scheduled_departure < as_of]
    return split_by_time(build_examples(open_feature_store(settings), asked), as_of)


def ordinary_fit(
    known: "pd.DataFrame", targets: "np.ndarray", config: "TrainConfig"
) -> tuple["TrainedModel", float]:
    """The same network on the same inputs and targets with the same annealing, trained as usual;
    and rows a second. The learning rate follows the batch by the square-root rule (Malladi et al.,
    2022)."""
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader, TensorDataset

    from ontime.features import FEATURE_SPEC
    from ontime.model import PREDICT_BATCH
    from ontime.training import Hider, Rows, untrained

    torch.manual_seed(config.seed)
    model = untrained(known, FEATURE_SPEC, config)
    network = model.network
    numeric, categories = model.tensors(known)
    with torch.no_grad():  # once, as ours does
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
    hide = Hider(FEATURE_SPEC, config.hide_share, torch.Generator().manual_seed(config.seed))
    started = perf_counter()
    for _ in range(config.epochs):
        total = 0.0
        for batch in loader:
            rows = hide(Rows(*batch))
            logits = network.logits(rows.encoded, rows.categories)
            loss = F.binary_cross_entropy_with_logits(logits, rows.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
    return model, config.epochs * len(loader) * ORDINARY_BATCH / (perf_counter() - started)


def training(split: "Split", config: "TrainConfig") -> tuple[Figures, "TrainedModel", "Boosting"]:
    """The figures, and the two models that `scoring` compares."""
    from dataclasses import asdict

    from ontime.baselines import fit_lightgbm
    from ontime.distillation import fit_teachers
    from ontime.evaluation import compare
    from ontime.features import FEATURE_SPEC
    from ontime.training import fit

    known = split.known
    started = perf_counter()
    boosting = fit_lightgbm(split.fit, split.valid, FEATURE_SPEC)
    lightgbm_seconds = perf_counter() - started
    target = log_loss(split.judge, boosting.predict(split.judge))
    started = perf_counter()
    teachers = fit_teachers(known, FEATURE_SPEC, config.network.members, config.seed)
    targets = teachers.predict_members(known)
    teachers_seconds = perf_counter() - started
    model, history = fit(known, targets, split.judge, FEATURE_SPEC, config)
    seconds = perf_counter() - started
    ordinary, ordinary_rate = ordinary_fit(known, targets, config)
    rate = len(history) / sum(1 / record.rows_per_second for record in history)
    # As good from this epoch on; one that is as good by luck, and then worse again, does not count.
    good = 1 + max((r.epoch for r in history if r.unseen_log_loss > target), default=0)
    # What comes before counts whole: teachers, encoding, and the epochs up to that one.
    after = [len(known) / r.rows_per_second for r in history if r.epoch > good]
    reached = good <= len(history)
    answers = {
        "network": model.predict(split.judge),
        "ordinary": ordinary.predict(split.judge),
        "teachers": teachers.predict(split.judge),
        "lightgbm": boosting.predict(split.judge),
    }
    figures: Figures = {
        "rows": len(known),
        "rows_per_second": rate,
        "ordinary_rows_per_second": ordinary_rate,
        "log_loss": {name: log_loss(split.judge, answer) for name, answer in answers.items()},
        "minus_ordinary": asdict(compare(split.judge, answers["network"], answers["ordinary"])),
        "seconds": seconds,
        "teachers_seconds": teachers_seconds,
        "lightgbm_seconds": lightgbm_seconds,
        "epochs_to_lightgbm_quality": good if reached else None,
        "seconds_to_lightgbm_quality": seconds - sum(after) if reached else None,
    }
    return figures, model, boosting


def log_loss(flights: "pd.DataFrame", answers: "np.ndarray") -> float:
    from ontime.evaluation import log_losses

    return float(log_losses(flights["is_late"].to_numpy(dtype=bool), answers).mean())


def scoring(model: "TrainedModel", boosting: "Boosting", rows: "pd.DataFrame") -> Figures:
    """Rows a second, each in the fastest of five rounds: a round takes a tenth of a second, and
    what else the machine does then is not what is compared.

    Raises:
        AssertionError: if the arrays do not give the answers of the frame.
    """
    import numpy as np
    import torch

    from ontime.model import PREDICT_BATCH

    numeric, categories = model.tensors(rows)
    codes = categories.numpy().astype(np.float32) - 1  # LightGBM counts from 0; unknown is NaN
    table = np.column_stack([numeric.numpy(), np.where(codes < 0, np.nan, codes)])

    def network() -> "np.ndarray":
        parts = zip(numeric.split(PREDICT_BATCH), categories.split(PREDICT_BATCH), strict=True)
        with torch.inference_mode():
            return torch.cat([model.network(*part) for part in parts]).numpy()

    def trees() -> "np.ndarray":
        return np.asarray(boosting.booster.predict(table))

    def speed(answers: Callable[[], "np.ndarray"], expected: "np.ndarray") -> float:
        np.testing.assert_allclose(answers(), expected, atol=1e-5)
        return len(rows) / min(repeat(answers, number=1, repeat=5))

    of_network, of_trees = model.predict(rows), boosting.predict(rows)
    return {
        "rows": len(rows),
        "rows_per_second": speed(lambda: model.predict(rows), of_network),
        "lightgbm_rows_per_second": speed(lambda: boosting.predict(rows), of_trees),
        "tensor_rows_per_second": speed(network, of_network),
        "lightgbm_array_rows_per_second": speed(trees, of_trees),
        "trees": boosting.booster.num_trees(),
    }


def models() -> Figures:
    """Both on the examples of the settings' tables."""
    import pandas as pd

    from ontime.training import TrainConfig

    split = examples_as_of(AS_OF)
    trained, model, boosting = training(split, TrainConfig())
    rows = pd.concat([split.fit, split.valid, split.judge], ignore_index=True)[:SCORED_ROWS]
    return {"training": trained, "scoring": scoring(model, boosting, rows)}
