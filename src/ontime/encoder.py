"""The encoder: each number in three views and one indicator, its statistics held as buffers.

- rank: rank-Gauss through 129 quantile knots (interpolated, ties at their mean rank) says where a
  number stands among the others;
- z: the clipped z-score keeps its size;
- late: the smoothed log-odds of lateness that training saw around such a value. A network finds a
  sharp step in a long tail (an aircraft that cannot be back in time) only when it is shown it.

A missing number (NaN) is 0 in all views and 1 in its indicator: never silently the mean.
"""

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

KNOTS = 129  # of the rank view: 128 equal shares
LATE_BINS, LATE_PRIOR = 64, 50  # 128 bins remember days, 16 blur; the prior counts as rows
ENCODED_VIEWS = 4  # rank, z, late and the missing indicator
Z_CLIP = 4.0  # beyond four deviations only "very large" matters, which the rank says too


class Encoder(nn.Module):
    """Numbers [n, f] to [n, 4 f]: rank-Gauss, z-score, late log-odds, missing."""

    mean: Tensor
    inverse_scale: Tensor  # 1 / standard deviation; 0 for a number that never varied

    def __init__(self, n_numeric: int) -> None:
        super().__init__()
        for name, size in (("rank", KNOTS), ("late", LATE_BINS)):
            self.register_buffer(f"{name}_knots", torch.zeros(n_numeric, size))
            self.register_buffer(f"{name}_values", torch.zeros(n_numeric, size))
        self.register_buffer("mean", torch.zeros(n_numeric))
        self.register_buffer("inverse_scale", torch.zeros(n_numeric))

    @classmethod
    def fit(cls, numeric: np.ndarray, late: np.ndarray | None = None) -> Self:
        """Statistics of [n, f] numbers; without the labels `late` [n] the third view is 0."""
        encoder = cls(numeric.shape[1])
        for j, column in enumerate(numeric.T):
            known = np.isfinite(column)
            if known.any() and column[known].min() < column[known].max():
                encoder._fit_column(j, column[known], None if late is None else late[known])
        return encoder

    def _fit_column(self, j: int, values: np.ndarray, late: np.ndarray | None) -> None:
        self.mean[j] = float(values.mean(dtype=np.float64))
        self.inverse_scale[j] = 1.0 / float(values.std(dtype=np.float64))
        tables = {"rank": _rank_table(values)}
        if late is not None:
            tables["late"] = _late_table(values, late)
        for view, table in tables.items():
            for part, column in zip(("knots", "values"), table, strict=True):
                buffer = self.get_buffer(f"{view}_{part}")
                missing = buffer.shape[1] - len(column)
                buffer[j] = torch.from_numpy(np.pad(column, (0, missing), mode="edge"))

    def forward(self, numeric: Tensor) -> Tensor:
        missing = numeric.isnan()
        known = numeric.masked_fill(missing, 0.0)
        z = ((known - self.mean) * self.inverse_scale).clamp(-Z_CLIP, Z_CLIP)
        views = [self._read("rank", known), z, self._read("late", known)]
        views = [view.masked_fill(missing, 0.0) for view in views]
        return torch.cat([*views, missing.to(z.dtype)], dim=1)

    def _read(self, view: str, known: Tensor) -> Tensor:
        """Interpolate each number in its table; outside, the first or last value holds."""
        knots, values = self.get_buffer(f"{view}_knots"), self.get_buffer(f"{view}_values")
        numbers = known.T.contiguous()  # [f, n]: searchsorted goes row by row
        right = torch.searchsorted(knots, numbers, right=True).clamp(1, knots.shape[1] - 1)
        below, above = knots.gather(1, right - 1), knots.gather(1, right)
        share = ((numbers - below) / (above - below).clamp_min(1e-30)).clamp(0.0, 1.0)
        return torch.lerp(values.gather(1, right - 1), values.gather(1, right), share).T


def _rank_table(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantile knots and their normal deviates; equal knots become one with their mean rank."""
    quantiles = np.quantile(values, np.linspace(0, 1, KNOTS)).astype(np.float32)
    knots, position = np.unique(quantiles, return_inverse=True)
    ranks = np.bincount(position, weights=(np.arange(KNOTS) + 0.5) / KNOTS) / np.bincount(position)
    return knots, torch.special.ndtri(torch.from_numpy(ranks)).float().numpy()


def _late_table(values: np.ndarray, late: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin centres and twice the smoothed log-odds of lateness there, relative to all."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, LATE_BINS + 1)[1:-1]))
    position, base = np.searchsorted(edges, values), late.mean()
    filled, position = np.unique(position, return_inverse=True)
    n = np.bincount(position, minlength=len(filled))
    share = (np.bincount(position, weights=late) + LATE_PRIOR * base) / (n + LATE_PRIOR)
    odds = np.log(share / (1 - share)) - np.log(base / (1 - base))
    centres = np.bincount(position, weights=values) / n
    return centres.astype(np.float32), (2 * odds).astype(np.float32)
