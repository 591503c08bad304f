"""Feature tables built by Spark: the same SQL files, from Parquet to partitioned Parquet.

No row passes through Python. Each view is a folder ``<view>.parquet`` with one part per month,
sorted by time, which DuckDB, pandas and Feast read as they read the single file of `builder`.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ontime.data.tables import Table, TableError
from ontime.features.builder import (
    MACROS,
    midnight_after,
    read_sql,
    reject_empty,
    view_sql,
    written_tables,
)
from ontime.features.spark_sql import to_spark
from ontime.features.spec import View
from ontime.problem import INTERMEDIATE_TABLES, SOURCE_TABLES, VIEWS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PARTITION = "event_month"
OPTIONS = {
    "spark.sql.join.asofJoin.enabled": "true",  # off by default in Spark 4.3
    "spark.sql.session.timeZone": "UTC",
    # INT96, the default, has no zone in Parquet's schema.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.ui.showConsoleProgress": "false",
}


class SparkUnavailable(RuntimeError):
    """The engine is Spark, and pyspark or Java is absent; the message says what to install."""


def check_installed() -> None:
    """Raise `SparkUnavailable` if pyspark or Java is absent."""
    if importlib.util.find_spec("pyspark") is None:
        raise SparkUnavailable(
            "ONTIME_ENGINE=spark needs pyspark: pip install '.[spark]', or ONTIME_ENGINE=duckdb"
        )
    home = os.environ.get("JAVA_HOME")
    if not shutil.which("java", path=f"{home}/bin" if home else None):
        where = f"JAVA_HOME={home} has no bin/java" if home else "PATH has no java"
        raise SparkUnavailable(f"ONTIME_ENGINE=spark needs Java 17 or newer: {where}")


def open_spark() -> "SparkSession":
    """The process's Spark session; master and memory are those of ``spark-submit``.

    Without ``spark-submit`` it is local: ``PYSPARK_SUBMIT_ARGS`` holds its arguments.

    Raises:
        SparkUnavailable: if pyspark or Java is not installed.
    """
    check_installed()
    from pyspark.sql import SparkSession  # an extra

    session = SparkSession.builder.config(map=dict(OPTIONS)).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def write_features(
    tables_dir: str | Path,
    folder: Path,
    progress: Callable[[str], None] = print,
    until: datetime | None = None,
    views: Iterable[View] = VIEWS,
) -> dict[str, int]:
    """Build every view from the written source tables; returns the rows of each.

    Args:
        until: the last moment (UTC) of a row; by default the midnight after the newest timestamp.

    Raises:
        EmptyView: if a view has no row and is not optional.
        TableError: if a view breaks its schema; that view is not written.
    """
    spark = open_spark()
    for name, table in written_tables(tables_dir).items():
        spark.read.parquet(table).createOrReplaceTempView(name)
    until = until or _grid_end(spark)
    folder.mkdir(parents=True, exist_ok=True)
    steps = folder / ".intermediate"
    columns: dict[str, list[str]] = {}

    def query(sql: str) -> "DataFrame":
        return spark.sql(to_spark(sql, MACROS, columns, until))

    try:
        for name in INTERMEDIATE_TABLES:
            path = steps / name  # written, because a view would compute it again for each reader
            query(read_sql(name)).write.mode("overwrite").parquet(str(path))
            stored = spark.read.parquet(str(path))
            stored.createOrReplaceTempView(name)
            columns[name] = stored.columns
        n_rows = {}
        for view in views:
            started = perf_counter()
            n_rows[view.name] = _write_view(query(view_sql(view)), view, folder, until)
            seconds = perf_counter() - started
            progress(f"  {view.name:<22}{n_rows[view.name]:>10,} rows {seconds:>6.1f} s")
        return n_rows
    finally:
        shutil.rmtree(steps, ignore_errors=True)


def _write_view(rows: "DataFrame", view: View, folder: Path, until: datetime) -> int:
    spark = rows.sparkSession
    target, temporary = folder / f"{view.name}.parquet", folder / f"{view.name}.parquet.tmp"
    month = rows.selectExpr("*", f"date_format(event_timestamp, 'yyyy-MM') AS {PARTITION}")
    month.repartition(PARTITION).sortWithinPartitions(
        PARTITION, "event_timestamp", *view.keys
    ).write.mode("overwrite").partitionBy(PARTITION).parquet(str(temporary))
    try:
        # With the schema, because there are no files where there are no rows.
        written = spark.read.schema(rows.schema).parquet(str(temporary))
        n_rows = check_rows(written, view.table)
        reject_empty(view, n_rows, until)
        if n_rows == 0:
            rows.coalesce(1).write.mode("overwrite").parquet(str(temporary))
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)  # the file of the other engine
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return n_rows


def check_rows(rows: "DataFrame", table: Table) -> int:
    """The number of rows. Raises `TableError` unless they follow their table's schema."""
    broken = {}
    for name, column in table.columns.items():
        if not column.nullable:
            broken[f"column {name}: not null"] = f"{name} IS NULL"
        if column.low > -inf or column.high < inf:
            outside = f"{name} < double('{column.low}') OR {name} > double('{column.high}')"
            broken[f"column {name}: in {column.low}..{column.high}"] = outside
    counts = [f"count_if({rule}) AS `{number}`" for number, rule in enumerate(broken.values())]
    found: Any = rows.selectExpr("count(*) AS n_rows", *counts).first()
    faults = {rule: found[str(i)] for i, rule in enumerate(broken) if found[str(i)]}
    twice = rows.groupBy(*table.keys).count().where("count > 1").count()
    if twice:
        faults[f"keys {', '.join(table.keys)}: unique"] = twice
    if faults:
        lines = [f"  {rule}, broken by {count} row(s)" for rule, count in faults.items()]
        head = f"table {table.name} ({table.grain}) breaks its schema; nothing was written:"
        raise TableError("\n".join([head, *lines]))
    return int(found["n_rows"])


def _grid_end(spark: "SparkSession") -> datetime:
    stamps = []
    for table in SOURCE_TABLES:
        for name, column in table.columns.items():
            if column.dtype == "timestamp":
                newest: Any = spark.sql(f"SELECT unix_micros(max({name})) FROM {table.name}")
                stamps.append(newest.first()[0])
    known = [stamp for stamp in stamps if stamp is not None]
    if not known:
        names = sorted(table.name for table in SOURCE_TABLES)
        raise ValueError(f"the source tables need a timestamp; {names} have none")
    return midnight_after(datetime.fromtimestamp(max(known) / 1e6, UTC))
