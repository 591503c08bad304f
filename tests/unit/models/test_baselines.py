"""The baselines predict what they state, and accept missing and unknown values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ontime.evaluation.metrics import scores
from ontime.models import baselines
from tests.unit.models.synthetic import SPEC, synthetic_rows


@pytest.fixture(scope="module")
def validation() -> pd.DataFrame:
    return synthetic_rows(2_000, seed=4)


def test_the_base_rate_is_that_of_training_and_validation_rows(
    train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame
) -> None:
    found = baselines.fit_base_rate(train, validation, SPEC).predict(test)
    assert found.shape == (3_000,)
    assert np.unique(found) == pytest.approx(pd.concat([train, validation]).label.mean())


def test_the_rate_feature_is_its_column_and_the_base_rate_where_that_is_missing(
    train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame
) -> None:
    rate = np.random.default_rng(0).uniform(0.1, 0.4, len(test)).astype("float32")
    rows = test.assign(load=np.where(test.index > 10, rate, np.nan))
    found = baselines.fit_rate_feature(train, validation, SPEC, column="load").predict(rows)
    assert found[11:] == pytest.approx(rate[11:])
    assert found[:11] == pytest.approx(pd.concat([train, validation]).label.mean())
    with pytest.raises(ValueError, match="numeric feature"):
        baselines.fit_rate_feature(train, validation, SPEC, column="kind")


@pytest.mark.parametrize("fit", [baselines.fit_logistic, baselines.fit_lightgbm])
def test_a_fitted_baseline_is_better_than_the_base_rate(
    fit: Callable[..., Any],
    train: pd.DataFrame,
    validation: pd.DataFrame,
    test: pd.DataFrame,
) -> None:
    model = fit(train, validation, SPEC)
    labels = test.label.to_numpy()
    base_rate = baselines.fit_base_rate(train, validation, SPEC).predict(test)
    found = scores(labels, model.predict(test))
    assert found["log_loss"] < scores(labels, base_rate)["log_loss"] - 0.05
    unusual = test.head(5).assign(kind="unknown", size=np.float32("nan"))
    assert ((model.predict(unusual) > 0) & (model.predict(unusual) < 1)).all()


def test_two_fits_of_lightgbm_are_the_same_model(
    train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame
) -> None:
    first, second = (
        baselines.fit_lightgbm(train, validation, SPEC).predict(test) for _ in range(2)
    )
    assert (first == second).all()
