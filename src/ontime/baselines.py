"""What the network has to beat, on the same rows: from the base rate to gradient boosting.

Each `fit_*(train, valid, spec)` returns an object with `predict(frame) -> float64 [n]`.

Notable decisions
- The logistic regression reads rank, z-score and missing indicator as the network does, and one
  column for each category.
- LightGBM gets the raw numbers, its own treatment of NaN and of categories, and stops early on the
  same validation rows. Deterministic, with any number of threads.
- The rolling rate is a feature that exists already (late share of the origin at that hour): the
  baseline that needs no model.
"""

from dataclasses import dataclass

import lightgbm
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from ontime.encoder import Encoder
from ontime.model import FeatureSpec, build_vocabularies, category_tensor, numeric_tensor
from ontime.tuned import TUNED

LIGHTGBM_PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.03,
    "bagging_freq": 1,
    "max_cat_to_onehot": 20,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 2013,
    "verbosity": -1,
} | TUNED["lightgbm"]
LIGHTGBM_ROUNDS, LIGHTGBM_PATIENCE = 1000, 50


@dataclass(frozen=True)
class BaseRate:
    """The same probability for every flight."""

    late_share: float

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return np.full(len(frame), self.late_share)


@dataclass(frozen=True)
class RollingRate:
    """A late share among the features, as it was known then; where it is missing, the base rate."""

    column: str
    late_share: float

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return frame[self.column].astype("float64").fillna(self.late_share).clip(0, 1).to_numpy()


@dataclass(frozen=True)
class Logistic:
    spec: FeatureSpec
    encoder: Encoder
    vocabularies: dict[str, list[str]]
    regression: LogisticRegression

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        columns = _design(frame, self.spec, self.encoder, self.vocabularies)
        return self.regression.predict_proba(columns)[:, 1].astype(np.float64)


@dataclass(frozen=True)
class Boosting:
    spec: FeatureSpec
    vocabularies: dict[str, list[str]]
    booster: lightgbm.Booster

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        columns = lightgbm_table(frame, self.spec, self.vocabularies)
        return np.asarray(self.booster.predict(columns), dtype=np.float64)


def fit_base_rate(train: pd.DataFrame, valid: pd.DataFrame, spec: FeatureSpec) -> BaseRate:
    return BaseRate(_late_share(train, valid))


def fit_rolling_rate(
    train: pd.DataFrame, valid: pd.DataFrame, spec: FeatureSpec, column: str
) -> RollingRate:
    if column not in spec.numeric:
        raise ValueError(f"the rolling rate is a numeric feature; {column!r} is none of them")
    return RollingRate(column, _late_share(train, valid))


def fit_logistic(train: pd.DataFrame, valid: pd.DataFrame, spec: FeatureSpec) -> Logistic:
    train = pd.concat([train, valid])  # nothing stops early
    encoder = Encoder.fit(numeric_tensor(train, spec).numpy())
    vocabularies = build_vocabularies(train, spec)
    regression = LogisticRegression(C=0.1, solver="newton-cholesky", max_iter=20)
    regression.fit(_design(train, spec, encoder, vocabularies), train["is_late"])
    return Logistic(spec, encoder, vocabularies, regression)


def fit_lightgbm(
    train: pd.DataFrame,
    valid: pd.DataFrame,
    spec: FeatureSpec,
    parameters: dict[str, object] | None = None,
) -> Boosting:
    vocabularies = build_vocabularies(train, spec)
    rows, judged = (
        lightgbm.Dataset(lightgbm_table(part, spec, vocabularies), label=part["is_late"].to_numpy())
        for part in (train, valid)
    )
    booster = lightgbm.train(
        LIGHTGBM_PARAMETERS | (parameters or {}),
        rows,
        num_boost_round=LIGHTGBM_ROUNDS,
        valid_sets=[judged],
        callbacks=[lightgbm.early_stopping(LIGHTGBM_PATIENCE, verbose=False)],
    )
    return Boosting(spec, vocabularies, booster)


def _late_share(train: pd.DataFrame, valid: pd.DataFrame) -> float:
    return float(pd.concat([train["is_late"], valid["is_late"]]).mean())


def _design(
    frame: pd.DataFrame, spec: FeatureSpec, encoder: Encoder, vocabularies: dict[str, list[str]]
) -> np.ndarray:
    """The encoder's columns and one for each category value; a value never seen has none."""
    with torch.inference_mode():
        parts = [encoder(numeric_tensor(frame, spec))]
    codes = category_tensor(frame, spec, vocabularies)
    for i, name in enumerate(spec.categorical):
        parts.append(torch.nn.functional.one_hot(codes[:, i], len(vocabularies[name]) + 1)[:, 1:])
    return torch.cat(parts, dim=1).numpy()


def lightgbm_table(
    frame: pd.DataFrame, spec: FeatureSpec, vocabularies: dict[str, list[str]]
) -> pd.DataFrame:
    table = frame[list(spec.numeric)].astype("float32")
    for name in spec.categorical:
        table[name] = pd.Categorical(frame[name], categories=vocabularies[name])
    return table
