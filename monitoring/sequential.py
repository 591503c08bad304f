"""Sequential tests on served predictions with due outcomes, across model versions.

Both read one value per local day, because outcomes of one day are correlated, in units of the
values' own spread (median absolute deviation), so that they need no constant of the problem.

- `cusum` on the residual (label minus probability), in both directions: a shift that is too small
  for one day adds up. It forgets what stays below the allowance.
- `page_hinkley` on the excess loss (log-loss minus the prediction's own entropy), upwards: what a
  calibrated prediction is expected to lose is subtracted, so that a difficult week is no alarm.

Allowances and limits were chosen on May to August; `make policies` measures false-alarm rates and
delays (`experiments/detection.py`).
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from ontime.evaluation.metrics import CLIP, log_losses
from ontime.problem import MIN_MONITORING_DAYS, local_day

CUSUM_ALLOWANCE, CUSUM_LIMIT = 0.25, 6.0  # in spreads; the limit is of the sum
PAGE_HINKLEY_ALLOWANCE, PAGE_HINKLEY_LIMIT = 0.5, 6.0
LIMITS = {"residual": CUSUM_LIMIT, "excess_loss": PAGE_HINKLEY_LIMIT}
NAMES = {
    "residual": "the CUSUM of the daily residuals",
    "excess_loss": "the Page-Hinkley statistic of the daily loss minus its entropy",
}


@dataclass(frozen=True)
class SequentialTests:
    """`statistics`, in spreads, by the name of the daily value; empty if there are too few days."""

    n_labels: int  # in the window
    n_days: int  # in the window: the spread is theirs
    n_tested: int  # days since the tests started anew
    statistics: dict[str, float]


def sequential_tests(rows: pd.DataFrame, since: datetime | None) -> SequentialTests:
    """Test the predictions made since ``since``, whichever version served them.

    Args:
        rows: predictions of the window with a due outcome: label, probability, as_of, and the
            columns of `local_day`.
        since: the time of the last gate result; None: test the whole window.
    """
    values = daily_values(rows)
    tested = daily_values(rows[rows.as_of >= since]) if since is not None else values
    statistics = {}
    if len(values) >= MIN_MONITORING_DAYS and len(tested):
        for name, test in {"residual": cusum, "excess_loss": page_hinkley}.items():
            scale = spread(values[name].to_numpy())
            statistics[name] = float(test(tested[name].to_numpy(), scale)[-1])
    return SequentialTests(len(rows), len(values), len(tested), statistics)


def daily_values(rows: pd.DataFrame) -> pd.DataFrame:
    """Residual and excess loss per local day, by day."""
    y = rows["label"].to_numpy(dtype=bool)
    p = np.clip(rows["probability"].to_numpy(dtype=np.float64), CLIP, 1 - CLIP)
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    values = pd.DataFrame({"residual": y - p, "excess_loss": log_losses(y, p) - entropy})
    return values.groupby(local_day(rows)).mean()


def spread(values: np.ndarray) -> float:
    """The standard deviation of a normal distribution with this median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def cusum(values: np.ndarray, scale: float) -> np.ndarray:
    """The larger of the upward and the downward sum after each value, in spreads [n]."""
    z = values / scale
    sums = np.zeros((len(z) + 1, 2))
    for i, step in enumerate(np.stack([z, -z], axis=1)):
        sums[i + 1] = np.maximum(0.0, sums[i] + step - CUSUM_ALLOWANCE)
    return sums[1:].max(axis=1)


def page_hinkley(values: np.ndarray, scale: float) -> np.ndarray:
    """The rise of the cumulated deviation above its minimum after each value, in spreads [n]."""
    means = np.cumsum(values) / np.arange(1, len(values) + 1)
    total = np.cumsum((values - means) / scale - PAGE_HINKLEY_ALLOWANCE)
    return total - np.minimum.accumulate(np.minimum(total, 0.0))
