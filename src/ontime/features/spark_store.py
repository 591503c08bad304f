"""A Feast offline store whose historical join is Spark's ``LEFT ASOF JOIN``.

Feast's own Spark store joins every earlier row and ranks them, and collects the result in the
driver. This one runs one statement from Parquet to Parquet. Materialization is inherited: DuckDB
reads the newest rows of the same files.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from ontime.features.offline_store import features_of, parquet_source
from ontime.features.spark_engine import open_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class AsofSparkOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The store's configuration; Feast finds this class by its name."""

    type: Literal["ontime.features.spark_store.AsofSparkOfflineStore"] = (
        "ontime.features.spark_store.AsofSparkOfflineStore"
    )


class AsofSparkOfflineStore(DuckDBOfflineStore):
    """Point-in-time joins by Spark, with the rules of `AsofDuckDBOfflineStore`."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """The entity rows with every referenced feature, in no order; rows out are rows in.

        Args:
            entity_df: a DataFrame, or a query of Spark such as "SELECT * FROM parquet.`folder`",
                whose rows never reach the driver.

        Raises:
            ValueError: if an option is set that this join does not support.
        """
        if full_feature_names or filter_by_created_timestamp:
            raise ValueError(
                "the ASOF join takes short feature names and no created timestamp; for anything "
                "else set offline_store: {type: spark.offline}"
            )
        views = [(view, features_of(view, feature_refs)) for view in feature_views]
        return SparkAsofJob(views, entity_df, feature_refs)


class SparkAsofJob(RetrievalJob):
    """The join of all views, run when its result is read or written."""

    full_feature_names = False
    on_demand_feature_views: ClassVar[list[OnDemandFeatureView]] = []

    def __init__(
        self,
        views: list[tuple[FeatureView, list[str]]],
        entity_df: pd.DataFrame | str,
        feature_refs: list[str],
    ) -> None:
        self.views, self.entity_df, self.feature_refs = views, entity_df, feature_refs
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

    def _to_arrow_internal(self, timeout: int | None = None) -> pyarrow.Table:
        path = Path(self._folder.name) / "joined.parquet"
        self.to_spark_df().write.mode("overwrite").parquet(str(path))
        return pyarrow.parquet.read_table(path)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal().to_pandas()

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result as the Parquet folder of a Feast saved dataset."""
        target = storage.to_data_source()
        assert isinstance(target, FileSource)
        if Path(target.path).exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=target.path)
        self.to_spark_df().write.mode("overwrite").parquet(target.path)


def asof_sql(views: list[tuple[FeatureView, list[str]]], stamp: str) -> str:
    """One statement: the rows of ``entity_rows`` with the features of every view.

    A row joins the newest feature row at or before its timestamp and not older than the view's TTL.
    """
    columns, joins = ["entity_rows.*"], []
    for number, (view, names) in enumerate(views):
        rows = f"rows_{number}"
        event = f"{rows}.{parquet_source(view).timestamp_field}"
        keys = [f"entity_rows.{key.name} = {rows}.{key.name}" for key in view.entity_columns]
        fresh = "TRUE"
        if view.ttl:
            seconds = int(view.ttl.total_seconds())
            fresh = f"entity_rows.{stamp} <= {event} + INTERVAL '{seconds}' SECOND"
            keys.append(f"{_bucket(f'entity_rows.{stamp}', seconds)} = {rows}.bucket")
        joins.append(
            f"LEFT ASOF JOIN {_bucketed_rows(view, names)} AS {rows} "
            f"MATCH_CONDITION (entity_rows.{stamp} >= {event})"
            + (f" ON {' AND '.join(keys)}" if keys else "")
        )
        columns += [f"CASE WHEN {fresh} THEN {rows}.{name} END AS {name}" for name in names]
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
