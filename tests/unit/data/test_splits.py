"""Splits by time: parts do not overlap, and every outcome was known in time."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pandas as pd
import pytest

from ontime.data.splits import Split, split_by_time, split_without_test
from tests.conftest import Dataset

AS_OF = datetime(2024, 2, 20, tzinfo=UTC)
TWO_WEEKS = timedelta(days=14)


def split_in_two_weeks(examples: pd.DataFrame, as_of: datetime = AS_OF) -> Split:
    return split_by_time(examples, as_of, validation=TWO_WEEKS, test=TWO_WEEKS)


@pytest.fixture(scope="module")
def as_of(dataset: Dataset) -> datetime:
    """Six days before the end of the dataset."""
    return dataset.until - timedelta(days=6)


def test_parts_do_not_overlap_and_follow_each_other(
    examples: pd.DataFrame, as_of: datetime
) -> None:
    split = split_in_two_weeks(examples, as_of)
    parts = [split.train, split.validation, split.test]
    assert not pd.concat(parts).instance_id.duplicated().any()
    for earlier, later in pairwise(parts):
        assert earlier.event_timestamp.max() < later.event_timestamp.min()
        # Every training label was known when the next part begins.
        assert earlier.outcome_known_at.max() <= later.event_timestamp.min()


def test_every_outcome_of_a_part_was_known_at_its_end(
    examples: pd.DataFrame, as_of: datetime
) -> None:
    split = split_in_two_weeks(examples, as_of)
    for part, days in ((split.test, 0), (split.validation, 14), (split.train, 28)):
        assert part.outcome_known_at.max() <= as_of - timedelta(days=days)
    assert split.test.event_timestamp.min() >= pd.Timestamp(as_of - TWO_WEEKS)


def at(days: list[float], known_after_h: float) -> pd.DataFrame:
    """Examples predicted so many days before ``AS_OF``, with outcomes known so many hours later."""
    predicted = pd.Series([pd.Timestamp(AS_OF) - pd.Timedelta(days=day) for day in days])
    known = predicted + pd.Timedelta(hours=known_after_h)
    times = {"event_timestamp": predicted, "outcome_known_at": known, "due_at": known}
    return pd.DataFrame(times | {"day": days})


def test_parts_include_their_start_and_outcomes_known_at_their_end() -> None:
    # Outcomes known exactly six hours later: a quarter of a day.
    split = split_in_two_weeks(at([40, 28.25, 28.2, 28, 14.25, 14.2, 14, 0.25, 0.2], 6))
    assert split.train.day.tolist() == [40, 28.25]
    assert split.validation.day.tolist() == [28, 14.25]
    assert split.test.day.tolist() == [14, 0.25]


def test_a_row_whose_outcome_is_open_at_a_boundary_is_in_no_part() -> None:
    split = split_in_two_weeks(at([40, 28.1, 20, 14.1, 7, 0.1], 6))
    assert pd.concat(split.parts.values()).day.tolist() == [40, 20, 7]


def test_a_test_row_is_due_and_not_only_known() -> None:
    rows = at([40, 20, 7, 0.5], 6)
    rows["due_at"] = rows.event_timestamp + pd.Timedelta(hours=13)
    assert split_in_two_weeks(rows).test.day.tolist() == [7]


def test_without_a_test_period_every_known_outcome_is_trained_on() -> None:
    split = split_without_test(at([40, 14, 10, 0.25, 0.2], 6), AS_OF, validation=TWO_WEEKS)
    assert split.train_and_validation.day.tolist() == [40, 14, 10, 0.25]
    assert split.validation.day.tolist() == [14, 10, 0.25]
    assert split.test.empty
    with pytest.raises(ValueError, match="train later"):
        split_without_test(at([7, 3], 6), AS_OF, validation=TWO_WEEKS)
    with pytest.raises(ValueError, match="sorted by event_timestamp"):
        split_without_test(at([14, 40], 6), AS_OF, validation=TWO_WEEKS)


def test_rows_after_as_of_change_no_part(examples: pd.DataFrame, as_of: datetime) -> None:
    split = split_in_two_weeks(examples, as_of)
    cut = split_in_two_weeks(examples[examples.event_timestamp <= as_of], as_of)
    for name, part in split.parts.items():
        pd.testing.assert_frame_equal(part, cut.parts[name])


def test_train_and_validation_are_the_rows_before_the_test_period() -> None:
    split = split_in_two_weeks(at([40, 20, 7], 6))
    assert split.train_and_validation.day.tolist() == [40, 20]


@pytest.mark.parametrize(
    ("days", "empty"), [([20, 7], "train"), ([40, 7], "validation"), ([40, 20], "test")]
)
def test_an_empty_part_is_an_error_with_rule_and_dates(days: list[float], empty: str) -> None:
    rule = rf"rows in every part; {empty} has none.*split is at 2024-02-06"
    with pytest.raises(ValueError, match=rule):
        split_in_two_weeks(at(days, 6))


def test_the_order_of_rows_is_kept(examples: pd.DataFrame, as_of: datetime) -> None:
    shuffled = examples.sample(frac=1, random_state=0)
    train = split_in_two_weeks(shuffled, as_of).train
    of_train = shuffled[shuffled.instance_id.isin(train.instance_id)]
    assert train.instance_id.tolist() == of_train.instance_id.tolist()
