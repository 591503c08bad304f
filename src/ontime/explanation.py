"""What each group of inputs contributes to an answer, and what it is worth over many flights.

Both are Shapley values (Shapley, 1953) of a game whose players are the model's groups of inputs and
its categories: a coalition is a set of groups that are known, all others are missing. The network
has learnt what "missing" means, so the value of a coalition is its own answer from those inputs
alone, and the reference is its answer when it knows nothing.

Notable decisions
- Exact for one flight: 14 groups are 16,384 coalitions, one batch. Nothing is sampled.
- Over many flights the game is the fall in log-loss (SAGE: Covert, Lundberg, Lee, 2020), estimated
  from random orders, each walked in both directions. It adds up exactly all the same.
"""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ontime.evaluation import log_losses
from ontime.model import PREDICT_BATCH, FeatureSpec, TrainedModel

MOST_GROUPS = 16  # of one exact explanation: 65,536 coalitions


class ExplanationError(ValueError):
    """The model or the rows given cannot be explained; the message names rule and value."""


def players(spec: FeatureSpec) -> list[str]:
    """The names of the groups whose contributions are told.

    Raises:
        ExplanationError: if a numeric input is in no group, or in two.
    """
    grouped = [name for members in spec.groups.values() for name in members]
    if odd := [name for name in spec.numeric if grouped.count(name) != 1]:
        raise ExplanationError(f"each numeric input is in one group to be explained; not {odd[:5]}")
    return [*spec.groups, *spec.categorical]


def contributions(model: TrainedModel, flight: pd.DataFrame) -> tuple[float, dict[str, float]]:
    """Of one flight (a frame of one row): the reference, and each group's part in probability.

    Reference plus contributions is the model's answer.

    Raises:
        ExplanationError: if there is not one row, or there are too many groups.
    """
    names = players(model.spec)
    if len(flight) != 1 or len(names) > MOST_GROUPS:
        raise ExplanationError(
            f"one flight of up to {MOST_GROUPS} groups is explained at a time; these are "
            f"{len(flight)} flights, {len(names)} groups"
        )
    coalitions = torch.arange(2 ** len(names))
    known = (coalitions[:, None] >> torch.arange(len(names))) & 1 == 1  # [2^g, g]
    worth = _answers(model, flight, torch.zeros(len(known), dtype=torch.int64), known)
    size = known.sum(dim=1).numpy()
    weight = np.array([1 / (len(names) * math.comb(len(names) - 1, s)) for s in range(len(names))])
    parts = {}
    for i, name in enumerate(names):
        member = known[:, i].numpy()
        gain = worth[member] - worth[~member]  # the same coalitions, with and without
        parts[name] = float(weight[size[~member]] @ gain)
    return float(worth[0]), parts


def worth(model: TrainedModel, flights: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What each group saves on flights [n] with ``is_late``, in nats of log-loss a flight.

    Columns group, saved; the largest first. The sum is the log-loss when nothing is known minus the
    log-loss of the answers.
    """
    names = players(model.spec)
    n, g, rows = len(flights), len(names), torch.arange(len(flights))
    rng = np.random.default_rng(seed)
    labels = flights["is_late"].to_numpy(dtype=bool)
    forward = rng.permuted(np.tile(np.arange(g), (n, 1)), axis=1)
    saved = np.zeros(g)
    for order in (forward, forward[:, ::-1]):
        rank = np.argsort(order, axis=1)  # [n, g]: when does each group become known
        losses = [
            log_losses(labels, _answers(model, flights, rows, torch.from_numpy(rank < k)))
            for k in range(g + 1)
        ]
        for k, (before, after) in enumerate(pairwise(losses)):
            np.add.at(saved, order[:, k], (before - after) / (2 * n))
    table = pd.DataFrame({"group": names, "saved": saved})
    return table.sort_values("saved", ascending=False, ignore_index=True)


def _answers(model: TrainedModel, flights: pd.DataFrame, rows: Tensor, known: Tensor) -> np.ndarray:
    """Probabilities, float64 [m], of `rows` [m] of the flights, knowing only `known` [m, g]."""
    numeric, categories = model.tensors(flights)
    spec, n_groups = model.spec, len(model.spec.groups)
    member = torch.tensor([[c in group for c in spec.numeric] for group in spec.groups.values()])
    answers = []
    with torch.inference_mode():
        for part, seen in zip(rows.split(PREDICT_BATCH), known.split(PREDICT_BATCH), strict=True):
            hidden = (~seen[:, :n_groups]).float() @ member.float() > 0
            answers.append(
                model.network.member_probabilities(
                    numeric[part].masked_fill(hidden, torch.nan),
                    categories[part] * seen[:, n_groups:],
                )
            )
    return torch.cat(answers).double().mean(dim=1).numpy()
