"""Feast's configuration, and the online read: values that are missing, stale, or from later."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore, FeatureView, RepoConfig
from feast.repo_config import load_repo_config
from feast.repo_operations import parse_repo

from feature_repo.definitions import ENTITIES, definitions
from ontime.data.timestamps import column_arrays, parse_utc
from ontime.errors import OnlineStoreUnavailable
from ontime.features.compact_store import ArrayResponse
from ontime.features.feast_config import FEATURE_SERVICE, open_feature_store, repo_config
from ontime.features.online_store import OnlineFeatures, OnlineRead
from ontime.features.spec import View
from ontime.problem import (
    ENTITY_KEYS,
    EXAMPLE_AS_OF,
    EXAMPLE_INSTANCE,
    FEATURE_SPEC,
    VIEWS,
    Instance,
    entity_key_columns,
)
from ontime.settings import ROOT, Settings
from tests.conftest import Dataset, read_online, write_online

REPO = ROOT / "feature_repo"
AS_OF = parse_utc(EXAMPLE_AS_OF)
BY_NAME = {view.name: view for view in VIEWS}
FEATURES = {name for view in VIEWS for name in FEATURE_SPEC.groups[view.name]}  # also computed ones
# As a read names them: a sequence has one name.
STORED = {
    name
    for view in VIEWS
    for name in ([view.name] if view.events else FEATURE_SPEC.groups[view.name])
}
WIDE = next(view for view in VIEWS if len(view.inputs) > 1)

each_view = pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)


# Configuration.


def fields(config: RepoConfig) -> dict[str, Any]:
    """Every field as Feast reads it, with the two paths resolved as Feast resolves them."""
    values = config.model_dump(exclude={"repo_path"})
    for name in ("registry", "online_store", "offline_store", "batch_engine"):
        part = getattr(config, name)
        values[name] = {"class": type(part)} | part.model_dump()
    folder = config.repo_path or Path("/")
    for name in ("registry", "registry_config", "online_store", "online_config"):
        values[name]["path"] = (folder / values[name]["path"]).resolve()
    return values


def test_the_file_for_feasts_command_line_has_the_defaults() -> None:
    written = load_repo_config(REPO, REPO / "feature_store.yaml")
    assert fields(written) == fields(repo_config(Settings(data_dir=ROOT / "var")))


def test_feasts_command_line_finds_every_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = parse_repo(REPO)
    objects: list[Any] = [*found.entities, *found.feature_views, *found.feature_services]
    names = {each.name for each in objects}
    assert names - {"__dummy"} == {each.name for each in definitions(ROOT)}
    assert {view.name for view in found.feature_views} == set(BY_NAME)


def test_each_external_service_has_its_own_setting(tmp_path: Path) -> None:
    config = repo_config(
        Settings(
            data_dir=tmp_path, redis_url="redis:6379", feast_registry_url="postgresql://registry"
        )
    )
    store = "ontime.features.redis_store.CompactRedisOnlineStore"
    assert config.online_config == {"type": store, "connection_string": "redis:6379"}
    assert isinstance(config.registry_config, dict)
    given = {"registry_type": "sql", "path": "postgresql://registry", "cache_ttl_seconds": 0}
    assert given.items() <= config.registry_config.items()


def test_feast_declares_the_columns_of_the_tables(dataset: Dataset) -> None:
    views = [d for d in definitions(dataset.settings.features_dir) if isinstance(d, FeatureView)]
    assert [view.name for view in views] == list(BY_NAME)
    for view in views:
        columns = dataset.rows(view.name).dtypes.astype(str)
        declared = {field.name: str(field.dtype).lower() for field in view.features}
        assert declared == {name: columns[name] for name in BY_NAME[view.name].columns}
        assert view.ttl == BY_NAME[view.name].ttl
        assert view.entities == list(BY_NAME[view.name].keys)
    assert set(ENTITIES) == set(ENTITY_KEYS)


# The read of hand-made rows.


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    settings = Settings(data_dir=tmp_path)
    store = open_feature_store(settings)
    store.apply(definitions(settings.features_dir))
    return store


@pytest.fixture
def read(store: FeatureStore) -> Callable[..., OnlineRead]:
    """Reads the features of the example instance at ``AS_OF`` plus a duration."""
    features = OnlineFeatures(store)

    def read(after: timedelta = timedelta(0)) -> OnlineRead:
        return read_online(features, example(), AS_OF + after)

    return read


def example() -> pd.DataFrame:
    return pd.DataFrame([Instance.model_validate(EXAMPLE_INSTANCE).model_dump()])


def keys_of(instance: pd.DataFrame) -> dict[str, Any]:
    keys = entity_key_columns(column_arrays(instance, Instance.model_fields))
    return {name: values[0] for name, values in keys.items()}


def row(
    view: View,
    value: float,
    after: timedelta = timedelta(0),
    instance: pd.DataFrame | None = None,
    changes: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """A feature row of an instance, the example by default, known at ``AS_OF`` plus a duration."""
    keys = keys_of(example() if instance is None else instance)
    values = {key: keys[key] for key in view.keys} | dict.fromkeys(view.columns, value)
    stamp = {"event_timestamp": pd.Timestamp(AS_OF + after)}
    frame = pd.DataFrame([values | stamp | (changes or {})])
    types = {name: column.dtype for name, column in view.table.columns.items()}
    return frame.astype({n: t for n, t in types.items() if t not in ("string", "timestamp")})


def group(view: View) -> set[str]:
    """The features of a view as a read names them, also those computed from its columns."""
    return {view.name} if view.events else set(FEATURE_SPEC.groups[view.name])


def only(names: list[list[str]]) -> set[str]:
    """The names of the one instance that was read, each of which is listed once."""
    (found,) = names
    assert len(set(found)) == len(found)
    return set(found)


def test_without_rows_every_stored_feature_is_missing(read: Callable[..., OnlineRead]) -> None:
    found = read()
    assert only(found.missing) == STORED
    assert found.stale == found.not_yet_known == [[]]
    assert found.age_seconds == {}
    assert found.frame[[*FEATURES]].isna().all(axis=None)
    # Features of the request alone are known.
    of_request = [
        name
        for group, names in FEATURE_SPEC.groups.items()
        for name in names
        if group not in BY_NAME
    ]
    assert found.frame[of_request].notna().all(axis=None)


def test_the_frame_has_the_request_and_every_feature_in_order(
    read: Callable[..., OnlineRead],
) -> None:
    assert list(read().frame) == [*Instance.model_fields, *FEATURE_SPEC.numeric]


def test_written_values_are_read_as_float32(
    store: FeatureStore, read: Callable[..., OnlineRead]
) -> None:
    for number, view in enumerate(VIEWS):
        write_online(store, view, row(view, 0.1 * number))
    found = read()
    assert found.missing == [[]] and found.stale == [[]]
    assert set(found.frame.dtypes[list(FEATURE_SPEC.numeric)].astype(str)) == {"float32"}
    for number, view in enumerate(VIEWS):
        assert (found.frame[list(view.inputs)] == np.float32(0.1 * number)).all(axis=None)


@pytest.mark.slow
def test_an_online_read_imports_nothing_that_the_serving_image_lacks(
    store: FeatureStore, tmp_path: Path
) -> None:
    write_online(store, WIDE, row(WIDE, 0.5))
    program = """
import sys
for name in ("dask", "duckdb", "ibis", "lightgbm", "prefect", "scipy", "sklearn", "sqlglot"):
    sys.modules[name] = None
import numpy as np
from ontime.data.timestamps import parse_utc, utc_times
from ontime.features.feast_config import open_feature_store
from ontime.features.online_store import OnlineFeatures
from ontime.problem import EXAMPLE_AS_OF, EXAMPLE_INSTANCE, VIEWS, Instance
from ontime.settings import Settings
features = OnlineFeatures(open_feature_store(Settings()))
from serving.predictor import instance_columns
fields = instance_columns([Instance.model_validate(EXAMPLE_INSTANCE)])
read = features.read(fields, utc_times([parse_utc(EXAMPLE_AS_OF)]))
view = next(view for view in VIEWS if len(view.inputs) > 1)
print((read.frame[list(view.inputs)] == 0.5).all(axis=None))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env=os.environ | {"ONTIME_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr


@each_view
def test_a_row_is_fresh_until_its_ttl_and_stale_one_second_later(
    store: FeatureStore, read: Callable[..., OnlineRead], view: View
) -> None:
    write_online(store, view, row(view, 1.0))
    names = list(view.inputs)

    fresh = read(view.ttl)
    assert fresh.stale == fresh.not_yet_known == [[]]
    assert only(fresh.missing) == STORED - group(view)
    assert (fresh.frame[names] == 1).all(axis=None)
    assert fresh.age_seconds == {view.name: view.ttl.total_seconds()}

    stale = read(view.ttl + timedelta(seconds=1))
    assert only(stale.stale) == group(view)
    assert only(stale.missing) == STORED - group(view)
    assert stale.not_yet_known == [[]]
    # With it, the features that are computed from its helper columns.
    assert stale.frame[list(FEATURE_SPEC.groups[view.name])].isna().all(axis=None)


@each_view
def test_a_row_that_became_known_later_is_not_read(
    store: FeatureStore, read: Callable[..., OnlineRead], view: View
) -> None:
    write_online(store, view, row(view, 1.0, after=timedelta(seconds=1)))
    early = read()
    assert (early.stale, early.age_seconds) == ([[]], {})
    assert only(early.not_yet_known) == group(view)
    assert only(early.missing) == STORED - group(view)
    assert early.frame[[*FEATURE_SPEC.groups[view.name]]].isna().all(axis=None)
    assert only(read(timedelta(seconds=1)).missing) == STORED - group(view)


@each_view
def test_a_row_of_another_key_is_not_read(
    store: FeatureStore, read: Callable[..., OnlineRead], view: View
) -> None:
    for key, dtype in view.keys.items():
        own = keys_of(example())[key]
        other = {key: own + ("x" if dtype == "string" else 1)}
        write_online(store, view, row(view, 0.5, changes=other))
    assert only(read().missing) == STORED


def test_the_rows_of_one_request_do_not_mix(store: FeatureStore, dataset: Dataset) -> None:
    view = VIEWS[0]
    requests = dataset.requests[dataset.requests.eligible][[*Instance.model_fields]]
    keys = pd.DataFrame(entity_key_columns(column_arrays(requests, Instance.model_fields)))
    different = (keys[list(view.keys)] != keys[list(view.keys)].iloc[0]).any(axis=1)
    first, second = requests.iloc[[0]], requests.iloc[[int(different.to_numpy().argmax())]]
    write_online(store, view, row(view, 0.5, instance=first))
    write_online(store, view, row(view, 0.25, instance=second))
    batch = pd.concat([second, first, first, second], ignore_index=True)
    found = read_online(OnlineFeatures(store), batch, AS_OF)
    np.testing.assert_array_equal(found.frame[view.inputs[0]], [0.25, 0.5, 0.5, 0.25])
    for name, values in column_arrays(batch, Instance.model_fields).items():
        assert found.fields[name].tolist() == values.tolist()


def test_one_missing_value_of_a_row_is_missing_alone(
    store: FeatureStore, read: Callable[..., OnlineRead]
) -> None:
    """Also in the first column of a view, from which the age of the row is read."""
    gap, *rest = WIDE.inputs
    write_online(store, WIDE, row(WIDE, 1.0, changes={gap: np.nan}))
    found = read(timedelta(minutes=5))
    assert gap in found.missing[0]
    assert not set(rest) & set(found.missing[0])
    assert (found.frame[rest] == 1).all(axis=None)
    assert found.age_seconds == {WIDE.name: 300}


def test_of_several_rows_of_a_key_the_newest_is_kept(
    store: FeatureStore, read: Callable[..., OnlineRead]
) -> None:
    hours = [timedelta(hours=hour) for hour in (-1, 0, -2)]
    rows = [row(WIDE, value, hour) for value, hour in zip((1, 2, 3), hours, strict=True)]
    write_online(store, WIDE, pd.concat(rows))
    found = read()
    assert (found.frame[list(WIDE.inputs)] == 2).all(axis=None)
    assert found.age_seconds == {WIDE.name: 0}


def test_features_in_another_order_in_the_registry_are_not_mixed_up(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    store = open_feature_store(settings)
    wanted = definitions(settings.features_dir)
    for each in wanted:
        if isinstance(each, FeatureView) and each.name == WIDE.name:
            each.features.reverse()
    store.apply(wanted)
    values = {name: i / 100 for i, name in enumerate(WIDE.columns)}
    write_online(store, WIDE, row(WIDE, 0.0, changes=values))

    service = store.get_feature_service(FEATURE_SERVICE)
    keys = {name: [value] for name, value in keys_of(example()).items()}
    response = store.get_online_features(service, keys)
    assert isinstance(response, ArrayResponse)
    found = read_online(OnlineFeatures(store), example(), AS_OF).frame

    assert response.features[WIDE.name] == tuple(WIDE.columns)[::-1]
    assert {name: found[name][0] for name in WIDE.inputs} == pytest.approx(
        {name: values[name] for name in WIDE.inputs}
    )


@each_view
def test_rows_written_as_arrays_are_those_that_feast_writes(
    store: FeatureStore, dataset: Dataset, tmp_path: Path, view: View
) -> None:
    rows = dataset.rows(view.name).head(300)
    write_online(store, view, rows)
    as_arrays = stored_rows(tmp_path)
    (tmp_path / "feast" / "compact.db").unlink()
    again = open_feature_store(Settings(data_dir=tmp_path))
    again.write_to_online_store(view.name, df=rows)

    assert len(as_arrays) > 0
    assert stored_rows(tmp_path) == as_arrays


def stored_rows(data_dir: Path) -> dict[str, bytes]:
    with closing(sqlite3.connect(data_dir / "feast" / "compact.db")) as online:
        return dict(online.execute("SELECT key, row FROM rows").fetchall())


def test_writing_no_rows_changes_nothing(
    store: FeatureStore, read: Callable[..., OnlineRead]
) -> None:
    write_online(store, WIDE, row(WIDE, 2.0))
    write_online(store, WIDE, row(WIDE, 3.0).iloc[:0])
    assert (read().frame[list(WIDE.inputs)] == 2).all(axis=None)


def test_a_store_that_fails_is_reported_with_what_to_check(
    store: FeatureStore, tmp_path: Path
) -> None:
    for file in (tmp_path / "feast").glob("compact.db*"):
        file.unlink()
    (tmp_path / "feast" / "compact.db").write_text("this is no database " * 100)
    broken = OnlineFeatures(FeatureStore(config=repo_config(Settings(data_dir=tmp_path))))
    with pytest.raises(OnlineStoreUnavailable, match=r"not a database.*make features"):
        read_online(broken, example(), AS_OF)


@pytest.mark.parametrize(
    "view", [*[view for view in VIEWS if view.events], WIDE], ids=lambda v: v.name
)
def test_a_view_listed_backwards_in_the_registry_reads_the_same(tmp_path: Path, view: View) -> None:
    values = {name: float(i + 1) for i, name in enumerate(view.columns)}
    frames = []
    for folder, backwards in (("as declared", False), ("backwards", True)):
        settings = Settings(data_dir=tmp_path / folder)
        store = open_feature_store(settings)
        wanted = definitions(settings.features_dir)
        for each in wanted:
            if backwards and isinstance(each, FeatureView) and each.name == view.name:
                each.features.reverse()
        store.apply(wanted)
        write_online(store, view, row(view, 0.0, changes=values))
        frames.append(read_online(OnlineFeatures(store), example(), AS_OF).frame)
    assert frames[0][[*FEATURE_SPEC.groups[view.name]]].notna().any(axis=None)
    pd.testing.assert_frame_equal(*frames)
