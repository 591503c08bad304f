"""Explanation of one prediction: the Shapley value of each group of inputs.

The players of the game (Shapley, 1953) are the model's feature groups and its categorical features.
A coalition is the set of groups that are known; all others are missing. The network is trained with
groups missing (`FeatureGroupDropout`), so the value of a coalition is the network's own prediction
from it, and the reference is its prediction with every input missing.

Values come from random orders in which the groups become known, each used forwards and backwards
(Castro, Gómez, Tejada, 2009; Mitchell et al., 2022): exact values of g groups need 2^g predictions,
a second for 17. The orders are the same for every row. Whatever they are, reference and
contributions add up to the prediction.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ontime.features.spec import FeatureSpec
from ontime.models.network import PREDICT_BATCH
from ontime.models.preprocessing import TRANSFORMS_PER_FEATURE
from ontime.models.serialization import TrainedModel

N_ORDERS = 128  # and as many backwards: a standard error of about .001 per contribution


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
        ExplanationError: if the frame has not one row.
    """
    names = input_groups(model.spec)
    if len(row) != 1:
        raise ExplanationError(f"one row can be explained at a time; there are {len(row)}")
    g = len(names)
    forward = np.random.default_rng(0).permuted(np.tile(np.arange(g), (N_ORDERS, 1)), axis=1)
    place = np.argsort(np.concatenate([forward, forward[:, ::-1]]), axis=1)  # of each group [m, g]
    known = place[:, None] < np.arange(g + 1)[:, None]  # [m, g + 1, g]: none, then one more each
    coalitions, index = np.unique(known.reshape(-1, g), axis=0, return_inverse=True)
    rows = torch.zeros(len(coalitions), dtype=torch.int64)
    values = masked_probabilities(model, row, rows, torch.from_numpy(coalitions))
    gains = np.diff(values[index].reshape(-1, g + 1), axis=1)  # of the group at each place [m, g]
    parts = np.take_along_axis(gains, place, axis=1).mean(axis=0)
    return float(values[0]), dict(zip(names, parts.tolist(), strict=True))


def masked_probabilities(
    model: TrainedModel, rows: pd.DataFrame, index: Tensor, known: Tensor
) -> np.ndarray:
    """Probabilities, float64 [m], of ``rows`` at ``index`` [m] with the groups ``known`` [m, g]."""
    numeric, categories = model.tensors(rows)
    spec, network, n_groups = model.spec, model.network, len(model.spec.groups)
    member = torch.tensor([[c in group for c in spec.numeric] for group in spec.groups.values()])
    of_group = member.float().repeat(1, TRANSFORMS_PER_FEATURE)  # [g, 3 f]
    probabilities = []
    with torch.inference_mode():
        encoded = network.encoder(numeric)
        unknown = network.encoder(torch.full_like(numeric[:1], torch.nan))
        for part, k in zip(index.split(PREDICT_BATCH), known.split(PREDICT_BATCH), strict=True):
            missing = (~k[:, :n_groups]).float() @ of_group > 0
            logits = network.logits(
                torch.where(missing, unknown, encoded[part]), categories[part] * k[:, n_groups:]
            )
            probabilities.append(torch.sigmoid(logits))
    return torch.cat(probabilities).double().mean(dim=1).numpy()
