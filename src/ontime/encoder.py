"""The encoder: each number in two views and one indicator, its statistics held as buffers.

- soft: the distance from the median in interquartile ranges, bent smoothly into (-3, 3). It tells
  common values apart, and very large ones from each other ever less (the "smooth clip" of RealMLP:
  Holzmüller et al., 2024).
- z: the same distance in standard deviations, clipped: what is far out keeps its size for longer.

A missing number (NaN) is 0 in both views and 1 in its indicator: never silently the median.
"""

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

ENCODED_VIEWS = 3  # soft, z and the missing indicator
SOFT_LIMIT = 3.0  # interquartile ranges
Z_CLIP = 4.0  # standard deviations
FAR = 1e6  # interquartile ranges: beyond, both views stand still and a square would overflow


class Encoder(nn.Module):
    """Numbers [n, f] to [n, 3 f]: soft, z, missing."""

    median: Tensor  # [f]
    scale: Tensor  # [f] 1 / interquartile range; 0 for a number that never varied
    ratio: Tensor  # [f] interquartile range / standard deviation

    def __init__(self, n_numeric: int) -> None:
        super().__init__()
        for name in ("median", "scale", "ratio"):
            self.register_buffer(name, torch.zeros(n_numeric))

    @classmethod
    def fit(cls, numeric: np.ndarray) -> Self:
        """The statistics of numbers [n, f].

        A number of which most values are equal has no interquartile range: its standard deviation
        stands in.
        """
        encoder = cls(numeric.shape[1])
        for j, column in enumerate(numeric.T):
            known = column[np.isfinite(column)].astype(np.float64)
            if len(known) and known.min() < known.max():
                low, median, high = np.quantile(known, [0.25, 0.5, 0.75])
                deviation = known.std()
                unit = high - low if high > low else deviation
                encoder.median[j] = float(median)
                encoder.scale[j] = float(1 / unit)
                encoder.ratio[j] = float(unit / deviation)
        return encoder

    def forward(self, numeric: Tensor) -> Tensor:
        """Nothing but arithmetic, in place where it can be: cheaper than the first layer."""
        missing = numeric.isnan().to(numeric.dtype)
        distance = (numeric - self.median).mul_(self.scale).clamp_(-FAR, FAR).nan_to_num_(nan=0.0)
        bend = (distance * distance).mul_(SOFT_LIMIT**-2).add_(1).rsqrt_()
        z = (distance * self.ratio).clamp_(-Z_CLIP, Z_CLIP)
        return torch.cat([distance.mul_(bend), z, missing], dim=1)
