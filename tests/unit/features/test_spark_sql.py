"""DuckDB's SQL as Spark's: each rule, and every SQL file of the problem. Needs no Spark."""

import importlib.util
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ontime.features import spark_engine
from ontime.features.builder import MACROS, read_sql, view_sql
from ontime.features.spark_sql import UntranslatedSql, to_spark
from ontime.problem import INTERMEDIATE_TABLES, VIEWS

UNTIL = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("duckdb", "spark"),
    [
        (
            "SELECT v FROM a ASOF LEFT JOIN b ON a.k = b.k AND a.t >= b.t",
            "SELECT v FROM a LEFT ASOF JOIN b MATCH_CONDITION (a.t >= b.t) ON a.k = b.k",
        ),
        (
            "SELECT v FROM a ASOF JOIN b ON a.t >= b.t",
            "SELECT v FROM a ASOF JOIN b MATCH_CONDITION (a.t >= b.t)",
        ),
        (
            "SELECT date_diff('minute', a, b) FROM t",
            "SELECT DATEDIFF(MINUTE, DATE_TRUNC('MINUTE', a), DATE_TRUNC('MINUTE', b)) FROM t",
        ),
        (
            "SELECT unnest(generate_series(a, b)) AS n FROM t",
            "SELECT EXPLODE(IF(a <= b, SEQUENCE(a, b), NULL)) AS n FROM t",
        ),
        ("SELECT epoch(a) FROM t", "SELECT UNIX_MICROS(a) / 1000000 FROM t"),
        (
            "SELECT unnest(pairs(a), recursive := TRUE) FROM t",
            "SELECT INLINE((ARRAY(STRUCT((a) AS x)))) FROM t",
        ),
        ("SELECT twice(a + 1) FROM t", "SELECT ((a + 1) * 2) FROM t"),
        ("SELECT a FROM t WHERE always(a)", "SELECT a FROM t WHERE TRUE"),
        (
            "FROM t WHERE at <= $until",
            "SELECT * FROM t WHERE at <= CAST('2024-05-01T00:00:00+00:00' AS TIMESTAMP)",
        ),
        (
            "WITH g AS (SELECT a FROM t) FROM t UNION ALL BY NAME FROM g",
            "WITH g AS (SELECT a FROM t) SELECT a, b FROM (SELECT * FROM t) AS side UNION ALL "
            "SELECT a, NULL AS b FROM (SELECT * FROM g) AS side",
        ),
    ],
)
def test_a_query_is_translated(duckdb: str, spark: str) -> None:
    macros = ["CREATE MACRO twice(n) AS n * 2", "CREATE MACRO pairs(a) AS [{'x': a}]"]
    macros.append("CREATE MACRO always(a) AS TRUE")
    assert to_spark(duckdb, macros, {"t": ["a", "b"]}, UNTIL) == spark


@pytest.mark.parametrize(
    ("duckdb", "message"),
    [
        ("SELECT $other", r"only parameter is \$until"),
        ("SELECT $until", "with a value"),
        ("FROM x UNION ALL BY NAME FROM x", "columns of 'x'"),
        ("SELECT v FROM a ASOF JOIN b ON a.t > b.t", "one a.t >= b.t"),
    ],
)
def test_what_is_not_translated_is_an_error(duckdb: str, message: str) -> None:
    with pytest.raises(UntranslatedSql, match=message):
        to_spark(duckdb)


def test_every_sql_file_of_the_problem_is_translated() -> None:
    columns = {name: ["some"] for name in INTERMEDIATE_TABLES}
    queries = [read_sql(name) for name in INTERMEDIATE_TABLES] + [view_sql(view) for view in VIEWS]
    for query in queries:
        translated = to_spark(query, MACROS, columns, UNTIL)
        assert "BY NAME" not in translated and "$" not in translated
        assert translated.count("ASOF JOIN") == translated.count("MATCH_CONDITION")


def test_without_pyspark_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(spark_engine.SparkUnavailable, match=r"pip install '.\[spark\]'"):
        spark_engine.open_spark()


def test_without_java_the_error_names_where_it_was_searched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(spark_engine.SparkUnavailable, match=f"JAVA_HOME={tmp_path}"):
        spark_engine.open_spark()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(spark_engine.SparkUnavailable, match="PATH has no java"):
        spark_engine.open_spark()
