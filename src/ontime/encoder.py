"""The encoder: each number in two views and one indicator, its statistics held as buffers.

- rank: rank-Gauss through 129 quantile knots (interpolated, ties at their mean rank) says where a
  number stands among the others;
- z: the clipped z-score keeps its size.

A missing number (NaN) is 0 in both views and 1 in its indicator: never silently the mean.
"""

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

KNOTS = 129  # of the rank view: 128 equal shares
ENCODED_VIEWS = 3  # rank, z and the missing indicator
LARGEST = torch.finfo(torch.float32).max
Z_CLIP = 4.0  # beyond four deviations only "very large" matters, which the rank says too


class Encoder(nn.Module):
    """Numbers [n, f] to [n, 3 f]: rank-Gauss, z-score, missing."""

    knots: Tensor  # [f, 129] rising values of each number; 130 intervals lie before, between, after
    starts: Tensor  # [f, 130] the value from which an interval goes on
    ranks: Tensor  # [f, 130] the normal deviate there
    slopes: Tensor  # [f, 130] its rise a unit; 0 in the outer intervals
    mean: Tensor  # [f]
    inverse_scale: Tensor  # [f] 1 / standard deviation; 0 for a number that never varied

    def __init__(self, n_numeric: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.zeros(n_numeric, KNOTS))
        for name in ("starts", "ranks", "slopes"):
            self.register_buffer(name, torch.zeros(n_numeric, KNOTS + 1))
        for name in ("mean", "inverse_scale"):
            self.register_buffer(name, torch.zeros(n_numeric))

    @classmethod
    def fit(cls, numeric: np.ndarray) -> Self:
        """The statistics of numbers [n, f]."""
        encoder = cls(numeric.shape[1])
        for j, column in enumerate(numeric.T):
            known = column[np.isfinite(column)]
            if len(known) and known.min() < known.max():
                encoder._fit_column(j, known)
        return encoder

    def _fit_column(self, j: int, values: np.ndarray) -> None:
        self.mean[j] = float(values.mean(dtype=np.float64))
        self.inverse_scale[j] = 1.0 / float(values.std(dtype=np.float64))
        knots, ranks = (np.pad(t, (0, KNOTS - len(t)), mode="edge") for t in _rank_table(values))
        rise, run = np.diff(ranks), np.diff(knots)
        slopes = np.divide(rise, run, out=np.zeros_like(rise), where=run > 0)
        tables = {
            "knots": knots,
            "starts": np.append(knots[0], knots),
            "ranks": np.append(ranks[0], ranks),
            "slopes": np.concatenate([[0.0], slopes, [0.0]]),
        }
        for name, table in tables.items():
            self.get_buffer(name)[j] = torch.from_numpy(table)

    def forward(self, numeric: Tensor) -> Tensor:
        """NaN goes through both views and is made 0 in the end."""
        numbers = numeric.T.contiguous()  # [f, n]: a number's table stays in the cache
        numbers = numbers.clamp(-LARGEST, LARGEST)  # infinity times an outer slope would be NaN
        missing = numbers.isnan().to(numbers.dtype)
        z = (numbers - self.mean[:, None]).mul_(self.inverse_scale[:, None]).clamp_(-Z_CLIP, Z_CLIP)
        views = [self._rank(numbers).nan_to_num_(nan=0.0), z.nan_to_num_(nan=0.0), missing]
        return torch.cat(views).T.contiguous()

    def _rank(self, numbers: Tensor) -> Tensor:
        """Interpolate each number [f, n] between its knots; outside, the outer rank holds."""
        interval = torch.searchsorted(self.knots, numbers, right=True)
        rows = torch.arange(len(self.knots), device=numbers.device)[:, None]
        at = interval + rows * (KNOTS + 1)  # `take` counts through the whole table
        beyond = (numbers - self.starts.take(at)).mul_(self.slopes.take(at))
        return beyond.add_(self.ranks.take(at))


def _rank_table(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantile knots and their normal deviates; equal knots become one with their mean rank."""
    quantiles = np.quantile(values, np.linspace(0, 1, KNOTS)).astype(np.float32)
    knots, position = np.unique(quantiles, return_inverse=True)
    ranks = np.bincount(position, weights=(np.arange(KNOTS) + 0.5) / KNOTS) / np.bincount(position)
    return knots, torch.special.ndtri(torch.from_numpy(ranks)).float().numpy()
