"""Training-serving skew: every feature that was served against the historical join, bit for bit."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ontime.model import FeatureSpec


@dataclass(frozen=True)
class Skew:
    """``checked``: values compared. ``mismatched``: values that differ, by feature."""

    predictions: int
    checked: int
    mismatched: dict[str, int]


def skew(served: pd.DataFrame, offline: pd.DataFrame, spec: FeatureSpec) -> Skew:
    """Compare served features with those that training would have seen for the same flights.

    Args:
        served: a row a prediction: flight_id, as_of and the features as they were logged.
        offline: a row a flight from `ontime.dataset.build_examples`.

    Raises:
        ValueError: if a prediction has no offline row at its moment; none may go unchecked.
    """
    keys = pd.MultiIndex.from_arrays([offline.flight_id, offline.event_timestamp])
    at = keys.get_indexer(pd.MultiIndex.from_arrays([served.flight_id, served.as_of]))
    if (at < 0).any():
        lost = served[at < 0].iloc[0]
        raise ValueError(
            f"every prediction has an offline row at its moment; {int((at < 0).sum())} have none, "
            f"e.g. {lost.flight_id} at {lost.as_of}"
        )
    mismatched = {}
    for name in spec.numeric:
        a, b = served[name].to_numpy(np.float32), offline[name].to_numpy(np.float32)[at]
        different = int(((a != b) & ~(np.isnan(a) & np.isnan(b))).sum())
        if different:
            mismatched[name] = different
    return Skew(len(served), len(served) * len(spec.numeric), mismatched)
