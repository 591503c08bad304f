"""The compact online store: what Feast requires of an online store, and what arrays add to it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float32, Float64

from ontime.data.timestamps import parse_utc
from ontime.features.compact_store import ArrayResponse
from ontime.features.feast_config import open_feature_store
from ontime.settings import Settings

NOON = parse_utc("2001-05-01T12:00:00Z")
KEYS = [Entity(name="place", join_keys=["place"], value_type=ValueType.STRING),
        Entity(name="number", join_keys=["number"], value_type=ValueType.INT32)]  # fmt: skip


def view(name: str, columns: tuple[str, ...], dtype: Any = Float64) -> FeatureView:
    source = FileSource(name=f"{name}_rows", path="/x.parquet", timestamp_field="event_timestamp")
    schema = [Field(name=column, dtype=dtype) for column in columns]
    return FeatureView(name=name, entities=KEYS, ttl=timedelta(1), schema=schema, source=source)


def rows(value: float, after_s: float = 0, place: str = "a", **columns: float) -> pd.DataFrame:
    stamp = pd.Timestamp(NOON + timedelta(seconds=after_s))
    row = {"place": place, "number": 1, "load": value, "wait": value / 2, "event_timestamp": stamp}
    return pd.DataFrame([row | columns]).astype({"number": "int32"})


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = open_feature_store(Settings(data_dir=tmp_path))
    apply(store, view("traffic", ("load", "wait")))
    return store


def apply(store: FeatureStore, *views: FeatureView) -> None:
    store.apply([*KEYS, *views, FeatureService(name="service", features=[*views])])


def read(store: FeatureStore, *places: str, name: str = "traffic") -> np.ndarray:
    keys: dict[str, list[Any]] = {"place": [*places], "number": [1] * len(places)}
    response = store.get_online_features(store.get_feature_service("service"), keys)
    assert isinstance(response, ArrayResponse)
    return response.rows[name]


def test_rows_come_back_as_arrays_in_the_order_of_the_request(store: FeatureStore) -> None:
    store.write_to_online_store("traffic", df=pd.concat([rows(1.0), rows(3.0, place="b")]))

    found = read(store, "b", "unknown", "a", "b")

    event_us = NOON.timestamp() * 1e6
    nan = np.nan
    expected = [[event_us, 3, 1.5], [nan, nan, nan], [event_us, 1, 0.5], [event_us, 3, 1.5]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [0.1, -0.0, 1e300, 16_777_217.0, 1 / 3])
def test_a_value_comes_back_bit_for_bit(store: FeatureStore, value: float) -> None:
    store.write_to_online_store("traffic", df=rows(value, after_s=0.000001))

    event_us, load, _ = read(store, "a")[0]

    assert np.float64(load).tobytes() == np.float64(value).tobytes()
    assert event_us == NOON.timestamp() * 1e6 + 1


def test_the_newest_row_is_kept_whatever_the_order_of_writes(store: FeatureStore) -> None:
    store.write_to_online_store("traffic", df=pd.concat([rows(2.0, 60), rows(1.0), rows(0.5, 30)]))
    assert read(store, "a")[0, 1] == 2
    store.write_to_online_store("traffic", df=rows(9.0, 59))
    assert read(store, "a")[0, 1] == 2
    store.write_to_online_store("traffic", df=rows(3.0, 60))  # a correction
    assert read(store, "a")[0, 1] == 3


def test_keys_that_look_alike_are_different_rows(store: FeatureStore) -> None:
    places = ["a", 'a",1', "a:b", "ä", ""]
    written = [rows(float(i), place=place) for i, place in enumerate(places)]
    store.write_to_online_store("traffic", df=pd.concat(written))
    assert read(store, *places)[:, 1].tolist() == [0, 1, 2, 3, 4]


def test_rows_of_another_schema_are_not_read(store: FeatureStore, tmp_path: Path) -> None:
    store.write_to_online_store("traffic", df=rows(1.0))
    later = open_feature_store(Settings(data_dir=tmp_path))
    apply(later, view("traffic", ("load", "queue")))

    assert np.isnan(read(later, "a")).all()
    later.write_to_online_store("traffic", df=rows(4.0, queue=7.0))
    assert read(later, "a")[0, 1:].tolist() == [4, 7]


def test_a_deleted_view_is_empty_and_others_stay(store: FeatureStore) -> None:
    both = [view("traffic", ("load", "wait")), view("traffic_now", ("load", "wait"))]
    store.apply([*both])
    for each in both:
        store.write_to_online_store(each.name, df=rows(1.0))
    store.apply([], objects_to_delete=[both[0]], partial=False)
    apply(store, *both)

    assert np.isnan(read(store, "a")).all()
    assert read(store, "a", name="traffic_now")[0, 1] == 1


def test_feature_references_and_dictionaries_work_as_feast_documents(store: FeatureStore) -> None:
    store.write_to_online_store("traffic", df=rows(1.0, wait=np.nan))
    rows_of: list[dict[str, Any]] = [{"place": "a", "number": 1}, {"place": "b", "number": 1}]
    by_name = store.get_online_features(["traffic:wait", "traffic:load"], rows_of)
    assert by_name.to_dict()["load"] == [1.0, None]
    assert by_name.to_dict()["wait"] == [None, None]

    keys: dict[str, list[Any]] = {"place": ["a", "b"], "number": [1, 1]}
    service = store.get_feature_service("service")
    found = store.get_online_features(service, keys).to_dict(include_event_timestamps=True)
    seconds = int(NOON.timestamp())
    assert found == {
        "load": [1.0, None], "load__ts": [seconds, 0],
        "wait": [None, None], "wait__ts": [seconds, 0],
    }  # fmt: skip


def test_float32_columns_are_stored_exactly(tmp_path: Path) -> None:
    store = open_feature_store(Settings(data_dir=tmp_path))
    apply(store, view("traffic", ("load", "wait"), Float32))
    store.write_to_online_store("traffic", df=rows(0.1).astype({"load": "float32"}))
    assert read(store, "a")[0, 1] == np.float64(np.float32(0.1))


def test_importing_feast_rewrites_none_of_its_methods() -> None:
    names = FeatureView.__init__.__code__.co_names
    assert names and not any(name.startswith("typeguard") for name in names)
