"""Training, written out: the table is encoded once, lies on the device, and is read by index.

    model, history = fit(train, valid, FEATURE_SPEC, TrainConfig())

Notable decisions
- No loader: a batch is an `index_select` on the device that computes, the same code on CPU and CUDA.
- bf16 autocast where the hardware multiplies bf16 itself (asked, not assumed): elsewhere slower.
- No `torch.compile` (slower on CPU here). Dropout masks are cut from a pool made once, because the
  CPU random generator would cost more than the products they are applied to.
- A small share of the rows of each batch loses whole feature groups and categories at random: the
  network learns what "missing" means, so that a stale view or a new carrier costs what it must.
- Early stopping on the log-loss of `valid`, which is later in time than `train`; best weights kept.
- One seed decides everything: two runs on the same CPU with the same number of threads give the
  same weights bit for bit.
- Imports only torch, numpy, pandas and the two modules of `ontime` that need no more.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ontime import evaluation
from ontime.model import (
    DelayNetwork,
    Encoder,
    FeatureSpec,
    ModelConfig,
    TrainedModel,
    build_vocabularies,
    category_tensor,
    numeric_tensor,
)


class TrainingError(ValueError):
    """The rows or the device given cannot be trained on."""


@dataclass(frozen=True)
class TrainConfig:
    """The documented experiment."""

    seed: int = 2013
    epochs: int = 12
    patience: int = 3
    batch_size: int = 4096
    learning_rate: float = 2e-3
    warm_up: float = 0.1
    weight_decay: float = 0.01
    hide_rows: float = 0.1
    hide_groups: float = 0.3
    own_weights: bool = False
    network: ModelConfig = field(default_factory=ModelConfig)


@dataclass(frozen=True)
class EpochRecord:
    epoch: int
    train_loss: float
    valid_log_loss: float
    valid_auc: float
    rows_per_second: float


@dataclass
class Rows:
    """A table on the device: encoded [n, e], categories [n, c], labels [n]."""

    encoded: Tensor
    categories: Tensor
    labels: Tensor

    def take(self, index: Tensor) -> "Rows":
        picked = (t.index_select(0, index) for t in (self.encoded, self.categories, self.labels))
        return Rows(*picked)


def fit(
    train: pd.DataFrame,
    valid: pd.DataFrame,
    spec: FeatureSpec,
    config: TrainConfig,
    device: str = "auto",
) -> tuple[TrainedModel, list[EpochRecord]]:
    _check_labels(train, "train")
    _check_labels(valid, "valid")
    where = pick_device(device)
    vocabularies = build_vocabularies(train, spec)
    network = _initial_network(train, spec, vocabularies, config).to(where)
    model = TrainedModel(network, spec, vocabularies, {"config": asdict(config)})
    history = _train(model, _rows(train, model), _rows(valid, model), config)
    network.eval().cpu()
    return model, history


def pick_device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"device is auto, cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device cuda was asked for and PyTorch sees none: use auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def bf16_is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _train(model: TrainedModel, train: Rows, valid: Rows, config: TrainConfig) -> list[EpochRecord]:
    network, device = model.network, train.labels.device
    amp = bf16_is_fast(device)
    if amp:
        train.encoded = train.encoded.bfloat16()
    generator = torch.Generator(device).manual_seed(config.seed)
    hide = Hider(model.spec, config, generator)
    n, batch = len(train.labels), min(config.batch_size, len(train.labels))
    dropout = DropoutPool(config.network, batch, train.encoded.dtype, generator)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    steps = n // batch
    weights = None
    if config.own_weights:
        weights = torch.empty(n, config.network.members, device=device).exponential_(
            generator=generator
        )
    step, best, history = 0, None, []
    best_loss = math.inf
    print("epoch  train loss  valid log-loss  valid AUC     rows/s")
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        network.train()
        total = torch.zeros((), device=device)
        order = torch.randperm(n, generator=generator, device=device)
        for index in order[: steps * batch].split(batch):
            step += 1
            rate = config.learning_rate * _schedule(step / (steps * config.epochs), config.warm_up)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = hide(train.take(index))
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                logits = network.logits(rows.encoded, rows.categories, dropout.masks())
            targets = rows.labels[:, None].expand_as(logits)
            w = None if weights is None else weights.index_select(0, index)
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets, weight=w)
            (loss * config.network.members).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
        train_loss = float(total) / steps
        rate = steps * batch / (time.perf_counter() - started)
        record = _judge(network, valid, epoch, train_loss, rate)
        history.append(record)
        print(
            f"{record.epoch:5d} {record.train_loss:11.4f} {record.valid_log_loss:15.4f}"
            f" {record.valid_auc:10.4f} {record.rows_per_second:10,.0f}"
        )
        if record.valid_log_loss < best_loss:
            best_loss = record.valid_log_loss
            best = {name: t.detach().clone() for name, t in network.state_dict().items()}
            since = 0
        else:
            since += 1
            if since >= config.patience:
                break
    assert best is not None
    network.load_state_dict(best)
    return history


def _schedule(progress: float, warm_up: float) -> float:
    """Share of the full learning rate: linear up, then down along a cosine."""
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


class Hider:
    def __init__(self, spec: FeatureSpec, config: TrainConfig, generator: torch.Generator) -> None:
        self.config, self.generator = config, generator
        device = generator.device
        groups = [set(columns) for columns in spec.groups.values()]
        member = [[name in group for name in spec.numeric] for group in groups]
        self.columns = (
            torch.tensor(member, dtype=torch.float32, device=device)
            .reshape(len(groups), -1)
            .repeat(1, 3)
        )
        f = len(spec.numeric)
        self.blank = torch.cat([torch.zeros(2 * f), torch.ones(f)]).to(device)

    def __call__(self, rows: Rows) -> Rows:
        m = int(self.config.hide_rows * len(rows.labels))
        if m == 0:
            return rows
        n_groups, c = len(self.columns), rows.categories.shape[1]
        lost = (
            torch.rand(m, n_groups + c, generator=self.generator, device=self.generator.device)
            < self.config.hide_groups
        )
        hidden = (lost[:, :n_groups].float() @ self.columns) > 0
        rows.encoded[:m] = torch.where(hidden, self.blank.to(rows.encoded.dtype), rows.encoded[:m])
        rows.categories[:m] *= ~lost[:, n_groups:]
        return rows


class DropoutPool:
    def __init__(
        self, config: ModelConfig, batch: int, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        self.shape = (config.members, batch, config.hidden)
        self.layers, self.generator = config.layers, generator
        self.pool = None
        if config.dropout:
            size = 2 * math.prod(self.shape)
            keep = torch.rand(size, generator=generator, device=generator.device) >= config.dropout
            self.pool = keep.to(dtype) / (1 - config.dropout)

    def masks(self) -> list[Tensor] | None:
        if self.pool is None:
            return None
        size = math.prod(self.shape)
        out = []
        for _ in range(self.layers):
            offset = (
                int(
                    torch.randint(
                        size // 64, (), generator=self.generator, device=self.generator.device
                    )
                )
                * 64
            )
            out.append(self.pool[offset : offset + size].view(self.shape))
        return out


def _judge(
    network: DelayNetwork, valid: Rows, epoch: int, train_loss: float, rate: float
) -> EpochRecord:
    network.eval()
    with torch.inference_mode():
        p = (
            torch.cat(
                [
                    torch.sigmoid(network.logits(e, c)).mean(1)
                    for e, c in zip(valid.encoded.split(16384), valid.categories.split(16384))
                ]
            )
            .double()
            .cpu()
            .numpy()
        )
    labels = valid.labels.cpu().numpy().astype(bool)
    loss = float(evaluation.log_losses(labels, p).mean())
    return EpochRecord(epoch, train_loss, loss, evaluation.auc(labels, p), rate)


def _initial_network(train, spec, vocabularies, config) -> DelayNetwork:
    encoder = Encoder.fit(numeric_tensor(train, spec).numpy())
    sizes = [len(vocabularies[name]) for name in spec.categorical]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return DelayNetwork(config.network, encoder, sizes)


def _rows(frame: pd.DataFrame, model: TrainedModel) -> Rows:
    device = model.network.encoder.mean.device
    numeric, categories = model.tensors(frame)
    with torch.inference_mode(False), torch.no_grad():
        encoded = torch.cat(
            [model.network.encoder(part.to(device)) for part in numeric.split(16384)]
        )
    labels = torch.from_numpy(frame["is_late"].to_numpy(dtype=np.float32)).to(device)
    return Rows(encoded, categories.to(device), labels)


def _check_labels(frame: pd.DataFrame, name: str) -> None:
    if "is_late" not in frame.columns or frame["is_late"].isna().any():
        raise TrainingError(f"every row of {name} has is_late")
    if frame["is_late"].nunique() < 2:
        raise TrainingError(
            f"{name} holds late flights and others; it has {len(frame)} rows of one kind"
        )
