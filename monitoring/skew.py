"""Training-serving skew: every served feature against the historical join, bit for bit."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ontime.features.spec import FeatureSpec


@dataclass(frozen=True)
class Skew:
    """`checked` counts compared values, `mismatched` differing values by feature."""

    predictions: int
    checked: int
    mismatched: dict[str, int]


def skew(served: pd.DataFrame, offline: pd.DataFrame, spec: FeatureSpec) -> Skew:
    """Compare served features with the features that training reads for the same instances.

    Args:
        served: one row per prediction, keys instance_id and as_of, with the logged features.
        offline: one row per instance, keys instance_id and event_timestamp (`build_examples`).

    Raises:
        ValueError: if a prediction has no offline row.
    """
    keys = pd.MultiIndex.from_arrays([offline.instance_id, offline.event_timestamp])
    at = keys.get_indexer(pd.MultiIndex.from_arrays([served.instance_id, served.as_of]))
    if (at < 0).any():
        first = served[at < 0].iloc[0]
        raise ValueError(
            f"every prediction must have an offline row at its as_of; {int((at < 0).sum())} have "
            f"none, e.g. {first.instance_id} at {first.as_of}"
        )
    mismatched = {}
    for name in spec.numeric:
        a, b = served[name].to_numpy(np.float32), offline[name].to_numpy(np.float32)[at]
        if different := int(((a != b) & ~(np.isnan(a) & np.isnan(b))).sum()):
            mismatched[name] = different
    return Skew(len(served), len(served) * len(spec.numeric), mismatched)
