"""The network that answers "how likely is this flight to be late", and its two files on disk.

Raw features go in, a probability comes out: encoder, embeddings and layers are one module.

Notable decisions
- Numbers are encoded by `ontime.encoder`; training hides whole groups of them at random, so that
  the network has learnt what "missing" means.
- One answer for each of the teachers (`ontime.distillation`) from the same layers. The probability
  is their mean, their spread the uncertainty.
- weights.safetensors and model.json, nothing pickled. The checksum of the weights is in model.json,
  the order of the inputs in the weights' header: files edited or mixed up are refused.

Shapes: n rows, f numbers, c categories, k members. numeric float32 [n, f] (NaN = missing),
categories int64 [n, c] (0 = never seen), encoded [n, 3 f], logits [n, k].
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ontime.encoder import ENCODED_VIEWS, Encoder
from ontime.tuned import TUNED

PREDICT_BATCH = 4_096  # rows at a time: bounded memory, and what a layer writes stays in the cache
WEIGHTS_FILE, DESCRIPTION_FILE, FORMAT = "weights.safetensors", "model.json", 3
DESCRIBED = {"format", "weights_sha256", "network", "metadata", "numeric", "categorical"}
DESCRIBED |= {"groups", "vocabularies"}
ABSENT = "a model directory holds weights.safetensors and model.json; {path} does not exist"


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
    """Size of the network. `make tune` may write `tuned.json`; these numbers were found by hand."""

    hidden: int = TUNED["network"]["hidden"]  # units a layer
    layers: int = TUNED["network"]["layers"]
    members: int = 5  # answers, one for each teacher
    embedding: int = TUNED["network"]["embedding"]  # numbers a category is turned into


class DelayNetwork(nn.Module):
    """Encoder, embeddings and layers. `forward` is raw features to probability [n]."""

    def __init__(self, config: ModelConfig, encoder: Encoder, category_sizes: list[int]) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.embeddings = nn.ModuleList(
            nn.Embedding(size + 1, config.embedding) for size in category_sizes
        )
        width = ENCODED_VIEWS * len(encoder.median) + config.embedding * len(category_sizes)
        sizes = [width] + [config.hidden] * config.layers
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], config.members)

    def forward(self, numeric: Tensor, categories: Tensor) -> Tensor:
        return self.member_probabilities(numeric, categories).mean(dim=1)

    def member_probabilities(self, numeric: Tensor, categories: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(self.encoder(numeric), categories))

    def logits(self, encoded: Tensor, categories: Tensor) -> Tensor:
        """Encoded rows to logits [n, k]."""
        embedded = [table(categories[:, i]) for i, table in enumerate(self.embeddings)]
        x = torch.cat([encoded, *(part.to(encoded.dtype) for part in embedded)], dim=1)
        for layer in self.hidden:
            x = layer(x).relu_()
        logits: Tensor = self.output(x)
        return logits


@dataclass
class TrainedModel:
    """A network with the names of its inputs.

    `metadata` (writable as JSON): trained_through (ISO time), threshold, config, scores.
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
        device = self.network.encoder.median.device
        self.network.eval()
        batches = zip(*(part.split(PREDICT_BATCH) for part in self.tensors(frame)), strict=True)
        with torch.inference_mode():
            answers = [
                self.network.member_probabilities(numeric.to(device), categories.to(device)).cpu()
                for numeric, categories in batches
            ]
        return torch.cat(answers).double().numpy()

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
            **asdict(self.spec),
            "vocabularies": self.vocabularies,
        }
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Self:
        description = _read_description(directory / DESCRIPTION_FILE)
        groups = {name: tuple(columns) for name, columns in description["groups"].items()}
        numeric, categorical = description["numeric"], description["categorical"]
        spec = FeatureSpec(tuple(numeric), tuple(categorical), groups)
        vocabularies = description["vocabularies"]
        sizes = [len(vocabularies[name]) for name in categorical]
        config = ModelConfig(**description["network"])
        network = DelayNetwork(config, Encoder(len(numeric)), sizes)
        path = directory / WEIGHTS_FILE
        weights = _read_weights(path, description["weights_sha256"], _inputs(spec, vocabularies))
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
    codes = np.zeros((len(frame), len(spec.categorical)), dtype=np.int64)
    for i, name in enumerate(spec.categorical):
        codes[:, i] = pd.Index(vocabularies[name]).get_indexer(frame[name]) + 1
    return torch.from_numpy(codes)


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
    if not path.is_file():
        raise ModelError(ABSENT.format(path=path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(ABSENT.format(path=path))
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(description, dict) or DESCRIBED - set(description):
        raise ModelError(f"{path} is an object with {sorted(DESCRIBED)}; something is absent")
    if description["format"] != FORMAT:
        found = description["format"]
        raise ModelError(f"{path}: this code reads format {FORMAT}, not {found}: train again")
    return description


def _read_weights(path: Path, digest: str, inputs: str) -> dict[str, Tensor]:
    if (found := _sha256(path)) != digest:
        raise ModelError(
            f"{path}: sha256 is {found[:16]}…, model.json says {digest[:16]}…: the files were "
            "changed or do not belong together; save or download the model again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("inputs")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    if header != inputs:
        raise ModelError(
            f"{path}: the features and vocabularies in model.json are not those of the weights "
            f"(weights: {str(header)[:80]}…, model.json: {inputs[:80]}…)"
        )
    return weights


def _check_weights(path: Path, found: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> None:
    if difference := sorted(set(found) ^ set(needed)):
        raise ModelError(f"{path}: tensors do not match the network of model.json: {difference}")
    for name, tensor in found.items():
        shape, rule = list(tensor.shape), list(needed[name].shape)
        if shape != rule:
            raise ModelError(f"{path}: {name} has shape {shape}, model.json's network needs {rule}")
        if not tensor.isfinite().all():
            raise ModelError(f"{path}: weights are finite; {name} holds NaN or infinity")


def _load_pyfunc(path: str) -> TrainedModel:
    """What `mlflow.pyfunc` calls when a model was logged with `loader_module="ontime.model"`."""
    return TrainedModel.load(Path(path))
