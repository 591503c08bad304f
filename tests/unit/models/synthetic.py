"""Synthetic rows for the tests of the models; no column belongs to a problem."""

from dataclasses import replace

import numpy as np
import pandas as pd

from ontime.features.spec import FeatureSpec
from ontime.models.network import ModelConfig
from ontime.models.trainer import TrainConfig

SPEC = FeatureSpec(
    numeric=("size", "age", "load"),
    categorical=("kind", "site"),
    groups={"sensor": ("size",), "state": ("age", "load")},
)
SMALL = TrainConfig(
    epochs=6, batch_size=256, learning_rate=5e-3, network=ModelConfig(hidden=32, members=2)
)
SHORT = replace(SMALL, epochs=3)


def synthetic_rows(n: int, seed: int = 0) -> pd.DataFrame:
    """Rows whose label is positive with probability `chance`.

    It depends on age (most), size and kind; not on load and site. A tenth of the sizes is missing.
    `day` replaces the problem's local day.
    """
    rng = np.random.default_rng(seed)
    size, age, load = rng.gamma(2.0, 5.0, n), rng.normal(0, 60, n), rng.normal(0, 20, n)
    kind = rng.choice(["a", "b", "c"], n)
    chance = 1 / (1 + np.exp(1.5 - 0.05 * size + 0.03 * age - (kind == "b")))
    label = rng.random(n) < chance
    size[rng.random(n) < 0.1] = np.nan
    frame = pd.DataFrame({"size": size, "age": age, "load": load}, dtype="float32")
    site, day = rng.choice(["x", "y", "z"], n), rng.integers(0, 40, n)
    return frame.assign(kind=kind, site=site, day=day, chance=chance, label=label)


def synthetic_day(rows: pd.DataFrame) -> np.ndarray:
    """Replaces `ontime.problem.local_day`, which reads the problem's columns."""
    return rows["day"].to_numpy()
