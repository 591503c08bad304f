"""The network that answers "how likely is this flight to be late", and its two files on disk.

Raw features go in, a probability comes out, in one module: the encoder's statistics and the
embeddings live inside the network, so that a saved model needs nothing beside its two files.

Notable decisions
- Each number is given twice: rank-Gauss (129 quantile knots, interpolated, ties at their mean rank)
  says where it stands among the others, the clipped z-score keeps its size. This moved quality
  more than any architecture did.
- A missing number (NaN) is 0 in both views and 1 in its indicator: never silently the mean.
  Training hides whole groups at random, so that the network has learnt what the indicator means.
- `members` small networks are packed into one: weights [k, in, out], one batched product a layer.
  The probability is the mean of their probabilities, the spread between them the uncertainty.
- Saved as weights.safetensors and model.json, nothing pickled: loading runs no code of the artifact.
  The checksum of the weights is in model.json, and the order of the inputs is in the weights' header:
  files that do not belong together, or were edited, are refused.

Shapes: n rows, f numeric features, c categorical ones, k members, e encoded width (3 f).
numeric float32 [n, f] (NaN = missing), categories int64 [n, c] (0 = never seen), encoded [n, e],
logits [n, k].
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SHARES = (np.linspace(0, 1, 129), (np.arange(129) + 0.5) / 129)
KNOTS = 129  # 128 equal shares: finer ones did not help, coarser ones lose the tails
Z_CLIP = 4.0  # beyond four deviations only "very large" matters, which the rank view says too
PREDICT_BATCH = 16_384  # rows at a time: memory stays bounded for files of any size
WEIGHTS_FILE, DESCRIPTION_FILE, FORMAT = "weights.safetensors", "model.json", 1


class ModelError(ValueError):
    """A model, its files or its input break a rule; the message names rule, value and remedy."""


@dataclass(frozen=True)
class FeatureSpec:
    """The inputs in order. `groups` names numeric columns that are absent together."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = [*self.numeric, *self.categorical]
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise ModelError(f"a feature is listed once; listed twice: {twice}")
        for group, members in self.groups.items():
            if strangers := sorted(set(members) - set(self.numeric)):
                raise ModelError(f"group {group!r} may hold numeric features only, has {strangers}")


@dataclass(frozen=True)
class ModelConfig:
    """Size of the network."""

    hidden: int = 128  # units a layer and member
    layers: int = 2
    members: int = 4
    dropout: float = 0.1
    embedding: int = 8  # numbers a category is turned into


class Encoder(nn.Module):
    """Numbers [n, f] to [n, 3 f]: rank-Gauss view, z view, missing indicator."""

    knots: Tensor  # [f, 129] increasing values, the last one repeated after ties are merged
    targets: Tensor  # [f, 129] the normal deviate at each knot
    mean: Tensor  # [f]
    inverse_scale: Tensor  # [f] 1 / standard deviation; 0 for a feature that never varied

    def __init__(self, n_numeric: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.zeros(n_numeric, KNOTS))
        self.register_buffer("targets", torch.zeros(n_numeric, KNOTS))
        self.register_buffer("mean", torch.zeros(n_numeric))
        self.register_buffer("inverse_scale", torch.zeros(n_numeric))

    @classmethod
    def fit(cls, numeric: np.ndarray) -> Self:
        encoder = cls(numeric.shape[1])
        for j in range(numeric.shape[1]):
            column = numeric[:, j]
            encoder._fit_column(j, np.sort(column[np.isfinite(column)]))
        return encoder

    def _fit_column(self, j: int, ordered: np.ndarray) -> None:
        if ordered.size == 0 or ordered[0] == ordered[-1]:
            self.mean[j] = float(ordered[0]) if ordered.size else 0.0
            return
        knots, targets = _merge_ties(np.quantile(ordered, SHARES[0]))
        self.knots[j], self.targets[j] = torch.from_numpy(knots), torch.from_numpy(targets)
        self.mean[j] = float(ordered.mean(dtype=np.float64))
        self.inverse_scale[j] = 1.0 / float(ordered.std(dtype=np.float64))

    def forward(self, numeric: Tensor) -> Tensor:
        missing = numeric.isnan()
        known = numeric.masked_fill(missing, 0.0)
        rank = self._rank(known).masked_fill(missing, 0.0)
        z = ((known - self.mean) * self.inverse_scale).clamp(-Z_CLIP, Z_CLIP)
        return torch.cat([rank, z.masked_fill(missing, 0.0), missing.to(z.dtype)], dim=1)

    def _rank(self, known: Tensor) -> Tensor:
        values = known.T.contiguous()  # [f, n]: searchsorted goes row by row
        upper = torch.searchsorted(self.knots, values, right=True).clamp(1, KNOTS - 1)
        below, above = self.knots.gather(1, upper - 1), self.knots.gather(1, upper)
        share = ((values - below) / (above - below).clamp_min(1e-30)).clamp(0.0, 1.0)
        low, high = self.targets.gather(1, upper - 1), self.targets.gather(1, upper)
        return torch.lerp(low, high, share).T


def _merge_ties(quantiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots that are equal become one with their mean rank; the tail is padded with the last."""
    shares = SHARES[1]
    values, position = np.unique(quantiles.astype(np.float32), return_inverse=True)
    ranks = np.bincount(position, weights=shares) / np.bincount(position)
    deviates = torch.special.ndtri(torch.from_numpy(ranks)).numpy().astype(np.float32)
    padding = (0, KNOTS - len(values))
    return np.pad(values, padding, mode="edge"), np.pad(deviates, padding, mode="edge")


class PackedLinear(nn.Module):
    """k linear layers at once: [k, n, in] to [k, n, out]."""

    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)  # the range of nn.Linear, for each member by itself
        self.weight = nn.Parameter(torch.empty(members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class DelayNetwork(nn.Module):
    """Encoder, embeddings and packed ensemble. `forward` is raw features to probability [n]."""

    def __init__(self, config: ModelConfig, encoder: Encoder, category_sizes: list[int]) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.embeddings = nn.ModuleList(
            nn.Embedding(size + 1, config.embedding) for size in category_sizes
        )
        width = 3 * len(encoder.mean) + config.embedding * len(category_sizes)
        sizes = [width] + [config.hidden] * config.layers
        self.hidden = nn.ModuleList(
            PackedLinear(config.members, n_in, n_out)
            for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.output = PackedLinear(config.members, sizes[-1], 1)

    def forward(self, numeric: Tensor, categories: Tensor) -> Tensor:
        return self.member_probabilities(numeric, categories).mean(dim=1)

    def member_probabilities(self, numeric: Tensor, categories: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(self.encoder(numeric), categories))

    def logits(
        self, encoded: Tensor, categories: Tensor, masks: list[Tensor] | None = None
    ) -> Tensor:
        """Encoded rows to logits [n, k]. `masks` are training's dropout masks, one a layer."""
        embedded = [table(categories[:, i]) for i, table in enumerate(self.embeddings)]
        x = torch.cat([encoded, *(part.to(encoded.dtype) for part in embedded)], dim=1)
        x = x.expand(self.config.members, -1, -1)
        for i, layer in enumerate(self.hidden):
            x = torch.relu(layer(x))
            x = x if masks is None else x * masks[i]
        logits: Tensor = self.output(x)
        return logits.squeeze(2).T


@dataclass
class TrainedModel:
    """A network with the names of its inputs.

    `metadata` is what is known about its making: trained_through (ISO time), threshold, config,
    scores; it must be writable as JSON.
    """

    network: DelayNetwork
    spec: FeatureSpec
    vocabularies: dict[str, list[str]]
    metadata: dict[str, Any] = field(default_factory=dict)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Probability of late, float64 [n]; columns that the model does not know are ignored."""
        return self.predict_members(frame).mean(axis=1)

    def predict_members(self, frame: pd.DataFrame) -> np.ndarray:
        """Each member's probability, float64 [n, k]; their deviation is the uncertainty."""
        numeric, categories = self.tensors(frame)
        self.network.eval()
        device = self.network.encoder.mean.device
        with torch.inference_mode():
            parts = [
                self.network.member_probabilities(rows.to(device), kinds.to(device)).double().cpu()
                for rows, kinds in zip(
                    numeric.split(PREDICT_BATCH), categories.split(PREDICT_BATCH), strict=True
                )
            ]
        return torch.cat(parts).numpy()

    def tensors(self, frame: pd.DataFrame) -> tuple[Tensor, Tensor]:
        """The model's inputs: numeric float32 [n, f] and categories int64 [n, c], on the CPU."""
        return numeric_tensor(frame, self.spec), category_tensor(
            frame, self.spec, self.vocabularies
        )

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: t.cpu().contiguous() for name, t in self.network.state_dict().items()}
        inputs = {"inputs": _inputs(self.spec, self.vocabularies)}
        save_file(weights, directory / WEIGHTS_FILE, metadata=inputs)
        description = {
            "format": FORMAT,
            "weights_sha256": _sha256(directory / WEIGHTS_FILE),
            "network": asdict(self.network.config),
            "metadata": self.metadata,
            "numeric": self.spec.numeric,
            "categorical": self.spec.categorical,
            "groups": self.spec.groups,
            "vocabularies": self.vocabularies,
        }
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Self:
        description = _read_description(directory / DESCRIPTION_FILE)
        path = directory / WEIGHTS_FILE
        _check_checksum(path, description["weights_sha256"])
        spec = FeatureSpec(
            tuple(description["numeric"]),
            tuple(description["categorical"]),
            {name: tuple(columns) for name, columns in description["groups"].items()},
        )
        vocabularies = description["vocabularies"]
        weights = _read_weights(path, _inputs(spec, vocabularies))
        sizes = [len(vocabularies[name]) for name in spec.categorical]
        config = ModelConfig(**description["network"])
        network = DelayNetwork(config, Encoder(len(spec.numeric)), sizes)
        _check_weights(path, weights, network.state_dict())
        network.load_state_dict(weights)
        return cls(network.eval(), spec, vocabularies, description["metadata"])


def numeric_tensor(frame: pd.DataFrame, spec: FeatureSpec) -> Tensor:
    _check_columns(frame, spec.numeric)
    values = frame[list(spec.numeric)].to_numpy(dtype=np.float32, na_value=np.nan, copy=True)
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise ModelError(
            f"a number is finite, or NaN for missing; {spec.numeric[column]!r} is "
            f"{values[row, column]} in row {row}"
        )
    return torch.from_numpy(values)


def category_tensor(
    frame: pd.DataFrame, spec: FeatureSpec, vocabularies: Mapping[str, list[str]]
) -> Tensor:
    _check_columns(frame, spec.categorical)
    codes = [pd.Index(vocabularies[name]).get_indexer(frame[name]) + 1 for name in spec.categorical]
    shape = (len(frame), len(spec.categorical))
    return torch.from_numpy(np.stack(codes, axis=1) if codes else np.zeros(shape, np.int64))


def build_vocabularies(frame: pd.DataFrame, spec: FeatureSpec) -> dict[str, list[str]]:
    """The values seen in training, sorted; position i has index i + 1, index 0 is "never seen"."""
    _check_columns(frame, spec.categorical)
    return {name: sorted(frame[name].dropna().astype(str).unique()) for name in spec.categorical}


def _check_columns(frame: pd.DataFrame, names: tuple[str, ...]) -> None:
    if absent := [name for name in names if name not in frame.columns]:
        raise ModelError(
            f"the frame has every feature of the model (NaN where missing); {len(absent)} of "
            f"{len(names)} columns are absent: {absent[:10]}"
        )


def _inputs(spec: FeatureSpec, vocabularies: Mapping[str, list[str]]) -> str:
    return json.dumps([spec.numeric, [(name, vocabularies[name]) for name in spec.categorical]])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"a model directory holds {path.name}; {path} does not exist")
    try:
        description = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ModelError(f"{path} is not readable as JSON: {error}") from error
    needed = "format weights_sha256 network metadata numeric categorical groups vocabularies"
    if not isinstance(description, dict) or set(needed.split()) - set(description):
        raise ModelError(f"{path} holds {needed.replace(' ', ', ')}; something is absent")
    if description["format"] != FORMAT:
        raise ModelError(f"{path}: this code reads format {FORMAT}, not {description['format']}")
    return description


def _check_checksum(path: Path, expected: str) -> None:
    if not path.is_file():
        raise ModelError(f"a model directory holds {path.name}; {path} does not exist")
    if (found := _sha256(path)) != expected:
        raise ModelError(
            f"{path}: sha256 is {found[:16]}…, model.json says {expected[:16]}…: the files do not "
            "belong together or were changed; download or save the model again"
        )


def _read_weights(path: Path, inputs: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    if header.get("inputs") != inputs:
        raise ModelError(
            f"{path}: the features and vocabularies in model.json are not those the weights were "
            f"trained with (weights: {str(header.get('inputs'))[:80]}…, model.json: {inputs[:80]}…)"
        )
    return weights


def _check_weights(path: Path, found: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> None:
    if difference := sorted(set(found) ^ set(needed)):
        raise ModelError(f"{path}: tensors do not match the network of model.json: {difference}")
    for name, tensor in found.items():
        if tensor.shape != needed[name].shape:
            raise ModelError(
                f"{path}: {name} has shape {list(tensor.shape)}, the network of model.json needs "
                f"{list(needed[name].shape)}"
            )
        if not tensor.isfinite().all():
            raise ModelError(f"{path}: weights are finite; {name} holds NaN or infinity")


def _load_pyfunc(path: str) -> TrainedModel:
    """What `mlflow.pyfunc` calls when a model was logged with `loader_module="ontime.model"`."""
    return TrainedModel.load(Path(path))
