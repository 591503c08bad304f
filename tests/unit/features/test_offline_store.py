"""The ASOF join against an oracle in plain Python, and against Feast's own DuckDB store.

The oracle is a dictionary of rows: the newest one at or before the moment, unless it is older than
the TTL. There are few moments, so that equal ones, both ends of the TTL and doubled entity rows are
common.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Float32
from hypothesis import given, settings
from hypothesis import strategies as st

from ontime.features.feast_config import FEATURE_SERVICE, open_feature_store
from ontime.features.offline_store import asof_sql
from ontime.problem import ENTITY_KEYS, VIEWS
from ontime.settings import Settings
from tests.conftest import Dataset

START = datetime(2024, 5, 1, tzinfo=UTC)
TTL_S = 5
FEATURES = ["by_machine:speed", "by_pair:height"]

# Rows of a view: (machine, site, second) -> value. Entity rows: (machine, site, second).
Row = tuple[str | None, str | None, int]
Stored = dict[Row, float | None]


def stamps(seconds: Sequence[float]) -> pd.Series:
    moments = pd.Series([START + timedelta(seconds=second) for second in seconds], dtype="object")
    return pd.to_datetime(moments, utc=True).astype("datetime64[us, UTC]")


def entities(rows: Sequence[Row]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": range(len(rows)),
            # Typed as text, because a column of None alone has no type.
            "machine": pd.Series([machine for machine, _, _ in rows], dtype="string"),
            "site": pd.Series([site for _, site, _ in rows], dtype="string"),
            "event_timestamp": stamps([second for _, _, second in rows]),
        }
    )


class SmallStore:
    """Two views in files that each case rewrites: by machine (TTL 5 s), by machine and site."""

    def __init__(self, folder: Path, engine: Literal["duckdb", "spark"] = "duckdb") -> None:
        self.folder = folder
        self.write({}, {})
        self.feast = open_feature_store(Settings(data_dir=folder / "data", engine=engine))
        machine, site = (
            Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
            for key in ("machine", "site")
        )
        self.by_machine = self.view("by_machine", [machine], "speed", timedelta(seconds=TTL_S))
        self.by_pair = self.view("by_pair", [machine, site], "height", timedelta(0))  # no TTL
        self.feast.apply([machine, site, self.by_machine, self.by_pair])

    def view(self, name: str, entities: list[Entity], value: str, ttl: timedelta) -> FeatureView:
        path = str(self.folder / f"{name}.parquet")
        source = FileSource(name=f"{name}_rows", path=path, timestamp_field="event_timestamp")
        field = Field(name=value, dtype=Float32)
        return FeatureView(name=name, entities=entities, ttl=ttl, schema=[field], source=source)

    def write(self, by_machine: Stored, by_pair: Stored) -> None:
        for name, value, rows in (
            ("by_machine", "speed", by_machine),
            ("by_pair", "height", by_pair),
        ):
            values = pd.Series(list(rows.values()), dtype="float32")
            frame = entities(list(rows)).drop(columns="row").assign(**{value: values})
            frame.to_parquet(self.folder / f"{name}.parquet")

    def join(self, entity_df: pd.DataFrame) -> pd.DataFrame:
        return self.feast.get_historical_features(entity_df, FEATURES).to_df()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return SmallStore(tmp_path_factory.mktemp("offline"))


def newest(rows: Stored, row: Row, keys: int, ttl_s: float) -> float:
    """The oracle; missing is NaN."""
    key, second = row[:keys], row[2]
    candidates = {
        at: value
        for (*stored, at), value in rows.items()
        if tuple(stored[:keys]) == key and None not in key and second - ttl_s <= at <= second
    }
    value = candidates[max(candidates)] if candidates else None
    return float("nan") if value is None else value


def stored(keys: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[Stored]:
    rows = st.tuples(keys, st.integers(0, 15)).map(lambda row: (*row[0], row[1]))
    values = st.none() | st.integers(0, 999).map(float)
    return st.dictionaries(rows, values, max_size=12)


MACHINES, SITES = ["m1", "m2"], ["s1", "s2"]
BY_MACHINE = stored(st.tuples(st.sampled_from(MACHINES), st.just("s1")))
BY_PAIR = stored(st.tuples(st.sampled_from(MACHINES), st.sampled_from(SITES)))
ENTITIES = st.lists(
    st.tuples(
        st.sampled_from([*MACHINES, "unknown", None]),
        st.sampled_from([*SITES, "unknown", None]),
        st.integers(0, 25),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(by_machine=BY_MACHINE, by_pair=BY_PAIR, rows=ENTITIES)
def test_every_row_joins_as_the_oracle_does(
    small: SmallStore, by_machine: Stored, by_pair: Stored, rows: list[Row]
) -> None:
    small.write(by_machine, by_pair)
    joined = small.join(entities(rows))
    assert joined.row.tolist() == list(range(len(rows)))
    np.testing.assert_array_equal(
        joined.speed, [newest(by_machine, row, keys=1, ttl_s=TTL_S) for row in rows]
    )
    np.testing.assert_array_equal(
        joined.height, [newest(by_pair, row, keys=2, ttl_s=float("inf")) for row in rows]
    )


@pytest.mark.parametrize(
    ("second", "speed"),
    [
        (9.0, None),  # before the first row
        (9.999999, None),
        (10.0, 7.0),  # a row with the same timestamp counts
        (14.0, 7.0),
        (15.0, 7.0),  # exactly as old as the TTL
        (15.000001, None),
        (16.0, None),  # the only row of the key is too old
    ],
)
def test_a_row_counts_from_its_moment_to_the_end_of_its_ttl(
    small: SmallStore, second: float, speed: float | None
) -> None:
    small.write({("m1", "s1", 10): 7.0}, {})
    entity = entities([("m1", "s1", 0)]).assign(event_timestamp=stamps([second]))
    found = small.join(entity).speed
    np.testing.assert_array_equal(found, np.array([speed], dtype="float32"))


def test_a_newer_row_without_a_value_hides_the_older_one(small: SmallStore) -> None:
    small.write({("m1", "s1", 10): 7.0, ("m1", "s1", 12): None}, {})
    assert small.join(entities([("m1", "s1", 11), ("m1", "s1", 13)])).speed.isna().tolist() == [
        False,
        True,
    ]


def test_two_entity_rows_with_the_same_key_and_moment_both_come_back(small: SmallStore) -> None:
    small.write({("m1", "s1", 10): 7.0}, {("m1", "s1", 10): 3.0})
    joined = small.join(entities([("m1", "s1", 11)] * 3))
    assert joined.row.tolist() == [0, 1, 2]
    assert joined.speed.tolist() == [7.0] * 3 and joined.height.tolist() == [3.0] * 3


def test_a_moment_in_another_zone_is_the_same_moment(small: SmallStore) -> None:
    small.write({("m1", "s1", 10): 7.0}, {})
    entity = entities([("m1", "s1", 10), ("m1", "s1", 9)])
    local = entity.event_timestamp.dt.tz_convert("Asia/Tokyo")
    assert small.join(entity.assign(event_timestamp=local)).speed.isna().tolist() == [False, True]


def test_other_columns_of_the_entity_rows_are_kept(small: SmallStore) -> None:
    small.write({("m1", "s1", 10): 7.0}, {})
    entity = entities([("m1", "s1", 11), ("m2", "s2", 11)])
    joined = small.join(entity.assign(label=[True, False]))
    assert joined.columns.tolist() == [*entity.columns, "label", "speed", "height"]
    pd.testing.assert_frame_equal(joined[entity.columns], entity, check_dtype=False)
    assert joined.label.tolist() == [True, False]


def entity_rows(dataset: Dataset) -> pd.DataFrame:
    requests = dataset.requests[dataset.requests.eligible]
    return requests[["instance_id", "event_timestamp", *ENTITY_KEYS]]


def test_only_the_requested_features_come_back_in_their_order(dataset: Dataset) -> None:
    view = next(view for view in VIEWS if len(view.inputs) > 1)
    names = [view.inputs[-1], view.inputs[0]]
    rows = entity_rows(dataset).head(5)
    refs = [f"{view.name}:{name}" for name in names]
    joined = dataset.store.get_historical_features(rows, refs).to_df()
    assert joined.columns.tolist() == [*rows.columns, *names]


def test_many_rows_come_back_in_their_order(dataset: Dataset) -> None:
    """More rows than one DuckDB thread processes at once, not sorted by time."""
    many = entity_rows(dataset).sample(250_000, replace=True, random_state=0, ignore_index=True)
    names = [view.inputs[0] for view in VIEWS[:2]]
    refs = [f"{view.name}:{view.inputs[0]}" for view in VIEWS[:2]]
    joined = dataset.store.get_historical_features(many, refs).to_df()
    pd.testing.assert_frame_equal(joined[many.columns], many)
    # Equal rows have equal features, wherever they are.
    assert joined.groupby("instance_id")[names].nunique(dropna=False).max().tolist() == [1, 1]


def test_the_join_equals_feasts_own_in_every_cell(dataset: Dataset) -> None:
    rows = entity_rows(dataset).sample(2_000, random_state=0)
    ours, theirs = (
        store.get_historical_features(rows, store.get_feature_service(FEATURE_SERVICE))
        .to_df()
        .sort_values("instance_id", ignore_index=True)
        for store in (dataset.store, feasts_own(dataset.settings))
    )
    assert len(ours) == len(theirs) == len(rows)
    names = [name for view in VIEWS for name in view.columns]
    different = {
        name: int((ours[name].ne(theirs[name]) & ~(ours[name].isna() & theirs[name].isna())).sum())
        for name in names
    }
    assert {name: n for name, n in different.items() if n} == {}
    assert ours[names].notna().mean().min() > 0.2


def feasts_own(settings: Settings) -> FeatureStore:
    """The same definitions and rows, joined by the DuckDB store as Feast ships it."""
    home = settings.data_dir / "feast"
    config = RepoConfig(
        project="ontime",
        provider="local",
        registry={"registry_type": "file", "path": str(home / "registry.db")},
        online_store={"type": "sqlite", "path": str(home / "online.db")},
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


@pytest.mark.parametrize(
    "option",
    [
        {"entity_df": "SELECT 1"},
        {"full_feature_names": True},
        {"filter_by_created_timestamp": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_unsupported_option_is_an_error(small: SmallStore, option: dict[str, Any]) -> None:
    request = {"entity_df": entities([("m1", "s1", 11)]), "features": FEATURES} | option
    with pytest.raises(ValueError, match=r"the ASOF join takes (short|entity rows as a DataFrame)"):
        small.feast.get_historical_features(**request)


def test_a_view_with_a_created_timestamp_is_an_error(small: SmallStore) -> None:
    source = FileSource(
        path=str(small.folder / "by_machine.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    view = FeatureView(name="corrected", entities=[], schema=[], source=source)
    with pytest.raises(ValueError, match=r"view corrected: .* without a created time"):
        asof_sql(view, ["speed"], "event_timestamp")


def test_a_saved_dataset_is_the_join_and_is_not_overwritten_by_accident(
    small: SmallStore, tmp_path: Path
) -> None:
    small.write({("m1", "s1", 10): 7.0}, {})
    job = small.feast.get_historical_features(entities([("m1", "s1", 11)]), FEATURES)
    storage = SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet"))
    job.persist(storage)
    assert pd.read_parquet(tmp_path / "saved.parquet").speed.tolist() == [7.0]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    job.persist(storage, allow_overwrite=True)
