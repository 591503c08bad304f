"""The network's inputs as tensors, from frames of rows.

Shapes: n rows, f numeric features, c categorical features.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ontime.errors import ModelError
from ontime.features.spec import FeatureSpec


def numeric_tensor(frame: pd.DataFrame, spec: FeatureSpec) -> Tensor:
    """The numeric inputs, float32 [n, f]. Raises ModelError for an absent column or infinity."""
    _check_columns(frame, spec.numeric)
    values = frame[list(spec.numeric)].to_numpy(dtype=np.float32, na_value=np.nan, copy=True)
    check_finite(values, spec)
    return torch.from_numpy(values)


def tabular_tensor(frame: pd.DataFrame, spec: FeatureSpec) -> Tensor:
    """The numeric inputs that are in no sequence, float32 [n, f]. Raises like `numeric_tensor`."""
    return numeric_tensor(frame, FeatureSpec(spec.tabular, ()))


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
