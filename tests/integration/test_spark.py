"""Spark as the engine: the same features, the same join, and nothing from the future.

Skipped where pyspark or Java is absent; ``make spark-check`` installs the extra.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from ontime.data.tables import Column, Table, TableError, read_table
from ontime.features import spark_engine
from ontime.features.feast_config import FEATURE_SERVICE, open_feature_store
from ontime.features.historical import REQUEST_FIELDS, build_examples
from ontime.features.online_store import OnlineFeatures
from ontime.features.spec import EmptyView
from ontime.problem import ENTITY_KEYS, FEATURE_SPEC, SOURCE_TABLES, VIEWS, hide_after
from tests.conftest import Dataset, read_online
from tests.unit.features.test_offline_store import Row, SmallStore, Stored, entities, newest

try:
    spark_engine.check_installed()
except spark_engine.SparkUnavailable as error:
    pytest.skip(f"{error} (make spark-check installs pyspark)", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    # pyspark 4.3 about its own sockets and threads.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _small_cluster() -> Iterator[None]:
    arguments = "--master local[2] --conf spark.sql.shuffle.partitions=4 pyspark-shell"
    before = os.environ.get("PYSPARK_SUBMIT_ARGS")
    os.environ["PYSPARK_SUBMIT_ARGS"] = arguments
    session = spark_engine.open_spark()
    yield
    session.stop()
    os.environ.pop("PYSPARK_SUBMIT_ARGS")
    if before is not None:
        os.environ["PYSPARK_SUBMIT_ARGS"] = before


@pytest.fixture(scope="module")
def folder(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of Spark, with the dataset's tables and its feature tables."""
    folder = tmp_path_factory.mktemp("spark")
    (folder / "tables").symlink_to(dataset.settings.tables_dir)
    spark_engine.write_features(
        folder / "tables", folder / "features", progress=lambda _: None, until=dataset.until
    )
    return folder


def test_every_view_equals_duckdbs_in_every_cell(dataset: Dataset, folder: Path) -> None:
    for view in VIEWS:
        path = folder / "features" / f"{view.name}.parquet"
        order = ["event_timestamp", *view.keys]
        ours = read_table(path)[list(view.table.columns)].sort_values(order, ignore_index=True)
        theirs = dataset.rows(view.name).sort_values(order, ignore_index=True)
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
        months = sorted(part.name for part in path.glob(f"{spark_engine.PARTITION}=*"))
        assert len(months) == theirs.event_timestamp.dt.strftime("%Y-%m").nunique()


def test_training_examples_equal_duckdbs(
    dataset: Dataset, folder: Path, examples: pd.DataFrame
) -> None:
    from feature_repo.definitions import definitions

    changes = {"data_dir": folder, "engine": "spark"}
    store = open_feature_store(dataset.settings.model_copy(update=changes))
    store.apply(definitions(folder / "features"))
    ours = build_examples(store, dataset.requests)
    pd.testing.assert_frame_equal(ours, examples, check_exact=True)

    # The same join from Parquet to Parquet.
    rows = dataset.requests[dataset.requests.eligible]
    rows[["instance_id", "event_timestamp", *ENTITY_KEYS]].to_parquet(folder / "rows.parquet")
    job = store.get_historical_features(
        f"SELECT * FROM parquet.`{folder / 'rows.parquet'}`",
        store.get_feature_service(FEATURE_SERVICE),
    )
    job.persist(SavedDatasetFileStorage(path=str(folder / "joined.parquet")))
    joined = pd.read_parquet(folder / "joined.parquet").sort_values("instance_id")
    names = VIEWS[0].inputs
    expected = examples.sort_values("instance_id")[list(names)].to_numpy()
    np.testing.assert_array_equal(joined[list(names)].to_numpy(), expected)


def test_the_online_store_is_filled_from_its_folders(
    dataset: Dataset, folder: Path, examples: pd.DataFrame
) -> None:
    from pipelines.build_features import fill_online_store

    noon = dataset.start + timedelta(days=35, hours=12)
    changes = {"data_dir": folder, "engine": "spark"}
    settings = dataset.settings.model_copy(update=changes)
    fill_online_store.fn(settings, noon)
    requests = examples[examples.event_timestamp == pd.Timestamp(noon)].reset_index(drop=True)
    online = OnlineFeatures(open_feature_store(settings))
    read = read_online(online, requests[[*REQUEST_FIELDS]], noon)
    names = list(FEATURE_SPEC.numeric)
    assert len(requests) > 0
    pd.testing.assert_frame_equal(read.frame[names], requests[names], check_exact=True)


def test_no_feature_row_depends_on_the_future(
    dataset: Dataset, tmp_path: Path, folder: Path
) -> None:
    moment = dataset.start + timedelta(days=39, minutes=37)
    (tmp_path / "tables").mkdir()
    for name, table in hide_after(dataset.tables, moment).items():
        table.to_parquet(tmp_path / "tables" / f"{name}.parquet")
    # Without rules: values after the moment may be out of range, where everything is unknown.
    views = [
        replace(
            view,
            columns=dict.fromkeys(view.columns, (-inf, inf)),
            nullable_columns=tuple(view.columns),
        )
        for view in VIEWS
    ]
    spark_engine.write_features(
        tmp_path / "tables", tmp_path / "features", lambda _: None, dataset.until, views
    )
    for view in views:
        order = ["event_timestamp", *view.keys]
        before, after = (
            read_table(root / "features" / f"{view.name}.parquet").sort_values(order)
            for root in (folder, tmp_path)
        )
        known = [
            rows[rows.event_timestamp <= moment].reset_index(drop=True) for rows in (before, after)
        ]
        pd.testing.assert_frame_equal(*known, check_exact=True)
        assert len(known[0]) > 0


def test_every_row_joins_as_the_oracle_does(tmp_path: Path) -> None:
    """Many rows at few moments, so that equal ones and both ends of the TTL are common."""
    draw = random.Random(1)
    small = SmallStore(tmp_path, engine="spark")
    machines, sites = ["m1", "m2", "m3"], ["s1", "s2"]
    by_machine: Stored = {
        (draw.choice(machines), "s1", second): draw.choice([None, float(second)])
        for second in draw.sample(range(-20, 200), 80)
    }
    by_pair: Stored = {
        (draw.choice(machines), draw.choice(sites), second): float(second)
        for second in draw.sample(range(-20, 200), 60)
    }
    rows: list[Row] = [
        (draw.choice([*machines, "unknown", None]), draw.choice([*sites, None]), second)
        for second in draw.choices(range(-25, 230), k=400)
    ]
    small.write(by_machine, by_pair)
    joined = small.join(entities(rows)).sort_values("row")
    assert joined.row.tolist() == list(range(len(rows)))
    speed = [newest(by_machine, row, keys=1, ttl_s=5) for row in rows]
    height = [newest(by_pair, row, keys=2, ttl_s=float("inf")) for row in rows]
    np.testing.assert_array_equal(joined.speed.astype("float64"), speed)
    np.testing.assert_array_equal(joined.height.astype("float64"), height)
    assert 0.1 < np.isnan(speed).mean() < 0.9


def test_a_broken_rule_is_an_error_and_names_column_and_count(tmp_path: Path) -> None:
    columns = {"key": Column("string"), "share": Column("float32", 0, 1)}
    table = Table("small", "one row per key", ("key",), columns)
    frame = pd.DataFrame({"key": ["a", "a", "b"], "share": [0.5, 2.0, None]})
    frame.astype({"share": "float32"}).to_parquet(tmp_path / "small.parquet")
    rows = spark_engine.open_spark().read.parquet(str(tmp_path / "small.parquet"))
    with pytest.raises(TableError) as error:
        spark_engine.check_rows(rows, table)
    for fault in (
        "share: not null, broken by 1",
        "share: in 0..1, broken by 1",
        "keys key: unique",
    ):
        assert fault in str(error.value)


def test_a_view_without_rows_is_an_error_and_leaves_no_file(
    dataset: Dataset, tmp_path: Path
) -> None:
    view = next(view for view in VIEWS if not view.optional)
    early = dataset.start - timedelta(days=365)
    with pytest.raises(EmptyView, match=view.name):
        spark_engine.write_features(
            dataset.settings.tables_dir, tmp_path, lambda _: None, early, [view]
        )
    assert list(tmp_path.iterdir()) == []


def test_the_source_tables_are_required(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=SOURCE_TABLES[0].name):
        spark_engine.write_features(tmp_path, tmp_path / "features")
