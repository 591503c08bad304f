"""Baselines for the network, on the same rows: from the base rate to gradient-boosted trees.

Each ``fit_*(train, validation, spec)`` returns an object with ``predict(frame) -> float64 [n]``.

- They read the tabular inputs. Sequences reach them as aggregates, where the problem has some.
- Logistic regression: its inputs are the network's encoded features and one-hot categories.
- LightGBM: raw numbers, its own treatment of NaN and categories, early stopping on the validation
  rows; deterministic for any number of threads.
- Rate feature: a stored feature that is a rate of the label; it needs no fit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from ontime.features.spec import FeatureSpec
from ontime.models.hyperparameters import HYPERPARAMETERS
from ontime.models.inputs import build_vocabularies, category_tensor, tabular_tensor
from ontime.models.preprocessing import Encoder
from ontime.problem import RATE_FEATURE

LIGHTGBM_PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.03,
    "bagging_freq": 1,
    "max_cat_to_onehot": 20,
    "deterministic": True,
    "force_row_wise": True,
    "seed": HYPERPARAMETERS["random"]["seed"],
    "verbosity": -1,
} | HYPERPARAMETERS["lightgbm"]
LIGHTGBM_ROUNDS, LIGHTGBM_PATIENCE = 1000, 50


@dataclass(frozen=True)
class BaseRate:
    """The positive rate of the training rows, for every row."""

    positive_rate: float

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return np.full(len(frame), self.positive_rate)


@dataclass(frozen=True)
class RateFeature:
    """The value of a feature, and the positive rate where it is missing."""

    column: str
    positive_rate: float

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return frame[self.column].astype("float64").fillna(self.positive_rate).clip(0, 1).to_numpy()


@dataclass(frozen=True)
class Logistic:
    """Logistic regression on encoded features."""

    spec: FeatureSpec
    encoder: Encoder
    vocabularies: dict[str, list[str]]
    regression: LogisticRegression

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        columns = _encoded_columns(frame, self.spec, self.encoder, self.vocabularies)
        return self.regression.predict_proba(columns)[:, 1].astype(np.float64)


@dataclass(frozen=True)
class Boosting:
    """Gradient-boosted trees of LightGBM."""

    spec: FeatureSpec
    vocabularies: dict[str, list[str]]
    booster: lightgbm.Booster

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        columns = lightgbm_table(frame, self.spec, self.vocabularies)
        return np.asarray(self.booster.predict(columns), dtype=np.float64)


def fit_base_rate(train: pd.DataFrame, validation: pd.DataFrame, spec: FeatureSpec) -> BaseRate:
    return BaseRate(_positive_rate(train, validation))


def fit_rate_feature(
    train: pd.DataFrame, validation: pd.DataFrame, spec: FeatureSpec, column: str = RATE_FEATURE
) -> RateFeature:
    """Raises ValueError if the column is not a numeric feature."""
    if column not in spec.numeric:
        raise ValueError(f"the rate feature must be a numeric feature; {column!r} is not one")
    return RateFeature(column, _positive_rate(train, validation))


def fit_logistic(train: pd.DataFrame, validation: pd.DataFrame, spec: FeatureSpec) -> Logistic:
    train = pd.concat([train, validation])  # there is no early stopping
    encoder = Encoder.fit(tabular_tensor(train, spec).numpy())
    vocabularies = build_vocabularies(train, spec)
    regression = LogisticRegression(C=0.1, solver="newton-cholesky", max_iter=20)
    regression.fit(_encoded_columns(train, spec, encoder, vocabularies), train["label"])
    return Logistic(spec, encoder, vocabularies, regression)


def fit_lightgbm(
    train: pd.DataFrame,
    validation: pd.DataFrame,
    spec: FeatureSpec,
    parameters: dict[str, object] | None = None,
) -> Boosting:
    """``parameters`` override `LIGHTGBM_PARAMETERS`."""
    vocabularies = build_vocabularies(train, spec)
    data, validation_data = (
        lightgbm.Dataset(lightgbm_table(part, spec, vocabularies), label=part["label"].to_numpy())
        for part in (train, validation)
    )
    booster = lightgbm.train(
        LIGHTGBM_PARAMETERS | (parameters or {}),
        data,
        num_boost_round=LIGHTGBM_ROUNDS,
        valid_sets=[validation_data],
        callbacks=[lightgbm.early_stopping(LIGHTGBM_PATIENCE, verbose=False)],
    )
    return Boosting(spec, vocabularies, booster)


def refit_lightgbm(
    stopped: Boosting, rows: pd.DataFrame, parameters: dict[str, object] | None = None
) -> Boosting:
    """Fit again on all rows, those of early stopping included, for the rounds that it found.

    ``parameters`` override `LIGHTGBM_PARAMETERS`.
    """
    spec, vocabularies = stopped.spec, build_vocabularies(rows, stopped.spec)
    table = lightgbm_table(rows, spec, vocabularies)
    booster = lightgbm.train(
        LIGHTGBM_PARAMETERS | (parameters or {}),
        lightgbm.Dataset(table, label=rows["label"].to_numpy()),
        num_boost_round=stopped.booster.best_iteration,
    )
    return Boosting(spec, vocabularies, booster)


BASELINES: dict[str, Callable[..., Any]] = {
    "lightgbm": fit_lightgbm,
    "logistic": fit_logistic,
    "rate_feature": fit_rate_feature,
    "base_rate": fit_base_rate,
}


def lightgbm_table(
    frame: pd.DataFrame, spec: FeatureSpec, vocabularies: dict[str, list[str]]
) -> pd.DataFrame:
    """The tabular inputs as LightGBM reads them: float32 columns and categoricals."""
    table = frame[list(spec.tabular)].astype("float32")
    for name in spec.categorical:
        table[name] = pd.Categorical(frame[name], categories=vocabularies[name])
    return table


def _positive_rate(train: pd.DataFrame, validation: pd.DataFrame) -> float:
    return float(pd.concat([train["label"], validation["label"]]).mean())


def _encoded_columns(
    frame: pd.DataFrame, spec: FeatureSpec, encoder: Encoder, vocabularies: dict[str, list[str]]
) -> np.ndarray:
    """Encoded features and one column per known category; an unknown category has none."""
    with torch.inference_mode():
        parts = [encoder(tabular_tensor(frame, spec))]
    codes = category_tensor(frame, spec, vocabularies)
    for i, name in enumerate(spec.categorical):
        parts.append(torch.nn.functional.one_hot(codes[:, i], len(vocabularies[name]) + 1)[:, 1:])
    return torch.cat(parts, dim=1).numpy()
