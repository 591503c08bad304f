"""What breaks a table's schema is named and not written; what keeps it is written as it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as pq
import pytest

from ontime.features import VIEWS
from ontime.tables import (
    FLIGHTS,
    SOURCE_TABLES,
    WEATHER,
    Table,
    TableError,
    check_table,
    read_table,
    read_tables,
    write_table,
)

if TYPE_CHECKING:
    from tests.conftest import Source


@pytest.fixture
def flights(source: "Source") -> pd.DataFrame:
    """The flights of the first morning."""
    return source.tables["flights"].head(200).copy()


@pytest.fixture
def weather(source: "Source") -> pd.DataFrame:
    return source.tables["weather"].head(100).copy()


def error_of(frame: pd.DataFrame, table: Table) -> list[str]:
    with pytest.raises(TableError) as caught:
        check_table(frame, table)
    return str(caught.value).splitlines()


def test_a_value_out_of_range_is_named_with_table_column_rule_value_and_row(
    weather: pd.DataFrame,
) -> None:
    weather.loc[[7, 11], "wind_speed_mph"] = [1048.0, -1.0]
    title, rule, values, rows = error_of(weather, WEATHER)
    assert title.startswith("table weather (one hourly observation at an origin)")
    assert "column wind_speed_mph" in rule and "in_range(0, 100)" in rule and "2 value(s)" in rule
    assert "[1048.0, -1.0]" in values
    broken = weather.loc[[7, 11], ["origin", "known_at"]]
    assert str(broken.to_dict("records")) in rows


def test_a_missing_value_is_named_where_none_may_be_missing(flights: pd.DataFrame) -> None:
    flights.loc[3, "dest"] = None
    _, rule, _, rows = error_of(flights, FLIGHTS)
    assert "column dest" in rule and "not_nullable" in rule
    assert flights.flight_id[3] in rows


@pytest.mark.parametrize(
    ("column", "wrong", "expected"),
    [
        ("flight", "float64", "dtype('int32')"),
        ("dep_delay_min", "float64", "dtype('float32')"),
        ("scheduled_departure", "datetime64[ns, UTC]", "dtype('datetime64[us, UTC]')"),
        ("is_late", "object", "dtype('bool')"),
    ],
)
def test_a_column_of_another_type_is_named_with_both_types(
    flights: pd.DataFrame, column: str, wrong: str, expected: str
) -> None:
    text = "\n".join(error_of(flights.astype({column: wrong}), FLIGHTS))
    assert f"column {column}" in text and expected in text and wrong in text


def test_a_local_time_is_refused_where_utc_is_meant(flights: pd.DataFrame) -> None:
    flights["arrived_at"] = flights.arrived_at.dt.tz_localize(None)
    assert "column arrived_at" in "\n".join(error_of(flights, FLIGHTS))


def test_a_number_among_the_texts_is_named(flights: pd.DataFrame) -> None:
    flights.loc[5, "tailnum"] = 14228
    text = "\n".join(error_of(flights, FLIGHTS))
    assert "column tailnum: rule text" in text and "14228" in text and flights.flight_id[5] in text


@pytest.mark.parametrize(("column", "value"), [("origin", "PHL"), ("status", "lost")])
def test_an_unknown_category_is_named_with_the_known_ones(
    flights: pd.DataFrame, column: str, value: str
) -> None:
    flights.loc[9, column] = value
    _, rule, values, rows = error_of(flights, FLIGHTS)
    known = FLIGHTS.columns[column].isin
    assert f"column {column}" in rule and all(each in rule for each in known)
    assert value in values and flights.flight_id[9] in rows


def test_a_key_that_occurs_twice_is_named(weather: pd.DataFrame) -> None:
    doubled = pd.concat([weather, weather.iloc[[4]]], ignore_index=True)
    text = "\n".join(error_of(doubled, WEATHER))
    assert "column origin: rule multiple_fields_uniqueness broken by 2 value(s)" in text
    assert "column known_at: rule multiple_fields_uniqueness broken by 2 value(s)" in text
    assert str(weather.loc[[4, 4], ["origin", "known_at"]].to_dict("records")) in text


def test_only_the_first_offending_rows_are_shown(weather: pd.DataFrame) -> None:
    weather["visibility_mi"] = weather.visibility_mi + 100
    text = "\n".join(error_of(weather, WEATHER))
    assert "broken by 100 value(s)" in text
    assert text.count("'known_at'") == 3


def test_every_broken_rule_is_named_at_once(flights: pd.DataFrame) -> None:
    flights.loc[1, "origin"] = "PHL"
    flights.loc[2, "flight"] = 0
    text = "\n".join(error_of(flights, FLIGHTS))
    assert "column origin" in text and "column flight:" in text


@pytest.mark.parametrize("change", [{"drop": "tailnum"}, {"add": "gate"}])
def test_a_column_too_few_or_too_many_is_named(
    flights: pd.DataFrame, change: dict[str, str]
) -> None:
    changed = flights.drop(columns=change.get("drop", []))
    if "add" in change:
        changed[change["add"]] = 1
    text = "\n".join(error_of(changed, FLIGHTS))
    assert next(iter(change.values())) in text


def test_columns_in_another_order_are_refused(flights: pd.DataFrame) -> None:
    assert error_of(flights[flights.columns[::-1]], FLIGHTS)


def test_a_refused_table_is_not_written(weather: pd.DataFrame, tmp_path: Path) -> None:
    weather.loc[0, "visibility_mi"] = -1.0
    with pytest.raises(TableError, match="nothing was written"):
        write_table(weather, WEATHER, tmp_path / "new" / "weather.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_table_leaves_the_older_file_as_it_was(
    weather: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "weather.parquet"
    write_table(weather, WEATHER, path)
    before = path.read_bytes()
    weather.loc[0, "visibility_mi"] = -1.0
    with pytest.raises(TableError):
        write_table(weather, WEATHER, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_comes_back_equal(source: "Source", tmp_path: Path) -> None:
    heads = {table.name: source.tables[table.name].head(300) for table in SOURCE_TABLES}
    for table in SOURCE_TABLES:
        write_table(heads[table.name], table, tmp_path / f"{table.name}.parquet")
    for name, frame in read_tables(tmp_path).items():
        pd.testing.assert_frame_equal(frame, heads[name])


def test_timestamps_are_written_in_utc_with_microseconds(
    flights: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "flights.parquet"
    write_table(flights, FLIGHTS, path)
    schema = pq.read_schema(path)
    stamps = [name for name, column in FLIGHTS.columns.items() if column.dtype == "timestamp"]
    assert len(stamps) == 5
    assert {str(schema.field(name).type) for name in stamps} == {
        str(arrow.timestamp("us", tz="UTC"))
    }


def test_a_table_that_was_never_written_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make ingest"):
        read_table(tmp_path / "flights.parquet")


@pytest.mark.parametrize(
    "table", [*SOURCE_TABLES, *(view.table for view in VIEWS)], ids=lambda table: table.name
)
def test_every_table_states_its_grain_and_its_keys_are_its_columns(table: Any) -> None:
    assert table.grain
    assert table.keys and set(table.keys) <= set(table.columns)
    assert not any(table.columns[key].nullable for key in table.keys)


@pytest.mark.parametrize(
    "table", [*SOURCE_TABLES, *(view.table for view in VIEWS)], ids=lambda table: table.name
)
def test_columns_are_ordered_ids_categories_numbers_flags_times(table: Table) -> None:
    kinds = {"string": 0, "int32": 0, "float32": 1, "float64": 1, "bool": 2, "timestamp": 3}
    order = [kinds[column.dtype] for column in table.columns.values()]
    assert order == sorted(order)
