"""A table that breaks its schema is not written, and the error names the rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as pq
import pytest

from ontime.data import tables
from ontime.data.tables import (
    Column,
    Table,
    TableError,
    check_table,
    read_table,
    read_tables,
    write_table,
)
from ontime.problem import SOURCE_TABLES, VIEWS
from tests.conftest import Source

READINGS = Table(
    "readings",
    "one row per sensor and hour",
    ("sensor", "read_at"),
    {
        "sensor": Column("string"),
        "place": Column("string", isin=("inside", "outside")),
        "note": Column("string", nullable=True),
        "n_samples": Column("int32", 1, 60),
        "level": Column("float32", 0, 100, nullable=True),
        "is_valid": Column("bool"),
        "read_at": Column("timestamp"),
        "repaired_at": Column("timestamp", nullable=True),
    },
)
TABLES = [*SOURCE_TABLES, *(view.table for view in VIEWS), READINGS]


@pytest.fixture
def readings() -> pd.DataFrame:
    """200 rows of two sensors."""
    n = 200
    hours = pd.date_range("2024-01-01", periods=n, freq="h", tz="UTC").astype("datetime64[us, UTC]")
    return pd.DataFrame(
        {
            "sensor": ["a", "b"] * (n // 2),
            "place": ["inside", "outside"] * (n // 2),
            "note": pd.Series(["", None] * (n // 2), dtype="object"),
            "n_samples": np.arange(n, dtype="int32") % 60 + 1,
            "level": np.linspace(0, 100, n, dtype="float32"),
            "is_valid": [True] * n,
            "read_at": hours,
            "repaired_at": pd.Series([pd.NaT] * n, dtype="datetime64[us, UTC]"),
        }
    )


def error_of(frame: pd.DataFrame) -> list[str]:
    with pytest.raises(TableError) as caught:
        check_table(frame, READINGS)
    return str(caught.value).splitlines()


def test_a_value_out_of_range_is_named_with_table_column_rule_value_and_row(
    readings: pd.DataFrame,
) -> None:
    readings.loc[[7, 11], "level"] = [1048.0, -1.0]
    title, rule, values, rows = error_of(readings)
    assert title.startswith("table readings (one row per sensor and hour)")
    assert "column level" in rule and "in_range(0, 100)" in rule and "2 value(s)" in rule
    assert "[1048.0, -1.0]" in values
    broken = readings.loc[[7, 11], ["sensor", "read_at"]]
    assert str(broken.to_dict("records")) in rows


def test_a_missing_value_is_named_where_none_may_be_missing(readings: pd.DataFrame) -> None:
    readings.loc[3, "place"] = None
    _, rule, _, rows = error_of(readings)
    assert "column place" in rule and "not_nullable" in rule
    assert str(readings.read_at[3]) in rows or repr(readings.read_at[3]) in rows


@pytest.mark.parametrize(
    ("column", "wrong", "expected"),
    [
        ("n_samples", "float64", "dtype('int32')"),
        ("level", "float64", "dtype('float32')"),
        ("read_at", "datetime64[ns, UTC]", "dtype('datetime64[us, UTC]')"),
        ("is_valid", "object", "dtype('bool')"),
    ],
)
def test_a_column_of_another_type_is_named_with_both_types(
    readings: pd.DataFrame, column: str, wrong: str, expected: str
) -> None:
    text = "\n".join(error_of(readings.astype({column: wrong})))
    assert f"column {column}" in text and expected in text and wrong in text


def test_a_time_without_zone_is_rejected(readings: pd.DataFrame) -> None:
    readings["read_at"] = readings.read_at.dt.tz_localize(None)
    assert "column read_at" in "\n".join(error_of(readings))


def test_a_number_among_the_texts_is_named(readings: pd.DataFrame) -> None:
    readings.loc[5, "note"] = 14228
    text = "\n".join(error_of(readings))
    assert "column note: rule text" in text and "14228" in text


def test_an_unknown_category_is_named_with_the_known_ones(readings: pd.DataFrame) -> None:
    readings.loc[9, "place"] = "above"
    _, rule, values, _ = error_of(readings)
    assert "column place" in rule and "inside" in rule and "outside" in rule
    assert "above" in values


def test_a_key_that_occurs_twice_is_named(readings: pd.DataFrame) -> None:
    doubled = pd.concat([readings, readings.iloc[[4]]], ignore_index=True)
    text = "\n".join(error_of(doubled))
    assert "column sensor: rule multiple_fields_uniqueness broken by 2 value(s)" in text
    assert "column read_at: rule multiple_fields_uniqueness broken by 2 value(s)" in text
    assert str(readings.loc[[4, 4], ["sensor", "read_at"]].to_dict("records")) in text


def test_only_the_first_offending_rows_are_listed(readings: pd.DataFrame) -> None:
    readings["level"] = readings.level + 101
    text = "\n".join(error_of(readings))
    assert "broken by 200 value(s)" in text
    assert text.count("'read_at'") == 3


def test_every_broken_rule_is_named_at_once(readings: pd.DataFrame) -> None:
    readings.loc[1, "place"] = "above"
    readings.loc[2, "n_samples"] = 0
    text = "\n".join(error_of(readings))
    assert "column place" in text and "column n_samples:" in text


def test_a_missing_and_an_additional_column_are_named(readings: pd.DataFrame) -> None:
    assert "note" in "\n".join(error_of(readings.drop(columns="note")))
    assert "extra" in "\n".join(error_of(readings.assign(extra=1)))


def test_columns_in_another_order_are_rejected(readings: pd.DataFrame) -> None:
    assert error_of(readings[readings.columns[::-1]])


def test_a_rejected_table_is_not_written(readings: pd.DataFrame, tmp_path: Path) -> None:
    readings.loc[0, "level"] = -1.0
    with pytest.raises(TableError, match="nothing was written"):
        write_table(readings, READINGS, tmp_path / "new" / "readings.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_rejected_table_leaves_the_older_file_unchanged(
    readings: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "readings.parquet"
    write_table(readings, READINGS, path)
    before = path.read_bytes()
    readings.loc[0, "level"] = -1.0
    with pytest.raises(TableError):
        write_table(readings, READINGS, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_several_batches_is_checked_and_written_as_a_frame_is(
    readings: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_SIZE", 30)
    source, path = tmp_path / "source.parquet", tmp_path / "readings.parquet"
    readings.to_parquet(source)
    assert write_table(source, READINGS, path) == 200
    pd.testing.assert_frame_equal(read_table(path), readings)

    for broken, message in (
        (readings.assign(level=readings.level.where(readings.index < 150, -1)), "column level"),
        (pd.concat([readings, readings.iloc[[4]]]), "keys sensor, read_at: unique, broken by 1"),
    ):
        broken.astype(readings.dtypes).to_parquet(source, index=False)
        with pytest.raises(TableError, match=message):
            write_table(source, READINGS, path)
        pd.testing.assert_frame_equal(read_table(path), readings)


def test_source_tables_are_read_as_they_were_written(source: Source, tmp_path: Path) -> None:
    heads = {table.name: source.tables[table.name].head(300) for table in SOURCE_TABLES}
    for table in SOURCE_TABLES:
        write_table(heads[table.name], table, tmp_path / f"{table.name}.parquet")
    for name, frame in read_tables(tmp_path, SOURCE_TABLES).items():
        pd.testing.assert_frame_equal(frame, heads[name])


def test_the_whole_source_follows_its_schemas(source: Source) -> None:
    for table in SOURCE_TABLES:
        check_table(source.tables[table.name], table)


def test_timestamps_are_written_in_utc_with_microseconds(
    readings: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "readings.parquet"
    write_table(readings, READINGS, path)
    schema = pq.read_schema(path)
    expected = str(arrow.timestamp("us", tz="UTC"))
    assert [str(schema.field(name).type) for name in ("read_at", "repaired_at")] == [expected] * 2


def test_a_table_that_was_never_written_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make ingest"):
        read_table(tmp_path / "readings.parquet")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_states_its_grain_and_its_keys_are_its_columns(table: Table) -> None:
    assert table.grain.startswith("one row per ")
    assert table.keys and set(table.keys) <= set(table.columns)
    assert not any(table.columns[key].nullable for key in table.keys)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_columns_are_ordered_ids_categories_numbers_flags_times(table: Table) -> None:
    kinds = {"string": 0, "int32": 0, "float32": 1, "float64": 1, "bool": 2, "timestamp": 3}
    order = [kinds[column.dtype] for column in table.columns.values()]
    assert order == sorted(order)
