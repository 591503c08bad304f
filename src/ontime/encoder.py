"""The encoder: each number in two views and one indicator, its statistics held as buffers.

- rank: where a number stands among the others, as a normal deviate (rank-Gauss), read off a table;
  ties stand at their mean rank;
- z: its distance from the median in standard deviations, clipped, which keeps its size.

A missing number (NaN) is 0 in both views and 1 in its indicator: never silently the median.

The table's cells are found by arithmetic: they are even in d / (1 + |d|), where d is the distance
from the median in interquartile ranges, so that 256 of them cover all numbers, finest around the
median. Quantiles as knots have to be searched, which took longer than all layers of the network.
The price: values that crowd in one cell, as at the end of a very skewed range, share its line.
"""

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

CELLS = 256
OUTER_RANK = 0.004  # no number stands lower, or higher than 1 minus it
ENCODED_VIEWS = 3  # rank, z and the missing indicator
Z_CLIP = 4.0  # beyond four deviations only "very large" matters, which the rank says too


class Encoder(nn.Module):
    """Numbers [n, f] to [n, 3 f]: rank-Gauss, z-score, missing."""

    median: Tensor  # [f]
    inverse_range: Tensor  # [f] 1 / interquartile range; 0 for a number that never varied
    deviations: Tensor  # [f] the interquartile range in standard deviations
    levels: Tensor  # [f, 257] in a cell the rank is its level + its slope * the place in the table;
    slopes: Tensor  # [f, 257] the last one is the end of the table, where 256 cells are behind

    def __init__(self, n_numeric: int) -> None:
        super().__init__()
        for name in ("median", "inverse_range", "deviations"):
            self.register_buffer(name, torch.zeros(n_numeric))
        for name in ("levels", "slopes"):
            self.register_buffer(name, torch.zeros(n_numeric, CELLS + 1))

    @classmethod
    def fit(cls, numeric: np.ndarray) -> Self:
        """The statistics of numbers [n, f]."""
        encoder = cls(numeric.shape[1])
        for j, column in enumerate(numeric.T):
            known = column[np.isfinite(column)].astype(np.float64)
            if len(known) and known.min() < known.max():
                encoder._fit_column(j, known)
        return encoder

    def _fit_column(self, j: int, known: np.ndarray) -> None:
        low, median, high = np.quantile(known, [0.25, 0.5, 0.75])
        deviation = known.std()
        unit = high - low or deviation  # most values are equal: no interquartile range
        at = np.arange(CELLS + 1)
        bent = (at / (CELLS / 2) - 1).clip(-1 + 1e-9, 1 - 1e-9)  # the ends are infinitely far
        edges = median + unit * bent / (1 - abs(bent))
        values, counts = np.unique(known, return_counts=True)
        ranks = (counts.cumsum() - counts / 2) / len(known)
        at_edges = np.interp(edges, values, ranks).clip(OUTER_RANK, 1 - OUTER_RANK)
        deviates = torch.special.ndtri(torch.from_numpy(at_edges)).numpy()
        slopes = np.append(np.diff(deviates), 0.0)
        statistics = {
            "median": median,
            "inverse_range": 1 / unit,
            "deviations": unit / deviation,
            "levels": deviates - slopes * at,
            "slopes": slopes,
        }
        for name, value in statistics.items():
            self.get_buffer(name)[j] = torch.as_tensor(value)

    def forward(self, numeric: Tensor) -> Tensor:
        """A missing number stands at the median until its rank is made 0."""
        numeric = numeric.contiguous()  # a frame's numbers come column by column: half as fast
        missing = numeric.isnan().to(numeric.dtype)
        distance = (numeric - self.median).mul_(self.inverse_range).nan_to_num_(nan=0.0)
        z = (distance * self.deviations).clamp_(-Z_CLIP, Z_CLIP)
        place = distance.div_(distance.abs().add_(1)).add_(1).mul_(CELLS / 2)  # in [0, 256]
        features = torch.arange(len(self.median), device=numeric.device)
        at = place.long().add_(features * (CELLS + 1))  # `take` counts through the whole table
        rank = torch.addcmul(self.levels.take(at), self.slopes.take(at), place)
        return torch.cat([rank.mul_(1 - missing), z, missing], dim=1)
