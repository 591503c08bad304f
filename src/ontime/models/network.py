"""The network: raw features to a probability, with encoder, embeddings and layers in one module.

- Output heads: one per teacher (`ontime.models.distillation`), on shared layers. The prediction is
  their mean, the uncertainty their standard deviation.
- Missing inputs: NaN and unknown categories have encodings of their own, which training uses by
  dropping whole feature groups (`ontime.models.trainer`).

Shapes: n rows, f numeric features, c categorical features, k ensemble members. numeric float32
[n, f] (NaN = missing), categories int64 [n, c] (0 = unknown), encoded [n, 3 f], logits [n, k].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ontime.errors import ModelError
from ontime.features.spec import FeatureSpec
from ontime.models.hyperparameters import HYPERPARAMETERS
from ontime.models.preprocessing import TRANSFORMS_PER_FEATURE, Encoder

PREDICT_BATCH = 4_096  # rows per batch: bounded memory, and activations stay in the CPU's cache


@dataclass(frozen=True)
class ModelConfig:
    """Size of the network; `make tune` may replace the defaults."""

    hidden: int = HYPERPARAMETERS["network"]["hidden"]  # units per layer
    layers: int = HYPERPARAMETERS["network"]["layers"]
    members: int = 5  # output heads, one per teacher
    embedding: int = HYPERPARAMETERS["network"]["embedding"]  # dimensions per categorical feature


class TabularNetwork(nn.Module):
    """Raw features (numeric, categories) -> probability [n]."""

    def __init__(self, config: ModelConfig, encoder: Encoder, category_sizes: list[int]) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.embeddings = nn.ModuleList(
            _embedding(size + 1, config.embedding) for size in category_sizes
        )
        n_encoded = TRANSFORMS_PER_FEATURE * len(encoder.median)
        n_embedded = config.embedding * len(category_sizes)
        sizes = [n_encoded + n_embedded] + [config.hidden] * config.layers
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], config.members)

    def forward(self, numeric: Tensor, categories: Tensor) -> Tensor:
        return self.member_probabilities(numeric, categories).mean(dim=1)

    def member_probabilities(self, numeric: Tensor, categories: Tensor) -> Tensor:
        """Probabilities of each ensemble member [n, k]."""
        return torch.sigmoid(self.logits(self.encoder(numeric), categories))

    def logits(self, encoded: Tensor, categories: Tensor) -> Tensor:
        """Logits [n, k] of encoded rows; training encodes its rows once."""
        embedded = [table(categories[:, i]) for i, table in enumerate(self.embeddings)]
        x = torch.cat([encoded, *(part.to(encoded.dtype) for part in embedded)], dim=1)
        for layer in self.hidden:
            x = layer(x).relu_()
        logits: Tensor = self.output(x)
        return logits


def _embedding(size: int, dimensions: int) -> nn.Embedding:
    """`nn.Embedding` with its usual initialisation, except on the "meta" device.

    There `normal_` imports the compiler of torch, for seconds, and sympy, which serving lacks.
    """
    weight = torch.empty(size, dimensions)
    if not weight.is_meta:
        nn.init.normal_(weight)
    return nn.Embedding.from_pretrained(weight, freeze=False)


def numeric_tensor(frame: pd.DataFrame, spec: FeatureSpec) -> Tensor:
    """The numeric inputs, float32 [n, f]. Raises ModelError for an absent column or infinity."""
    _check_columns(frame, spec.numeric)
    values = frame[list(spec.numeric)].to_numpy(dtype=np.float32, na_value=np.nan, copy=True)
    check_finite(values, spec)
    return torch.from_numpy(values)


def check_finite(values: np.ndarray, spec: FeatureSpec) -> None:
    """Raise ModelError if a numeric input [n, f] is infinite."""
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise ModelError(
            f"a numeric input must be finite, or NaN if missing; {spec.numeric[column]!r} is "
            f"{values[row, column]} in row {row}"
        )


def category_tensor(
    frame: pd.DataFrame, spec: FeatureSpec, vocabularies: Mapping[str, list[str]]
) -> Tensor:
    """The categorical inputs as vocabulary indices, int64 [n, c]. Raises ModelError."""
    _check_columns(frame, spec.categorical)
    codes = np.zeros((len(frame), len(spec.categorical)), dtype=np.int64)
    for i, name in enumerate(spec.categorical):
        codes[:, i] = pd.Index(vocabularies[name]).get_indexer(frame[name]) + 1
    return torch.from_numpy(codes)


def build_vocabularies(frame: pd.DataFrame, spec: FeatureSpec) -> dict[str, list[str]]:
    """The sorted values of each categorical feature; position i has index i + 1, 0 is unknown."""
    _check_columns(frame, spec.categorical)
    return {name: sorted(frame[name].dropna().astype(str).unique()) for name in spec.categorical}


def _check_columns(frame: pd.DataFrame, names: tuple[str, ...]) -> None:
    if absent := [name for name in names if name not in frame.columns]:
        raise ModelError(
            f"the frame must have every feature of the model (NaN where missing); {len(absent)} of "
            f"{len(names)} columns are absent: {absent[:10]}"
        )
