"""Importance of each group of inputs over many rows: SAGE (Covert, Lundberg, Lee, 2020).

The Shapley values of the log-loss reduction, estimated from one random order of the groups per row,
which is used forwards and backwards. Their sum is exact for any sample of orders.
"""

from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from ontime.evaluation.metrics import log_losses
from ontime.models.explanation import input_groups, masked_probabilities
from ontime.models.serialization import TrainedModel


def group_importance(model: TrainedModel, rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """One row per group of inputs, the most important first. Columns group, log_loss_reduction.

    The reduction is in nats per row of ``rows`` [n], which have labels. The sum over groups is the
    log-loss with every input missing minus the log-loss with all inputs.
    """
    names = input_groups(model.spec)
    n, g, index = len(rows), len(names), torch.arange(len(rows))
    labels = rows["label"].to_numpy(dtype=bool)
    forward = np.random.default_rng(seed).permuted(np.tile(np.arange(g), (n, 1)), axis=1)
    reduction = np.zeros(g)
    for order in (forward, forward[:, ::-1]):
        rank = torch.from_numpy(np.argsort(order, axis=1))  # [n, g]: when a group becomes known
        losses = [
            log_losses(labels, masked_probabilities(model, rows, index, rank < k))
            for k in range(g + 1)
        ]
        for k, (before, after) in enumerate(pairwise(losses)):
            np.add.at(reduction, order[:, k], (before - after) / (2 * n))
    table = pd.DataFrame({"group": names, "log_loss_reduction": reduction})
    return table.sort_values("log_loss_reduction", ascending=False, ignore_index=True)
