"""The baselines answer what they say they answer, and cope with what the network copes with."""

import numpy as np
import pandas as pd
import pytest

from ontime import baselines
from ontime.evaluation import scores
from ontime.model import FeatureSpec

SPEC = FeatureSpec(("wind", "slack", "rate"), ("carrier",))


def flights(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "wind": rng.gamma(2.0, 5.0, n).astype("float32"),
            "slack": rng.normal(0, 60, n).astype("float32"),
            "rate": rng.uniform(0.1, 0.4, n).astype("float32"),
            "carrier": rng.choice(["AA", "UA"], n),
        }
    )
    odds = -1.5 + 0.05 * frame.wind - 0.02 * frame.slack + (frame.carrier == "UA")
    frame["is_late"] = rng.random(n) < 1 / (1 + np.exp(-odds))
    frame.loc[rng.random(n) < 0.1, "slack"] = np.nan
    return frame


@pytest.fixture(scope="module")
def parts() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    return flights(6_000, 1), flights(2_000, 2), flights(2_000, 3)


def test_the_base_rate_is_the_late_share_of_everything_known(
    parts: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame],
) -> None:
    train, valid, unseen = parts
    answers = baselines.fit_base_rate(train, valid, SPEC).predict(unseen)
    assert np.unique(answers) == pytest.approx(pd.concat([train, valid]).is_late.mean())


def test_the_rolling_rate_is_its_column_and_the_base_rate_where_that_is_missing(
    parts: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame],
) -> None:
    train, valid, unseen = parts
    holes = unseen.assign(rate=unseen.rate.where(unseen.index > 10))
    answers = baselines.fit_rolling_rate(train, valid, SPEC, column="rate").predict(holes)
    assert answers[11:] == pytest.approx(unseen.rate[11:].to_numpy())
    assert answers[:11] == pytest.approx(pd.concat([train, valid]).is_late.mean())
    with pytest.raises(ValueError, match="numeric feature"):
        baselines.fit_rolling_rate(train, valid, SPEC, column="carrier")


@pytest.mark.parametrize("fit", [baselines.fit_logistic, baselines.fit_lightgbm])
def test_a_fitted_baseline_beats_the_base_rate_with_missing_and_unknown_values(
    fit: object, parts: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
) -> None:
    assert callable(fit)
    train, valid, unseen = parts
    model = fit(train, valid, SPEC)
    labels = unseen.is_late.to_numpy()
    base = baselines.fit_base_rate(train, valid, SPEC).predict(unseen)
    found = scores(labels, model.predict(unseen))
    assert found["log_loss"] < scores(labels, base)["log_loss"] - 0.05
    strange = unseen.head(5).assign(carrier="XX", wind=np.float32("nan"))
    answers = model.predict(strange)
    assert ((answers > 0) & (answers < 1)).all()


def test_two_fits_of_lightgbm_are_the_same_model(
    parts: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame],
) -> None:
    train, valid, unseen = parts
    first, second = (baselines.fit_lightgbm(train, valid, SPEC).predict(unseen) for _ in range(2))
    assert (first == second).all()
