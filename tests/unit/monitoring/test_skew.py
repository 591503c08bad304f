"""Skew on three rows: equal values pass, one differing bit is counted, no prediction is skipped."""

import numpy as np
import pandas as pd
import pytest

from monitoring.skew import Skew, skew
from ontime.features.spec import FeatureSpec

SPEC = FeatureSpec(numeric=("a", "b"), categorical=("kind",))
TIMES = pd.to_datetime(["2020-05-01 10:00Z", "2020-05-01 11:00Z", "2020-05-01 11:00Z"])


@pytest.fixture
def offline() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "instance_id": ["x", "y", "z"],
            "event_timestamp": TIMES,
            "kind": ["one", "one", "two"],
            "a": np.array([0.1, np.nan, 3.0], dtype="float32"),
            "b": np.array([-4.0, 0.0, 12.5], dtype="float32"),
        }
    )


@pytest.fixture
def served(offline: pd.DataFrame) -> pd.DataFrame:
    return offline.rename(columns={"event_timestamp": "as_of"})


def test_equal_features_have_no_skew(served: pd.DataFrame, offline: pd.DataFrame) -> None:
    assert skew(served, offline, SPEC) == Skew(predictions=3, checked=6, mismatched={})


def test_rows_are_matched_by_instance_and_time_and_not_by_position(
    served: pd.DataFrame, offline: pd.DataFrame
) -> None:
    assert skew(served.iloc[[2, 0]], offline, SPEC) == Skew(2, 4, {})


def test_the_smallest_difference_is_counted(served: pd.DataFrame, offline: pd.DataFrame) -> None:
    served.loc[2, "a"] = np.nextafter(np.float32(3.0), np.float32(4.0))
    served.loc[[0, 1], "b"] += 1
    assert skew(served, offline, SPEC).mismatched == {"a": 1, "b": 2}


@pytest.mark.parametrize(("row", "value"), [(0, np.nan), (1, 0.0)])
def test_missing_on_one_side_only_is_a_difference(
    served: pd.DataFrame, offline: pd.DataFrame, row: int, value: float
) -> None:
    served.loc[row, "a"] = np.float32(value)
    assert skew(served, offline, SPEC).mismatched == {"a": 1}


def test_a_float32_value_logged_as_float64_is_equal(
    served: pd.DataFrame, offline: pd.DataFrame
) -> None:
    assert skew(served.astype({"a": "float64"}), offline, SPEC).mismatched == {}


def test_a_prediction_at_another_time_is_an_error(
    served: pd.DataFrame, offline: pd.DataFrame
) -> None:
    served.loc[1, "as_of"] += pd.Timedelta(minutes=1)
    with pytest.raises(ValueError, match=r"1 have none, e.g. y at 2020-05-01 11:01"):
        skew(served, offline, SPEC)


def test_an_instance_without_an_offline_row_is_an_error(
    served: pd.DataFrame, offline: pd.DataFrame
) -> None:
    with pytest.raises(ValueError, match="every prediction must have an offline row"):
        skew(served, offline[offline.instance_id != "z"], SPEC)


def test_no_predictions_have_no_skew(served: pd.DataFrame, offline: pd.DataFrame) -> None:
    assert skew(served.iloc[:0], offline, SPEC) == Skew(0, 0, {})
