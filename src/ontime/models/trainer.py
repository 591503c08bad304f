"""Training of the network: a plain loop over epochs and batches.

    model, history = fit(train, targets, FEATURE_SPEC, TrainConfig(), device="auto")

- Targets: probabilities (soft targets, `ontime.models.distillation`). They have little label noise,
  so there is no early stopping.
- Batches: rows are encoded once and kept on the device; a batch is an `index_select`. One code for
  CPU and CUDA, no DataLoader.
- bf16 autocast: only where the hardware multiplies bf16 natively; elsewhere it is slower.
- No `torch.compile`: it is slower on CPU.
- Feature group dropout: the network is trained to be calibrated with groups of inputs missing.
- Reproducible: one seed; two runs on one CPU with as many threads give bit-identical weights.
- Distributed: under torchrun each process computes its share of every batch
  (`ontime.models.distributed`).
- More rows than memory holds: `ontime.models.shards` gives `run_epochs` batches from files.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ontime.features.spec import FeatureSpec
from ontime.models.distributed import average, average_gradients, rank_and_size
from ontime.models.dropout import FeatureGroupDropout, unit_dropout
from ontime.models.hyperparameters import HYPERPARAMETERS
from ontime.models.inputs import build_vocabularies, numeric_tensor
from ontime.models.network import PREDICT_BATCH, ModelConfig, Network
from ontime.models.preprocessing import TRANSFORMS_PER_FEATURE, Encoder, fit_encoder
from ontime.models.serialization import TrainedModel

Batch = tuple[Tensor, Tensor, Tensor]  # encoded [n, 3 f], categories [n, c], targets [n, k]
Step = tuple[Tensor, Tensor, Tensor, list[Tensor]]  # a batch, and the factors of `unit_dropout`


class TrainingError(ValueError):
    """The rows, the targets, the configuration or the device cannot be trained on."""


@dataclass(frozen=True)
class TrainConfig:
    """The documented experiment; `make tune` may replace the defaults."""

    seed: int = HYPERPARAMETERS["random"]["seed"]
    epochs: int = HYPERPARAMETERS["training"]["epochs"]
    batch_size: int = HYPERPARAMETERS["training"]["batch_size"]
    learning_rate: float = HYPERPARAMETERS["training"]["learning_rate"]  # at the end of the warm-up
    warm_up: float = 0.1  # share of the steps
    weight_decay: float = HYPERPARAMETERS["training"]["weight_decay"]
    label_weight: float = HYPERPARAMETERS["training"]["label_weight"]  # in the soft targets
    # Probability with which a row loses a group of numeric inputs, or a categorical input.
    group_dropout: float = HYPERPARAMETERS["training"]["group_dropout"]
    dropout: float = HYPERPARAMETERS["training"]["dropout"]  # of the units of each hidden layer
    network: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        shares = (self.group_dropout, self.dropout)
        if self.epochs < 1 or self.batch_size < 1 or not all(0 <= share < 1 for share in shares):
            raise TrainingError(
                "epochs and batch_size must be at least 1, group_dropout and dropout in [0, 1); "
                f"they are {self.epochs}, {self.batch_size}, {self.group_dropout}, {self.dropout}"
            )
        if not 0 <= self.label_weight <= 1:
            raise TrainingError(f"label_weight must be from 0 to 1, not {self.label_weight}")


@dataclass(frozen=True)
class EpochRecord:
    """`train_loss` is the mean cross-entropy with the targets, in nats."""

    epoch: int
    train_loss: float
    rows_per_second: float


def fit(
    train: pd.DataFrame,
    targets: np.ndarray,
    spec: FeatureSpec,
    config: TrainConfig,
    device: str = "auto",
) -> tuple[TrainedModel, list[EpochRecord]]:
    """A network fitted to ``targets`` [n, members] for the rows of ``train`` [n].

    Raises:
        TrainingError: if the device does not exist, or rows and targets do not fit together.
    """
    model = build_model(train, spec, config)
    model.network.to(pick_device(device))
    history = print_epochs(train_epochs(model, train, targets, config))
    model.network.eval().cpu()
    return model, history


def print_epochs(records: Iterable[EpochRecord]) -> list[EpochRecord]:
    """Run the epochs and print a line for each; under torchrun only rank 0 prints."""
    prints = rank_and_size()[0] == 0
    if prints:
        print("epoch  train loss     rows/s")
    history = []
    for record in records:
        history.append(record)
        if prints:
            loss, rate = record.train_loss, record.rows_per_second
            print(f"{record.epoch:5d} {loss:11.4f} {rate:10,.0f}", flush=True)
    return history


def train_epochs(
    model: TrainedModel, train: pd.DataFrame, targets: np.ndarray, config: TrainConfig
) -> Iterator[EpochRecord]:
    """Train the model in place on its device; yields after each epoch.

    The caller may predict with the model between epochs; the time that takes is not counted.
    """
    shape = (len(train), config.network.members)
    if targets.shape != shape or not ((targets >= 0) & (targets <= 1)).all():
        raise TrainingError(
            f"targets must be probabilities, one row per row and one column per member: {shape}; "
            f"they have shape {targets.shape} and range {targets.min()} to {targets.max()}"
        )
    network = model.network
    device = network.encoder.median.device
    rank, n_processes = rank_and_size()
    n, size = len(train), min(config.batch_size, len(train))
    check_divisible(size, n_processes)
    share = slice(rank, None, n_processes)  # of every batch
    encoded, categories = encode(model, train)
    soft_targets = torch.from_numpy(targets.astype(np.float32)).to(device)
    generator = torch.Generator(device).manual_seed(config.seed)
    drop_groups = FeatureGroupDropout(model.spec, config.group_dropout, generator)
    n_batches = n // size

    def batches() -> Iterator[Step]:
        order = torch.randperm(n, generator=generator, device=device)[: n_batches * size]
        for index in order.split(size):
            x, c, y = (t.index_select(0, index) for t in (encoded, categories, soft_targets))
            drop_groups(x, c)
            factors = unit_dropout(network, size, config.dropout, generator)
            yield x[share], c[share], y[share], [each[share] for each in factors]

    epochs = (batches() for _ in range(config.epochs))
    return run_epochs(model, config, epochs, n_batches * config.epochs, size)


def run_epochs(
    model: TrainedModel,
    config: TrainConfig,
    epochs: Iterable[Iterable[Step]],
    n_steps: int,
    batch_size: int,
) -> Iterator[EpochRecord]:
    """One step of the optimizer per batch; yields after each epoch.

    Args:
        epochs: this process's share of each batch, as encoded rows after dropout.
        n_steps: batches of all epochs.
        batch_size: rows of a batch in all processes together.
    """
    network = model.network
    device = network.encoder.median.device
    several = rank_and_size()[1] > 1
    use_bf16 = bf16_is_fast(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warm_up_and_cosine((step + 1) / n_steps, config.warm_up)
    )
    for epoch, batches in enumerate(epochs, 1):
        started, n_batches = time.perf_counter(), 0
        total_loss = torch.zeros((), device=device)
        for x, c, y, unit_factors in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
                logits = network.logits(x, c, unit_factors)
            loss = F.binary_cross_entropy_with_logits(logits.float(), y)
            loss.backward()
            if several:
                average_gradients(network)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            total_loss += loss.detach()  # no `item()`: it would wait for the device at every step
            n_batches += 1
        if several:
            average(total_loss)
        train_loss = float(total_loss) / n_batches  # waits for the device
        seconds = time.perf_counter() - started
        yield EpochRecord(epoch, train_loss, n_batches * batch_size / seconds)


def check_divisible(batch_size: int, n_processes: int) -> None:
    """Raise TrainingError unless every process can have as many rows of each batch."""
    if batch_size % n_processes:
        raise TrainingError(
            f"the batch size must be a multiple of the number of processes; {batch_size} rows "
            f"cannot be divided among {n_processes}"
        )


def build_model(train: pd.DataFrame, spec: FeatureSpec, config: TrainConfig) -> TrainedModel:
    """A network with random weights, and the encoder and vocabularies of the training rows."""
    encoder = fit_encoder(numeric_tensor(train, spec).numpy(), spec)
    return assemble(encoder, build_vocabularies(train, spec), spec, config)


def assemble(
    encoder: Encoder, vocabularies: dict[str, list[str]], spec: FeatureSpec, config: TrainConfig
) -> TrainedModel:
    """A network with random weights behind an encoder."""
    sizes = [len(vocabularies[name]) for name in spec.categorical]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Network(config.network, encoder, sizes, spec.shapes)
    return TrainedModel(network, spec, vocabularies, {"config": asdict(config)})


def pick_device(device: str) -> torch.device:
    """The device of a name; "auto" is CUDA if PyTorch finds it, else the CPU."""
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"device must be auto, cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device is cuda and PyTorch finds no GPU: use auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def bf16_is_fast(device: torch.device) -> bool:
    """True if the device has instructions that multiply bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_labels(rows: pd.DataFrame) -> None:
    """Raise `TrainingError` unless every row has a label and both classes occur."""
    if "label" not in rows.columns or rows["label"].isna().any():
        raise TrainingError("every row must have a label: leave out rows without an outcome")
    if rows["label"].nunique() < 2:
        raise TrainingError(
            f"training needs positive and negative labels; the {len(rows)} rows have one class: "
            "use a longer period"
        )


def encode(model: TrainedModel, rows: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Encoded rows [n, 3 f] and categories [n, c] on the model's device, bf16 where it is fast."""
    encoder = model.network.encoder
    device = encoder.median.device
    n, spec = len(rows), model.spec
    dtype = torch.bfloat16 if bf16_is_fast(device) else torch.float32
    n_encoded = TRANSFORMS_PER_FEATURE * len(spec.numeric)
    encoded = torch.empty((n, n_encoded), dtype=dtype, device=device)
    categories = torch.empty((n, len(spec.categorical)), dtype=torch.int64, device=device)
    with torch.no_grad():
        for start in range(0, n, PREDICT_BATCH):  # `encoded` is the only copy of all rows
            part = slice(start, start + PREDICT_BATCH)
            numeric, codes = model.tensors(rows[part])
            encoded[part].copy_(encoder(numeric.to(device)))
            categories[part].copy_(codes)
    return encoded, categories


def _warm_up_and_cosine(progress: float, warm_up: float) -> float:
    """Factor of the learning rate: linear warm-up, then cosine decay to 0."""
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))
