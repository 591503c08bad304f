"""Examples: every eligible request once, with its features."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest

from ontime.features import historical
from ontime.features.historical import (
    REQUEST_FIELDS,
    RowCountMismatch,
    build_examples,
    check_views,
    load_requests,
)
from ontime.features.spec import EmptyView, View
from ontime.problem import (
    ENTITY_KEYS,
    FEATURE_SPEC,
    VIEWS,
    Instance,
    Outcome,
    outcome_of,
    request_of,
)
from tests.conftest import Dataset


def test_examples_are_the_eligible_requests_in_order_of_prediction(
    dataset: Dataset, examples: pd.DataFrame
) -> None:
    eligible = dataset.requests[dataset.requests.eligible]
    expected = eligible.sort_values(["event_timestamp", "instance_id"], ignore_index=True)
    columns = ["instance_id", "event_timestamp", *REQUEST_FIELDS, "label"]
    columns += ["outcome_known_at", "due_at"]
    pd.testing.assert_frame_equal(examples[columns], expected[columns])
    assert set(examples) == {*columns, *ENTITY_KEYS, *FEATURE_SPEC.numeric}


def test_every_feature_is_float32_and_varies(examples: pd.DataFrame) -> None:
    features = examples[list(FEATURE_SPEC.numeric)]
    assert set(features.dtypes.astype(str)) == {"float32"}
    known = features.notna().mean()
    assert known[list(FEATURE_SPEC.tabular)].min() > 0.5, known.nsmallest(3)
    assert known.min() > 0.2, known.nsmallest(3)  # the outcome of the newest event is seldom known
    assert (features.nunique() > 1).all()


def test_every_outcome_is_known_after_the_prediction(examples: pd.DataFrame) -> None:
    assert (examples.outcome_known_at > examples.event_timestamp).all()


def test_requests_are_loaded_from_the_written_tables(dataset: Dataset) -> None:
    pd.testing.assert_frame_equal(load_requests(dataset.settings), dataset.requests)


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


def eligible(dataset: Dataset, n: int) -> pd.DataFrame:
    return dataset.requests[dataset.requests.eligible].head(n)


def without_the_first(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[1:]


def with_the_first_twice(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows, rows.iloc[[0]]])


def with_the_first_instead_of_the_second(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows.iloc[[0]], rows.iloc[[0]], rows.iloc[2:]])


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (without_the_first, "50 in, 49 out, 49 different"),
        (with_the_first_twice, "50 in, 51 out, 50 different"),
        (with_the_first_instead_of_the_second, "50 in, 50 out, 49 different"),
    ],
)
def test_a_row_that_the_join_drops_or_doubles_is_an_error(
    dataset: Dataset, change: Any, counts: str
) -> None:
    store: Any = LossyStore(dataset.store, change)
    with pytest.raises(RowCountMismatch, match=counts):
        build_examples(store, eligible(dataset, 50))


def test_the_order_of_the_joined_rows_does_not_matter(dataset: Dataset) -> None:
    shuffled: Any = LossyStore(dataset.store, lambda rows: rows.sample(frac=1, random_state=0))
    requests = eligible(dataset, 200)
    pd.testing.assert_frame_equal(
        build_examples(shuffled, requests), build_examples(dataset.store, requests)
    )


def test_the_examples_of_some_requests_are_those_of_all(
    dataset: Dataset, examples: pd.DataFrame
) -> None:
    some = dataset.requests.sample(500, random_state=0)
    built = build_examples(dataset.store, some)
    expected = examples[examples.instance_id.isin(some.instance_id)].reset_index(drop=True)
    pd.testing.assert_frame_equal(built, expected, check_exact=True)
    assert np.isin(some.instance_id[some.eligible], built.instance_id).all()


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_that_matches_no_example_is_refused_unless_it_is_optional(
    examples: pd.DataFrame, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with rows of another year, or keys of another form: every value is missing."""
    monkeypatch.setattr(historical, "VIEWS", [replace(each, optional=False) for each in VIEWS])
    check_views(examples)
    unmatched = examples.assign(**dict.fromkeys(FEATURE_SPEC.groups[view.name], np.nan))

    with pytest.raises(EmptyView, match=f"{view.name} has none in {len(examples):,} examples"):
        check_views(unmatched)

    views = [replace(each, optional=each is view) for each in VIEWS]
    monkeypatch.setattr(historical, "VIEWS", views)
    check_views(unmatched)


def test_every_id_of_the_table_is_the_id_that_the_api_computes(dataset: Dataset) -> None:
    """A problem computes it twice, for tables and for requests: they must not differ in a zone."""
    rows = dataset.requests.to_dict("records")
    computed = [Outcome.model_validate(outcome_of(row)).instance_id for row in rows]
    assert computed == [row["instance_id"] for row in rows]
    eligible = [row for row in rows if row["eligible"]]
    computed = [Instance.model_validate(request_of(row)).instance_id for row in eligible]
    assert computed == [row["instance_id"] for row in eligible]
