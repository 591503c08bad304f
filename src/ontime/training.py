"""Training, written out: the table is encoded once, lies on the device, and is read by index.

    model, history = fit(train, targets, unseen, FEATURE_SPEC, TrainConfig(), device="auto")

Notable decisions
- The targets are probabilities: what the teachers answer (`ontime.distillation`). Labels are noisy,
  these are not: the network needs no dropout, no early stopping and no ensemble against the noise.
- No loader: a batch is an `index_select` on the device that computes; one code for CPU and CUDA.
- bf16 autocast where the hardware multiplies bf16 itself (asked, not assumed): elsewhere slower.
- No `torch.compile` (slower on CPU).
- Rows lose whole feature groups and categories at random: the network learns what "missing" means,
  so that a stale view or a new carrier costs what it must; and it leans less on any one view.
- One seed decides everything: two runs on the same CPU with as many threads give the same weights.
- Of several processes (torchrun, see `ontime.processes`) each computes its share of every batch.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ontime import evaluation
from ontime.encoder import Encoder
from ontime.model import (
    PREDICT_BATCH,
    DelayNetwork,
    FeatureSpec,
    ModelConfig,
    TrainedModel,
    build_vocabularies,
    numeric_tensor,
)
from ontime.processes import average, average_gradients, rank_and_size
from ontime.tuned import TUNED


class TrainingError(ValueError):
    """The rows or the device given cannot be trained on."""


@dataclass(frozen=True)
class TrainConfig:
    """The documented experiment; what is in `tuned.json` was found as `ModelConfig` says."""

    seed: int = 2013
    epochs: int = TUNED["training"]["epochs"]  # one annealing
    batch_size: int = TUNED["training"]["batch_size"]
    learning_rate: float = TUNED["training"]["learning_rate"]
    warm_up: float = 0.1  # share of the steps
    weight_decay: float = TUNED["training"]["weight_decay"]
    hide_share: float = TUNED["training"]["hide_share"]  # rows that lose a group, or a category
    network: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not 0 <= self.hide_share < 1:
            raise TrainingError(
                "epochs and batch_size are at least 1, hide_share is in [0, 1); they are "
                f"{self.epochs}, {self.batch_size}, {self.hide_share}"
            )


@dataclass(frozen=True)
class EpochRecord:
    """`unseen_*` are told of every epoch, and decide nothing."""

    epoch: int
    train_loss: float  # cross-entropy with the targets
    unseen_log_loss: float
    unseen_auc: float
    rows_per_second: float


@dataclass
class Rows:
    """A table on the device: encoded [n, e], categories int64 [n, c], targets float32 [n, k]."""

    encoded: Tensor
    categories: Tensor
    targets: Tensor

    def take(self, index: Tensor) -> "Rows":
        columns = (self.encoded, self.categories, self.targets)
        return Rows(*(column.index_select(0, index) for column in columns))

    def share(self, part: slice) -> "Rows":
        return Rows(self.encoded[part], self.categories[part], self.targets[part])


def fit(
    train: pd.DataFrame,
    targets: np.ndarray,
    unseen: pd.DataFrame,
    spec: FeatureSpec,
    config: TrainConfig,
    device: str = "auto",
) -> tuple[TrainedModel, list[EpochRecord]]:
    """A network that answers ``targets`` [n, k] for the rows of ``train``.

    Raises:
        TrainingError: if the device is not there, or rows and targets do not fit together.
    """
    where = pick_device(device)
    shape = (len(train), config.network.members)
    if targets.shape != shape or not ((targets >= 0) & (targets <= 1)).all():
        raise TrainingError(
            f"targets are probabilities, a row a flight and a column a member: {shape}; "
            f"these have shape {targets.shape} and reach from {targets.min()} to {targets.max()}"
        )
    check_labels(unseen)
    model = untrained(train, spec, config)
    model.network.to(where)
    labels = unseen[["is_late"]].to_numpy(dtype=bool)
    history = _learn(model, _rows(train, targets, model), _rows(unseen, labels, model), config)
    model.network.eval().cpu()
    return model, history


def pick_device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"device is auto, cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device cuda was asked for and PyTorch finds none: use auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def bf16_is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _learn(
    model: TrainedModel, train: Rows, unseen: Rows, config: TrainConfig
) -> list[EpochRecord]:
    history: list[EpochRecord] = []
    epoch = _epoch_function(model, train, config)
    if first := rank_and_size()[0] == 0:
        print("epoch  train loss  unseen log-loss  unseen AUC     rows/s")
    for number in range(1, config.epochs + 1):
        loss, rate = epoch()
        record = EpochRecord(number, loss, *_judge(model.network, unseen), rate)
        history.append(record)
        if first:
            _print(record)
    return history


def _epoch_function(
    model: TrainedModel, train: Rows, config: TrainConfig
) -> Callable[[], tuple[float, float]]:
    """What one epoch does: mean loss a row, and rows a second, of all processes together."""
    network, device = model.network, train.targets.device
    rank, processes = rank_and_size()
    mine = slice(rank, None, processes)  # of every batch
    amp = bf16_is_fast(device)
    if amp:
        train.encoded = train.encoded.bfloat16()
    random, n = torch.Generator(device).manual_seed(config.seed), len(train.targets)
    size = min(config.batch_size, n)
    if size % processes:
        raise TrainingError(f"{processes} processes share batches evenly; {size} rows do not")
    hide = Hider(model.spec, config.hide_share, random)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=0.0, weight_decay=config.weight_decay, fused=True
    )
    steps, done = n // size, 0
    planned = steps * config.epochs

    def step(index: Tensor) -> Tensor:
        nonlocal done
        done += 1
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(done / planned, config.warm_up)
        rows = hide(train.take(index)).share(mine)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            logits = network.logits(rows.encoded, rows.categories)
        loss = F.binary_cross_entropy_with_logits(logits.float(), rows.targets)
        loss.backward()
        if processes > 1:
            average_gradients(network)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def epoch() -> tuple[float, float]:
        started = time.perf_counter()
        order = torch.randperm(n, generator=random, device=device)[: steps * size]
        total = torch.zeros((), device=device)
        for index in order.split(size):
            total += step(index)  # stays on the device: reading it would wait for every step
        if processes > 1:
            average(total)
        return float(total) / steps, steps * size / (time.perf_counter() - started)

    return epoch


def _schedule(progress: float, warm_up: float) -> float:
    """Share of the full learning rate: up in a line, then down along a cosine."""
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


class Hider:
    """Rows lose groups of numbers (as missing) and categories (as never seen) at random."""

    def __init__(self, spec: FeatureSpec, share: float, random: torch.Generator) -> None:
        self.share, self.random = share, random
        groups = [[name in group for name in spec.numeric] for group in spec.groups.values()]
        member = torch.tensor(groups, dtype=torch.float32).reshape(-1, len(spec.numeric))
        self.columns = member.to(random.device)  # [groups, f]

    def __call__(self, rows: Rows) -> Rows:
        if self.share == 0:
            return rows
        n_groups, n_categories = len(self.columns), rows.categories.shape[1]
        shape = (len(rows.targets), n_groups + n_categories)
        lost = torch.rand(shape, generator=self.random, device=self.random.device) < self.share
        hidden = lost[:, :n_groups].float() @ self.columns > 0  # [n, f]
        views = rows.encoded.view(len(hidden), -1, hidden.shape[1])  # the last view is "missing"
        views[:, :-1].masked_fill_(hidden[:, None], 0.0)
        views[:, -1].masked_fill_(hidden, 1.0)
        rows.categories *= ~lost[:, n_groups:]
        return rows


def _judge(network: DelayNetwork, unseen: Rows) -> tuple[float, float]:
    """Log-loss and AUC."""
    network.eval()
    batches = zip(
        unseen.encoded.split(PREDICT_BATCH), unseen.categories.split(PREDICT_BATCH), strict=True
    )
    with torch.inference_mode():
        parts = [torch.sigmoid(network.logits(*batch)).mean(dim=1) for batch in batches]
    labels = unseen.targets[:, 0].cpu().numpy().astype(bool)
    probabilities = torch.cat(parts).double().cpu().numpy()
    loss = float(evaluation.log_losses(labels, probabilities).mean())
    return loss, evaluation.auc(labels, probabilities)


def _print(record: EpochRecord) -> None:
    print(
        f"{record.epoch:5d} {record.train_loss:11.4f} {record.unseen_log_loss:16.4f}"
        f" {record.unseen_auc:11.4f} {record.rows_per_second:10,.0f}",
        flush=True,
    )


def untrained(train: pd.DataFrame, spec: FeatureSpec, config: TrainConfig) -> TrainedModel:
    encoder = Encoder.fit(numeric_tensor(train, spec).numpy())
    vocabularies = build_vocabularies(train, spec)
    sizes = [len(vocabularies[name]) for name in spec.categorical]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = DelayNetwork(config.network, encoder, sizes)
    return TrainedModel(network, spec, vocabularies, {"config": asdict(config)})


def _rows(frame: pd.DataFrame, targets: np.ndarray, model: TrainedModel) -> Rows:
    encoder = model.network.encoder
    device = encoder.median.device
    numeric, categories = model.tensors(frame)
    with torch.no_grad():
        encoded = torch.cat([encoder(part.to(device)) for part in numeric.split(PREDICT_BATCH)])
    wanted = torch.from_numpy(targets.astype(np.float32))
    return Rows(encoded, categories.to(device), wanted.to(device))


def check_labels(rows: pd.DataFrame) -> None:
    """Refuse rows that cannot teach or judge.

    Raises:
        TrainingError: if an outcome is missing, or all flights ended alike.
    """
    if "is_late" not in rows.columns or rows["is_late"].isna().any():
        raise TrainingError("every row has is_late: leave out flights without outcome")
    if rows["is_late"].nunique() < 2:
        raise TrainingError(
            f"rows hold late flights and others; these {len(rows)} do not: use more days"
        )
