"""A Feast offline store whose historical join is Spark's ``LEFT ASOF JOIN``.

Feast's own Spark store joins every earlier row and ranks them, and collects the result in the
driver. This one runs one statement from Parquet to Parquet. Materialization is inherited: DuckDB
reads the newest rows of the same files.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

from ontime.features.asof import (
    AsofJob,
    AsofOfflineStore,
    equal_keys,
    fresh_columns,
    parquet_source,
)
from ontime.features.spark_engine import open_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class SparkAsofJob(AsofJob):
    """The join of all views in one statement, in no order.

    The entity rows are a DataFrame, or a query of Spark such as "SELECT * FROM parquet.`folder`",
    whose rows never reach the driver.
    """

    def __init__(
        self,
        views: list[tuple[FeatureView, list[str]]],
        entity_df: pd.DataFrame | str,
        feature_refs: list[str],
    ) -> None:
        super().__init__(views, entity_df, feature_refs)
        self._folder = tempfile.TemporaryDirectory(prefix="historical-")  # deleted with the job

    @property
    def metadata(self) -> RetrievalMetadata:
        """The requested features and keys; the period is not read for it."""
        columns = self._entity_rows().columns
        return RetrievalMetadata(features=self.feature_refs, keys=columns)

    def to_spark_df(self) -> "DataFrame":
        """The joined rows, not yet computed."""
        rows = self._entity_rows()
        types = {name: _numpy_type(dtype) for name, dtype in rows.dtypes}
        stamp = infer_event_timestamp_from_entity_df(types)
        rows.createOrReplaceTempView("entity_rows")
        return rows.sparkSession.sql(asof_sql(self.views, stamp))

    def _entity_rows(self) -> "DataFrame":
        spark = open_spark()
        if isinstance(self.entity_df, str):
            return spark.sql(self.entity_df)
        path = Path(self._folder.name) / "entity_rows.parquet"
        if not path.exists():
            rows = pyarrow.Table.from_pandas(self.entity_df, preserve_index=False)
            pyarrow.parquet.write_table(rows, path, coerce_timestamps="us")
        return spark.read.parquet(str(path))

    def write(self, path: Path) -> None:
        """A folder of Parquet files; no row reaches this process."""
        self.to_spark_df().write.mode("overwrite").parquet(str(path))

    def _to_arrow_internal(self, timeout: int | None = None) -> pyarrow.Table:
        path = Path(self._folder.name) / "joined.parquet"
        self.write(path)
        return pyarrow.parquet.read_table(path)


class AsofSparkOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The store's configuration; Feast finds this class by its name."""

    type: Literal["ontime.features.spark_store.AsofSparkOfflineStore"] = (
        "ontime.features.spark_store.AsofSparkOfflineStore"
    )


class AsofSparkOfflineStore(AsofOfflineStore):
    """The joins of `AsofOfflineStore`, run by Spark."""

    job = SparkAsofJob


def asof_sql(views: list[tuple[FeatureView, list[str]]], stamp: str) -> str:
    """One statement: the rows of ``entity_rows`` with the features of every view."""
    columns, joins = ["entity_rows.*"], []
    for number, (view, names) in enumerate(views):
        rows = f"rows_{number}"
        keys = equal_keys(view, rows)
        if view.ttl:
            seconds = int(view.ttl.total_seconds())
            keys.append(f"{_bucket(f'entity_rows.{stamp}', seconds)} = {rows}.bucket")
        event = f"{rows}.{parquet_source(view).timestamp_field}"
        joins.append(
            f"LEFT ASOF JOIN {_bucketed_rows(view, names)} AS {rows} "
            f"MATCH_CONDITION (entity_rows.{stamp} >= {event})"
            + (f" ON {' AND '.join(keys)}" if keys else "")
        )
        columns += fresh_columns(view, names, stamp, rows)
    return f"SELECT {', '.join(columns)} FROM entity_rows {' '.join(joins)}"


def _bucketed_rows(view: FeatureView, names: list[str]) -> str:
    """A view's rows with the buckets of time in which a request can use them.

    Spark 4.3 compares each row with all rows of its key, so that the time of a join grows with the
    square of the years. A bucket is as long as the TTL: a row is used in its own and in the next.
    """
    source = parquet_source(view)
    keys = [key.name for key in view.entity_columns]
    columns = ", ".join([*keys, source.timestamp_field, *names])
    if not view.ttl:
        return f"(SELECT {columns} FROM parquet.`{source.path}`)"
    own = _bucket(source.timestamp_field, int(view.ttl.total_seconds()))
    buckets = f"explode(array({own}, {own} + 1)) AS bucket"
    return f"(SELECT {columns}, {buckets} FROM parquet.`{source.path}`)"


def _bucket(moment: str, seconds: int) -> str:
    return f"floor(unix_seconds({moment}) / {seconds})"


def _numpy_type(dtype: str) -> "np.dtype[np.generic]":
    return np.dtype("datetime64[us]" if dtype == "timestamp" else "object")
