"""What the offline stores of DuckDB and Spark share: both join by an ``ASOF JOIN``.

`AsofOfflineStore` checks what the join supports and hands it to the engine's `AsofJob`; it also
materializes from S3. `equal_keys` and `fresh_columns` are the SQL that both engines write alike.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import ibis
import pandas as pd
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.ibis import pull_latest_from_table_or_query_ibis
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from ontime.data.locations import arrow_dataset, is_on_s3


class AsofJob(RetrievalJob):
    """The join of all views over the entity rows, run when the result is read or written."""

    full_feature_names = False
    on_demand_feature_views: ClassVar[list[OnDemandFeatureView]] = []

    def __init__(
        self,
        views: list[tuple[FeatureView, list[str]]],
        entity_df: pd.DataFrame | str,
        feature_refs: list[str],
    ) -> None:
        self.views, self.entity_df, self.feature_refs = views, entity_df, feature_refs

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the result as Parquet, over what is at the path."""

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal().to_pandas()

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result as the Parquet of a Feast saved dataset."""
        target = storage.to_data_source()
        assert isinstance(target, FileSource)
        path = Path(target.path)
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        self.write(path)


class AsofOfflineStore(DuckDBOfflineStore):
    """Point-in-time joins of Parquet feature views, by the job of an engine.

    A row joins the newest feature row at or before its timestamp and not older than the view's
    TTL (both ends included, as in Feast). Feature rows are unique by key and timestamp here, which
    the table schemas enforce, so there are no ties.
    """

    job: ClassVar[type[AsofJob]]

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *args: Any, **kwargs: Any
    ) -> RetrievalJob:
        """The newest row of each key, for materialization.

        Files on S3 are read by Arrow, because Feast's reader downloads DuckDB's extension for them.
        """
        if not isinstance(data_source, FileSource) or not is_on_s3(data_source.path):
            return DuckDBOfflineStore.pull_latest_from_table_or_query(
                config, data_source, *args, **kwargs
            )
        kwargs |= {
            "data_source_reader": lambda *_: ibis.memtable(arrow_dataset(data_source.path)),
            "data_source_writer": None,  # of a persisted result, which this is not
        }
        return pull_latest_from_table_or_query_ibis(config, data_source, *args, **kwargs)

    @classmethod
    def get_historical_features(
        cls,
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """The entity rows with every referenced feature; rows out are rows in.

        Raises:
            ValueError: if an option is set that this join does not support.
        """
        if full_feature_names or filter_by_created_timestamp:
            raise ValueError(
                "the ASOF join takes short feature names and no created timestamp; for anything "
                "else use the offline store that Feast ships for the engine"
            )
        views = [(view, features_of(view, feature_refs)) for view in feature_views]
        return cls.job(views, entity_df, feature_refs)


def equal_keys(view: FeatureView, rows: str) -> list[str]:
    """The conditions that an entity row and a row of the view have the same keys."""
    return [f"entity_rows.{key.name} = {rows}.{key.name}" for key in view.entity_columns]


def fresh_columns(view: FeatureView, names: list[str], stamp: str, rows: str) -> list[str]:
    """A view's features, NULL where the joined row is older than the view's TTL."""
    fresh = "TRUE"
    if view.ttl:
        event = f"{rows}.{parquet_source(view).timestamp_field}"
        seconds = int(view.ttl.total_seconds())
        fresh = f"entity_rows.{stamp} <= {event} + INTERVAL '{seconds}' SECOND"
    return [f"CASE WHEN {fresh} THEN {rows}.{name} END AS {name}" for name in names]


def parquet_source(view: FeatureView) -> FileSource:
    """The Parquet files of a view."""
    source = view.batch_source
    if not isinstance(source, FileSource) or source.created_timestamp_column:
        raise ValueError(f"view {view.name}: the ASOF join reads Parquet without a created time")
    return source


def features_of(view: FeatureView, feature_refs: list[str]) -> list[str]:
    """The names of a view's features among references of the form ``view:feature``."""
    prefix = f"{view.projection.name_to_use()}:"
    return [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]
