"""The encoder: two transforms and a missing indicator per numeric feature.

- rank (rank-Gauss transform): the value's rank among the training values, as a quantile of the
  normal distribution; tied values share their mean rank.
- z: the distance from the median in standard deviations, clipped.
- missing: 1 where the value is NaN; both transforms are 0 there.

The rank-Gauss transform is piecewise linear, with bins of equal width in the softsign
d / (1 + |d|) of the distance d from the median in interquartile ranges. A bin is found by
arithmetic; quantile knots would need a search, which took longer than the network's layers. The
price: values crowded within one bin, as at the low end of a very skewed feature, share one line.

An input of events has the same statistics in all of them (`encoder_inputs`).

Shapes: n rows, f numeric features.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from ontime.features.spec import FeatureSpec

N_BINS = 256
RANK_CLIP = 0.004  # ranks are clipped to [RANK_CLIP, 1 - RANK_CLIP]
TRANSFORMS_PER_FEATURE = 3
Z_CLIP = 4.0  # larger deviations differ in rank only


class Encoder(nn.Module):
    """float32 [n, f] -> [n, 3 f]: rank-Gauss, z-score, missing. The statistics are buffers."""

    median: Tensor  # [f]
    inverse_iqr: Tensor  # [f] 1 / interquartile range; 0 for a constant feature
    iqr_over_std: Tensor  # [f]
    # [f, N_BINS + 1] rank = intercept + slope * softsign, the softsign scaled to [0, N_BINS]. The
    # last entry is for softsign = N_BINS itself.
    bin_intercept: Tensor
    bin_slope: Tensor

    def __init__(self, n_numeric: int) -> None:
        super().__init__()
        for name in ("median", "inverse_iqr", "iqr_over_std"):
            self.register_buffer(name, torch.zeros(n_numeric))
        for name in ("bin_intercept", "bin_slope"):
            self.register_buffer(name, torch.zeros(n_numeric, N_BINS + 1))

    @classmethod
    def fit(cls, numeric: np.ndarray) -> Self:
        """An encoder with the statistics of the training values [n, f]."""
        encoder = cls(numeric.shape[1])
        for j, column in enumerate(numeric.T):
            known = column[np.isfinite(column)].astype(np.float64)
            if len(known) and known.min() < known.max():
                encoder._fit_column(j, known)
        return encoder

    def repeated(self, index: Sequence[int]) -> Self:
        """An encoder whose feature i has the statistics of this one's feature ``index[i]``."""
        encoder = type(self)(len(index))
        for name, statistics in self.named_buffers():
            encoder.get_buffer(name).copy_(statistics[list(index)])
        return encoder

    def _fit_column(self, j: int, known: np.ndarray) -> None:
        low, median, high = np.quantile(known, [0.25, 0.5, 0.75])
        std = known.std()
        iqr = high - low or std  # the interquartile range is 0 if most values are equal
        position = np.arange(N_BINS + 1)
        softsign = (position / (N_BINS / 2) - 1).clip(-1 + 1e-9, 1 - 1e-9)  # ±1 is infinity
        edges = median + iqr * softsign / (1 - abs(softsign))
        values, counts = np.unique(known, return_counts=True)
        ranks = (counts.cumsum() - counts / 2) / len(known)
        edge_ranks = np.interp(edges, values, ranks).clip(RANK_CLIP, 1 - RANK_CLIP)
        quantiles = torch.special.ndtri(torch.from_numpy(edge_ranks)).numpy()
        slope = np.append(np.diff(quantiles), 0.0)
        statistics = {
            "median": median,
            "inverse_iqr": 1 / iqr,
            "iqr_over_std": iqr / std,
            "bin_intercept": quantiles - slope * position,
            "bin_slope": slope,
        }
        for name, value in statistics.items():
            self.get_buffer(name)[j] = torch.as_tensor(value)

    def forward(self, numeric: Tensor) -> Tensor:
        numeric = numeric.contiguous()  # a frame's values are column by column: half as fast
        missing = numeric.isnan().to(numeric.dtype)
        distance = (numeric - self.median).mul_(self.inverse_iqr).nan_to_num_(nan=0.0)
        z = (distance * self.iqr_over_std).clamp_(-Z_CLIP, Z_CLIP)
        # The softsign of the distance, scaled from [-1, 1] to [0, N_BINS].
        softsign = distance.div_(distance.abs().add_(1)).add_(1).mul_(N_BINS / 2)
        features = torch.arange(len(self.median), device=numeric.device)
        index = softsign.long().add_(features * (N_BINS + 1))  # into the flattened table
        intercept, slope = self.bin_intercept.take(index), self.bin_slope.take(index)
        rank = torch.addcmul(intercept, slope, softsign)
        return torch.cat([rank.mul_(1 - missing), z, missing], dim=1)


def fit_encoder(numeric: np.ndarray, spec: FeatureSpec) -> Encoder:
    """The encoder of numeric inputs [n, f]; see `encoder_inputs`."""
    position = {name: i for i, name in enumerate(spec.numeric)}
    inputs, index = encoder_inputs(spec)
    rows = np.arange(len(numeric))
    columns = [
        numeric[rows, np.array([position[name] for name in names])[rows % len(names)]]
        for names in inputs
    ]
    return Encoder.fit(np.stack(columns, axis=1)).repeated(index)


def encoder_inputs(spec: FeatureSpec) -> tuple[list[tuple[str, ...]], list[int]]:
    """Inputs that share statistics, and for each numeric input [f] its place among them.

    An input of events has the same statistics in every event. They are those of one event of each
    row, in turn, so that they take as long as those of another input.
    """
    inputs: list[tuple[str, ...]] = [(name,) for name in spec.tabular]
    index = list(range(len(inputs)))
    for name, (events, width) in spec.shapes.items():
        index += [len(inputs) + i for i in range(width)] * events
        inputs += [spec.groups[name][i::width] for i in range(width)]
    return inputs, index
