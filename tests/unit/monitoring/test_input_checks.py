"""Checks of one day's served features and labels."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from monitoring.input_checks import MIN_PREDICTIONS, PERIOD, check_inputs, factor
from ontime.problem import VIEWS

NOW = datetime(2020, 7, 3, tzinfo=UTC)
COLUMNS = [name for view in VIEWS for name in view.inputs]
VIEW = VIEWS[0]


def rows(n: int, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(10, 2, (n, len(COLUMNS)))
    return pd.DataFrame(values, columns=COLUMNS)


def served(n: int = 200, until: datetime = NOW) -> pd.DataFrame:
    """Predictions of the day before ``until``, due at once, each with its label."""
    as_of = pd.date_range(until - PERIOD, until, n, inclusive="left", unit="us")
    labels = pd.array(np.arange(len(as_of)) % 3 == 0, "boolean")
    return rows(len(as_of)).assign(as_of=as_of, due_at=as_of, label=labels)


REFERENCE = rows(2_000, seed=1)


def test_a_day_in_order_has_no_missing_view_and_the_usual_scale() -> None:
    found = check_inputs(served(), REFERENCE, NOW)
    assert found.n_predictions == 199 and found.label_coverage == 1
    assert set(found.missing) == {view.name for view in VIEWS}
    assert set(found.missing.values()) == {0.0}
    assert set(found.scale) == set(COLUMNS)
    assert 0.7 < min(found.scale.values()) <= max(found.scale.values()) < 1.4


def test_a_view_is_missing_where_none_of_its_features_has_a_value() -> None:
    day = served()
    day.loc[day.index < 100, list(VIEW.inputs)] = np.nan
    day.loc[day.index >= 150, VIEW.inputs[0]] = np.nan
    others = {view.name: 0.0 for view in VIEWS[1:]}
    expected = 100 / 199 if len(VIEW.inputs) > 1 else 149 / 199
    assert check_inputs(day, REFERENCE, NOW).missing == pytest.approx(
        others | {VIEW.name: expected}
    )


def test_what_was_missing_in_training_too_is_no_finding() -> None:
    day, reference = served(), REFERENCE.copy()
    for frame in (day, reference):
        frame[list(VIEW.inputs)] = np.nan
    assert check_inputs(day, reference, NOW).missing[VIEW.name] == 0


def test_another_unit_is_another_scale() -> None:
    day = served()
    day[COLUMNS[0]] /= 60
    found = check_inputs(day, REFERENCE, NOW)
    assert factor(found.scale[COLUMNS[0]]) == pytest.approx(60, rel=0.3)
    assert max(factor(found.scale[name]) for name in COLUMNS[1:]) < 2


def test_a_calm_day_and_a_high_level_are_not_another_unit() -> None:
    calm, high = served(), served()
    calm[COLUMNS[0]] = 10 + (calm[COLUMNS[0]] - 10) / 60
    high[COLUMNS[0]] = 600 + (high[COLUMNS[0]] - 10) / 60
    assert factor(check_inputs(calm, REFERENCE, NOW).scale[COLUMNS[0]]) < 1.1
    assert check_inputs(high, REFERENCE, NOW).scale[COLUMNS[0]] == 1


def test_a_value_that_is_nearly_always_the_same_has_no_spread_to_compare() -> None:
    reference = REFERENCE.copy()
    reference.loc[reference.index % 3 > 0, COLUMNS[0]] = 0.0
    assert COLUMNS[0] not in check_inputs(served(), reference, NOW).scale
    constant = served().assign(**{COLUMNS[1]: 4.0})
    assert COLUMNS[1] not in check_inputs(constant, REFERENCE, NOW).scale


def test_labels_count_when_they_are_due_on_the_day() -> None:
    day = served()
    day.loc[day.index % 2 == 0, "label"] = pd.NA
    assert check_inputs(day, REFERENCE, NOW).label_coverage == pytest.approx(0.5, abs=0.01)
    day["due_at"] += timedelta(days=1)
    assert check_inputs(day, REFERENCE, NOW).label_coverage is None


def test_only_the_last_day_is_checked() -> None:
    before = served(until=NOW - PERIOD)
    before[COLUMNS] *= 60
    before.loc[1:, "label"] = pd.NA
    found = check_inputs(pd.concat([before, served()]), REFERENCE, NOW)
    assert max(found.scale.values()) < 2 and found.label_coverage == 1


def test_a_day_with_few_predictions_is_not_checked() -> None:
    found = check_inputs(served(MIN_PREDICTIONS), REFERENCE, NOW)
    assert (found.missing, found.scale, found.label_coverage) == ({}, {}, None)
