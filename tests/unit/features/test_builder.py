"""Feature tables: schema, order, end of the grids, and no view without rows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from ontime.data.tables import check_table, read_table
from ontime.features import builder
from ontime.features.builder import (
    build_features,
    grid_end,
    materialization_start,
    read_sql,
    write_features,
    written_tables,
)
from ontime.features.spec import EmptyView, View
from ontime.problem import INTERMEDIATE_TABLES, SQL_FOLDER, VIEWS
from tests.conftest import Dataset, Source


def stamped(*moments: str | None) -> pd.DataFrame:
    stamps = pd.to_datetime(pd.Series(moments, dtype="object"), utc=True, format="ISO8601")
    return pd.DataFrame({"at": stamps.astype("datetime64[us, UTC]")})


@pytest.mark.parametrize(
    ("newest", "end"),
    [
        ("2024-03-01 00:00:01", datetime(2024, 3, 2, tzinfo=UTC)),
        ("2024-03-01 23:59:59", datetime(2024, 3, 2, tzinfo=UTC)),
        ("2024-03-02 00:00:00", datetime(2024, 3, 3, tzinfo=UTC)),
    ],
)
def test_the_grids_end_at_the_midnight_after_the_newest_timestamp(
    newest: str, end: datetime
) -> None:
    tables = {
        "a": stamped("2024-01-01 12:00", newest, None),
        "b": stamped("2023-12-31 12:00"),
        "c": stamped(None),
        "d": pd.DataFrame({"key": ["x"]}),
    }
    assert grid_end(tables) == end


def test_tables_without_timestamps_have_no_grid() -> None:
    with pytest.raises(ValueError, match=r"\['a', 'b'\] have none"):
        grid_end({"a": pd.DataFrame({"key": ["x"]}), "b": stamped(None)})


def test_the_grids_of_the_source_end_at_most_a_week_after_its_last_request(
    source: Source, dataset: Dataset
) -> None:
    from ontime.problem import examples as requests_of

    last = requests_of(source.tables).event_timestamp.max()
    assert last < grid_end(source.tables) < last + timedelta(days=7)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_rows_follow_their_schema_and_their_order_up_to_the_end(
    dataset: Dataset, view: View
) -> None:
    rows = dataset.rows(view.name)
    assert len(rows) > 0
    check_table(rows, view.table)
    assert rows.event_timestamp.is_monotonic_increasing
    assert rows.event_timestamp.max() <= dataset.until


def test_building_twice_gives_the_same_rows(dataset: Dataset) -> None:
    for view, rows in build_features(dataset.tables, dataset.until):
        pd.testing.assert_frame_equal(rows, dataset.rows(view.name))


def test_tables_in_files_are_built_as_tables_in_memory(dataset: Dataset, tmp_path: Path) -> None:
    tables = written_tables(dataset.settings.tables_dir)
    assert grid_end(tables) == grid_end(dataset.tables)
    write_features(tables, tmp_path, lambda _: None, dataset.until)
    for view in VIEWS:
        rows = read_table(tmp_path / f"{view.name}.parquet")
        pd.testing.assert_frame_equal(rows, dataset.rows(view.name))


def test_features_built_in_parts_are_the_same_rows(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_rows = sum(len(table) for table in dataset.tables.values())
    monkeypatch.setattr(builder, "ROWS_PER_PART", n_rows // 3)
    for view, rows in build_features(dataset.tables, dataset.until):
        pd.testing.assert_frame_equal(rows, dataset.rows(view.name))


def test_every_sql_file_is_a_view_or_an_intermediate_table_and_states_grain_and_time() -> None:
    names = {view.name for view in VIEWS} | set(INTERMEDIATE_TABLES)
    assert {path.stem for path in SQL_FOLDER.glob("*.sql")} == names
    for name in names:
        head = read_sql(name).split("\n\n")[0]
        assert "-- Grain: one row per " in head and "-- Known when: " in head, name


@pytest.fixture
def until_before_the_data(dataset: Dataset) -> datetime:
    return dataset.start - timedelta(days=365)


def test_a_view_without_rows_is_an_error(
    dataset: Dataset, tmp_path: Path, until_before_the_data: datetime
) -> None:
    view = replace(VIEWS[0], optional=False)
    with pytest.raises(EmptyView, match=rf"{view.name} has none up to"):
        write_features(dataset.tables, tmp_path, print, until_before_the_data, [view])
    assert list(tmp_path.iterdir()) == []


def test_an_optional_view_may_have_no_rows(
    dataset: Dataset,
    tmp_path: Path,
    until_before_the_data: datetime,
) -> None:
    optional = replace(VIEWS[0], optional=True)
    printed: list[str] = []
    rows = write_features(
        dataset.tables, tmp_path, printed.append, until_before_the_data, [optional]
    )
    assert rows == {optional.name: 0}
    assert len(printed) == 1
    assert (tmp_path / f"{optional.name}.parquet").exists()


def test_the_materialization_starts_at_the_earliest_feature_row(dataset: Dataset) -> None:
    start = materialization_start(dataset.settings.features_dir)
    assert start == min(dataset.rows(view.name).event_timestamp.min() for view in VIEWS)
    assert start.tzinfo is not None


def test_without_feature_tables_there_is_no_materialization_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make ingest features"):
        materialization_start(tmp_path)
