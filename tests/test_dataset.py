"""Training examples: which flights are asked about, that none is lost, and where the splits lie."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow
import pytest

from ontime.dataset import (
    ENTITY_COLUMNS,
    RowsLost,
    Split,
    askable,
    build_examples,
    split_by_time,
)
from ontime.features import FEATURE_SPEC

if TYPE_CHECKING:
    from tests.conftest import World

AS_OF = datetime(2013, 2, 20, tzinfo=UTC)
TWO_WEEKS = timedelta(days=14)


def split_in_two_weeks(examples: pd.DataFrame) -> Split:
    return split_by_time(examples, AS_OF, valid=TWO_WEEKS, judge=TWO_WEEKS)


def test_flights_without_a_tail_number_are_left_out(world: "World") -> None:
    flights = world.tables["flights"]
    without = flights.flight_id[flights.tailnum.isna()]
    asked = askable(flights)
    assert len(without) > 300
    assert len(asked) + len(without) == len(flights)
    assert not asked.flight_id.isin(without).any()


def test_cancelled_flights_with_a_tail_number_stay_and_are_late(world: "World") -> None:
    asked = askable(world.tables["flights"])
    cancelled = asked[asked.status == "cancelled"]
    assert len(cancelled) > 300
    assert cancelled.is_late.all()


def test_examples_are_the_askable_flights_in_order_of_asking(
    world: "World", examples: pd.DataFrame
) -> None:
    asked = askable(world.tables["flights"])
    assert len(examples) == len(asked)
    expected = asked.sort_values(["event_timestamp", "flight_id"], ignore_index=True)
    pd.testing.assert_frame_equal(examples[ENTITY_COLUMNS], expected[ENTITY_COLUMNS])


def test_every_feature_is_there_in_32_bits_and_none_is_missing_everywhere(
    examples: pd.DataFrame,
) -> None:
    features = examples[list(FEATURE_SPEC.numeric)]
    assert set(features.dtypes.astype(str)) == {"float32"}
    known = features.notna().mean()
    assert known.min() > 0.7, known.nsmallest(3)
    assert (features.nunique() > 1).all()


def test_every_example_is_asked_about_before_it_leaves_and_known_afterwards(
    examples: pd.DataFrame,
) -> None:
    lead = examples.scheduled_departure - examples.event_timestamp
    assert lead.between(timedelta(hours=2), timedelta(hours=3), inclusive="left").all()
    assert (examples.outcome_known_at > examples.event_timestamp).all()


class LossyStore:
    """Feast's store with a join that changes the rows it returns."""

    def __init__(self, store: Any, change: Any) -> None:
        self.store, self.change = store, change

    def get_feature_service(self, name: str) -> Any:
        return self.store.get_feature_service(name)

    def get_historical_features(self, entity_df: pd.DataFrame, features: Any) -> Any:
        job = self.store.get_historical_features(entity_df=entity_df, features=features)
        changed = pyarrow.Table.from_pandas(self.change(job.to_df()), preserve_index=False)
        return SimpleNamespace(to_arrow=lambda: changed)


def without_the_first(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[1:]


def with_the_first_again(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows, rows.iloc[[0]]])


def with_the_first_in_place_of_the_second(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows.iloc[[0]], rows.iloc[[0]], rows.iloc[2:]])


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (without_the_first, "50 in, 49 out, 49 different"),
        (with_the_first_again, "50 in, 51 out, 50 different"),
        (with_the_first_in_place_of_the_second, "50 in, 50 out, 49 different"),
    ],
)
def test_a_row_that_the_join_loses_or_doubles_stops_everything(
    world: "World", change: Any, counts: str
) -> None:
    store: Any = LossyStore(world.store, change)
    with pytest.raises(RowsLost, match=counts):
        build_examples(store, world.tables["flights"].head(50))


def test_the_order_in_which_the_join_answers_does_not_matter(world: "World") -> None:
    shuffled: Any = LossyStore(world.store, lambda rows: rows.sample(frac=1, random_state=0))
    flights = world.tables["flights"].head(200)
    pd.testing.assert_frame_equal(
        build_examples(shuffled, flights), build_examples(world.store, flights)
    )


# Splits.


def test_parts_do_not_overlap_and_come_one_after_the_other(examples: pd.DataFrame) -> None:
    split = split_in_two_weeks(examples)
    parts = [split.fit, split.valid, split.judge]
    assert not pd.concat(parts).flight_id.duplicated().any()
    for earlier, later in pairwise(parts):
        assert earlier.event_timestamp.max() < later.event_timestamp.min()
        # What was learned from was known when the next part begins.
        assert earlier.outcome_known_at.max() <= later.event_timestamp.min()


def test_every_outcome_of_a_part_was_known_at_its_end(examples: pd.DataFrame) -> None:
    split = split_in_two_weeks(examples)
    for part, end in ((split.judge, 0), (split.valid, 14), (split.fit, 28)):
        assert part.outcome_known_at.max() <= AS_OF - timedelta(days=end)
    assert split.judge.event_timestamp.min() >= pd.Timestamp(AS_OF - TWO_WEEKS)


def at(days: list[float], known_after_h: float) -> pd.DataFrame:
    """Examples asked about so many days before ``AS_OF``, known so many hours later."""
    asked = pd.Series([pd.Timestamp(AS_OF) - pd.Timedelta(days=day) for day in days])
    known = asked + pd.Timedelta(hours=known_after_h)
    return pd.DataFrame({"event_timestamp": asked, "outcome_known_at": known, "day": days})


def test_both_ends_of_a_part_are_where_they_are_said_to_be() -> None:
    # Known exactly six hours after asking: a quarter of a day.
    split = split_in_two_weeks(at([40, 28.25, 28.2, 28, 14.25, 14.2, 14, 0.25, 0.2], 6))
    assert split.fit.day.tolist() == [40, 28.25]
    assert split.valid.day.tolist() == [28, 14.25]
    assert split.judge.day.tolist() == [14, 0.25]


def test_a_flight_in_the_air_at_a_boundary_is_in_no_part() -> None:
    rows = at([40, 28.1, 20, 14.1, 7, 0.1], 6)
    split = split_in_two_weeks(rows)
    assert pd.concat(vars(split).values()).day.tolist() == [40, 20, 7]


def test_nothing_after_as_of_is_in_any_part(examples: pd.DataFrame) -> None:
    split = split_in_two_weeks(examples)
    cut = split_in_two_weeks(examples[examples.event_timestamp <= AS_OF])
    for name, part in vars(split).items():
        pd.testing.assert_frame_equal(part, vars(cut)[name])


@pytest.mark.parametrize(
    ("days", "empty"), [([20, 7], "fit"), ([40, 7], "valid"), ([40, 20], "judge")]
)
def test_an_empty_part_is_refused_with_what_to_choose(days: list[float], empty: str) -> None:
    with pytest.raises(ValueError, match=rf"no flights to {empty} on.*at least 42 days"):
        split_in_two_weeks(at(days, 6))


def test_the_order_of_rows_is_kept(examples: pd.DataFrame) -> None:
    shuffled = examples.sample(frac=1, random_state=0)
    fit = split_in_two_weeks(shuffled).fit
    assert np.array_equal(fit.index, shuffled.index[shuffled.index.isin(fit.index)])
