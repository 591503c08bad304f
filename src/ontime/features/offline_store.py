"""A Feast offline store: DuckDB's, with the historical join written as ``ASOF JOIN``.

Feast's own DuckDB store joins every earlier row and keeps the newest by ``row_number``; for 300,000
requests that is the slowest step of a training run. ``ASOF JOIN`` finds the newest row directly.
Each view is joined separately and the columns are combined: a chain of joins in one statement sorts
ever wider rows and takes three times as long. All but the join is inherited. The configuration
selects the store by its class name, which is Feast's documented way to add one.
"""

from pathlib import Path
from typing import ClassVar, Literal

import duckdb
import pandas as pd
import pyarrow
import pyarrow.parquet
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The store's configuration; Feast finds this class by its name."""

    type: Literal["ontime.features.offline_store.AsofDuckDBOfflineStore"] = (
        "ontime.features.offline_store.AsofDuckDBOfflineStore"
    )


class AsofDuckDBOfflineStore(DuckDBOfflineStore):
    """Point-in-time joins of Parquet feature views by ``ASOF JOIN``.

    A row joins the newest feature row at or before its timestamp and not older than the view's
    TTL (both ends included, as in Feast). Feature rows are unique by key and timestamp here, which
    the table schemas enforce, so there are no ties.
    """

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
        """The entity rows with every referenced feature; rows out are rows in.

        Raises:
            ValueError: if an option is set that this join does not support.
        """
        if isinstance(entity_df, str) or full_feature_names or filter_by_created_timestamp:
            raise ValueError(
                "the ASOF join takes entity rows as a DataFrame, short feature names and no "
                "created timestamp; for anything else set offline_store: {type: duckdb}"
            )
        stamp = infer_event_timestamp_from_entity_df(entity_df.dtypes.to_dict())
        views = [(view, features_of(view, feature_refs)) for view in feature_views]
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in entity_df.columns if name != stamp],
            min_event_timestamp=entity_df[stamp].min(),
            max_event_timestamp=entity_df[stamp].max(),
        )
        return AsofJob(views, entity_df, stamp, metadata)


class AsofJob(RetrievalJob):
    """One ``ASOF LEFT JOIN`` per view over the entity rows, run when the result is read."""

    full_feature_names = False
    on_demand_feature_views: ClassVar[list[OnDemandFeatureView]] = []

    def __init__(
        self,
        views: list[tuple[FeatureView, list[str]]],
        entity_df: pd.DataFrame,
        stamp: str,
        metadata: RetrievalMetadata,
    ) -> None:
        self.statements = [asof_sql(view, names, stamp) for view, names in views]
        self.entity_df, self._metadata = entity_df, metadata

    @property
    def metadata(self) -> RetrievalMetadata:
        """The requested features, keys and period."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pyarrow.Table:
        result = pyarrow.Table.from_pandas(self.entity_df, preserve_index=False)
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("result", result)
            db.execute(
                "CREATE TABLE entity_rows AS "
                "SELECT *, row_number() OVER () AS entity_row FROM result"
            )
            for statement in self.statements:
                features = db.execute(statement).to_arrow_table()
                for name in features.column_names:  # raises unless there is one value per row
                    result = result.append_column(name, features[name])
        return result

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal().to_pandas()

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result as the Parquet file of a Feast saved dataset."""
        target = storage.to_data_source()
        assert isinstance(target, FileSource)
        path = Path(target.path)
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        pyarrow.parquet.write_table(self._to_arrow_internal(), path)


def asof_sql(view: FeatureView, names: list[str], stamp: str) -> str:
    """SQL for the features ``names`` of one view, one row per row of ``entity_rows``, in order."""
    source = parquet_source(view)
    event = f"rows.{source.timestamp_field}"
    equal = [f"entity_rows.{entity.name} = rows.{entity.name}" for entity in view.entity_columns]
    fresh = "TRUE"
    if view.ttl:
        seconds = int(view.ttl.total_seconds())
        fresh = f"entity_rows.{stamp} <= {event} + INTERVAL {seconds} SECOND"
    columns = [f"CASE WHEN {fresh} THEN rows.{name} END AS {name}" for name in names]
    return f"""
        SELECT {", ".join(columns)}
        FROM entity_rows ASOF LEFT JOIN read_parquet('{source.path}') AS rows
        ON {" AND ".join([*equal, f"entity_rows.{stamp} >= {event}"])}
        ORDER BY entity_row
    """


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
