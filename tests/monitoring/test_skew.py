"""Skew by hand: what is equal passes, one differing bit is counted, nothing goes unchecked."""

import numpy as np
import pandas as pd
import pytest

from monitoring.skew import Skew, skew
from ontime.model import FeatureSpec

SPEC = FeatureSpec(numeric=("wind", "delay"), categorical=("carrier",))
MOMENTS = pd.to_datetime(["2013-05-01 10:00Z", "2013-05-01 11:00Z", "2013-05-01 11:00Z"])


@pytest.fixture
def offline() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "flight_id": ["a", "b", "c"],
            "event_timestamp": MOMENTS,
            "carrier": ["UA", "UA", "DL"],
            "wind": np.array([0.1, np.nan, 3.0], dtype="float32"),
            "delay": np.array([-4.0, 0.0, 12.5], dtype="float32"),
        }
    )


@pytest.fixture
def served(offline: pd.DataFrame) -> pd.DataFrame:
    return offline.rename(columns={"event_timestamp": "as_of"})


def test_equal_features_show_no_skew(served: pd.DataFrame, offline: pd.DataFrame) -> None:
    assert skew(served, offline, SPEC) == Skew(predictions=3, checked=6, mismatched={})


def test_rows_are_matched_by_flight_and_moment_and_not_by_position(
    served: pd.DataFrame, offline: pd.DataFrame
) -> None:
    assert skew(served.iloc[[2, 0]], offline, SPEC) == Skew(2, 4, {})


def test_the_smallest_difference_is_counted(served: pd.DataFrame, offline: pd.DataFrame) -> None:
    served.loc[2, "wind"] = np.nextafter(np.float32(3.0), np.float32(4.0))
    served.loc[[0, 1], "delay"] += 1
    assert skew(served, offline, SPEC).mismatched == {"wind": 1, "delay": 2}


@pytest.mark.parametrize(("row", "value"), [(0, np.nan), (1, 0.0)])
def test_missing_on_one_side_only_is_a_difference(
    served: pd.DataFrame, offline: pd.DataFrame, row: int, value: float
) -> None:
    served.loc[row, "wind"] = np.float32(value)
    assert skew(served, offline, SPEC).mismatched == {"wind": 1}


def test_a_value_that_was_logged_in_64_bits_is_the_same_value(
    served: pd.DataFrame, offline: pd.DataFrame
) -> None:
    assert skew(served.astype({"wind": "float64"}), offline, SPEC).mismatched == {}


def test_a_prediction_at_another_moment_is_not_passed_over(
    served: pd.DataFrame, offline: pd.DataFrame
) -> None:
    served.loc[1, "as_of"] += pd.Timedelta(minutes=1)
    with pytest.raises(ValueError, match=r"1 have none, e.g. b at 2013-05-01 11:01"):
        skew(served, offline, SPEC)


def test_a_flight_that_training_never_saw_is_not_passed_over(
    served: pd.DataFrame, offline: pd.DataFrame
) -> None:
    with pytest.raises(ValueError, match="every prediction has an offline row"):
        skew(served, offline[offline.flight_id != "c"], SPEC)


def test_no_predictions_are_no_skew(served: pd.DataFrame, offline: pd.DataFrame) -> None:
    assert skew(served.iloc[:0], offline, SPEC) == Skew(0, 0, {})
