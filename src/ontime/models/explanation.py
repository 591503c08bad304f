"""Explanation of one prediction: the Shapley value of each group of inputs.

The players of the game (Shapley, 1953) are the model's feature groups and its categorical features.
A coalition is the set of groups that are known; all others are missing. The network is trained with
groups missing (`FeatureGroupDropout`), so the value of a coalition is the network's own prediction
from it, and the reference is its prediction with every input missing.

The values are exact: 15 groups are 32,768 coalitions, evaluated in a few batches.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ontime.features.spec import FeatureSpec
from ontime.models.network import PREDICT_BATCH
from ontime.models.serialization import TrainedModel

MAX_GROUPS = 16  # 65,536 coalitions


class ExplanationError(ValueError):
    """The model or the rows cannot be explained; the message states rule and value."""


def input_groups(spec: FeatureSpec) -> list[str]:
    """The names of the groups of numeric inputs, then of the categorical inputs.

    Raises:
        ExplanationError: if a numeric input is in no group, or in two.
    """
    grouped = [name for members in spec.groups.values() for name in members]
    if wrong := [name for name in spec.numeric if grouped.count(name) != 1]:
        raise ExplanationError(f"a numeric input must be in one group; these are not: {wrong[:5]}")
    return [*spec.groups, *spec.categorical]


def contributions(model: TrainedModel, row: pd.DataFrame) -> tuple[float, dict[str, float]]:
    """The reference probability, and each group's contribution to the probability of one row.

    Reference plus contributions is the model's prediction.

    Raises:
        ExplanationError: if the frame has not one row, or the model has too many groups.
    """
    names = input_groups(model.spec)
    if len(row) != 1 or len(names) > MAX_GROUPS:
        raise ExplanationError(
            f"one row with up to {MAX_GROUPS} groups can be explained; there are {len(row)} rows "
            f"and {len(names)} groups"
        )
    coalitions = torch.arange(2 ** len(names))
    known = (coalitions[:, None] >> torch.arange(len(names))) & 1 == 1  # [2^g, g]
    index = torch.zeros(len(known), dtype=torch.int64)
    values = masked_probabilities(model, row, index, known)
    size = known.sum(dim=1).numpy()
    weight = np.array([1 / (len(names) * math.comb(len(names) - 1, s)) for s in range(len(names))])
    parts = {}
    for i, name in enumerate(names):
        member = known[:, i].numpy()
        gain = values[member] - values[~member]  # the same coalitions, with and without
        parts[name] = float(weight[size[~member]] @ gain)
    return float(values[0]), parts


def masked_probabilities(
    model: TrainedModel, rows: pd.DataFrame, index: Tensor, known: Tensor
) -> np.ndarray:
    """Probabilities, float64 [m], of ``rows`` at ``index`` [m] with the groups ``known`` [m, g]."""
    numeric, categories = model.tensors(rows)
    spec, n_groups = model.spec, len(model.spec.groups)
    member = torch.tensor([[c in group for c in spec.numeric] for group in spec.groups.values()])
    probabilities = []
    with torch.inference_mode():
        for part, k in zip(index.split(PREDICT_BATCH), known.split(PREDICT_BATCH), strict=True):
            missing = (~k[:, :n_groups]).float() @ member.float() > 0
            probabilities.append(
                model.network.member_probabilities(
                    numeric[part].masked_fill(missing, torch.nan),
                    categories[part] * k[:, n_groups:],
                )
            )
    return torch.cat(probabilities).double().mean(dim=1).numpy()
