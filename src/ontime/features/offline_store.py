"""A Feast offline store: DuckDB's, with the historical join written as ``ASOF JOIN``.

Feast's own DuckDB store joins every earlier row and keeps the newest by ``row_number``; for 300,000
requests that is the slowest step of a training run. ``ASOF JOIN`` finds the newest row directly.
Each view is joined separately and the columns are combined: a chain of joins in one statement sorts
ever wider rows and takes three times as long. All but the join is inherited. The configuration
selects the store by its class name, which is Feast's documented way to add one.
"""

from pathlib import Path
from typing import Literal

import duckdb
import pandas as pd
import pyarrow
import pyarrow.parquet
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

from ontime.data.locations import register_parquet
from ontime.features.asof import (
    AsofJob,
    AsofOfflineStore,
    equal_keys,
    fresh_columns,
    parquet_source,
)


class DuckDBAsofJob(AsofJob):
    """One ``ASOF LEFT JOIN`` per view; the rows keep their order."""

    def __init__(
        self,
        views: list[tuple[FeatureView, list[str]]],
        entity_df: pd.DataFrame | str,
        feature_refs: list[str],
    ) -> None:
        if isinstance(entity_df, str):
            raise ValueError("the ASOF join takes entity rows as a DataFrame on DuckDB, not as SQL")
        super().__init__(views, entity_df, feature_refs)
        self.rows = entity_df
        self.stamp = infer_event_timestamp_from_entity_df(entity_df.dtypes.to_dict())
        self.statements = [asof_sql(view, names, self.stamp) for view, names in views]

    @property
    def metadata(self) -> RetrievalMetadata:
        """The requested features, keys and period."""
        return RetrievalMetadata(
            features=self.feature_refs,
            keys=[name for name in self.rows.columns if name != self.stamp],
            min_event_timestamp=self.rows[self.stamp].min(),
            max_event_timestamp=self.rows[self.stamp].max(),
        )

    def write(self, path: Path) -> None:
        pyarrow.parquet.write_table(self._to_arrow_internal(), path)

    def _to_arrow_internal(self, timeout: int | None = None) -> pyarrow.Table:
        result = pyarrow.Table.from_pandas(self.rows, preserve_index=False)
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("result", result)
            db.execute(
                "CREATE TABLE entity_rows AS "
                "SELECT *, row_number() OVER () AS entity_row FROM result"
            )
            for view, _ in self.views:
                register_parquet(db, f"{view.name}_rows", parquet_source(view).path)
            for statement in self.statements:
                features = db.execute(statement).to_arrow_table()
                for name in features.column_names:  # raises unless there is one value per row
                    result = result.append_column(name, features[name])
        return result


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The store's configuration; Feast finds this class by its name."""

    type: Literal["ontime.features.offline_store.AsofDuckDBOfflineStore"] = (
        "ontime.features.offline_store.AsofDuckDBOfflineStore"
    )


class AsofDuckDBOfflineStore(AsofOfflineStore):
    """The joins of `AsofOfflineStore`, run by DuckDB in this process."""

    job = DuckDBAsofJob


def asof_sql(view: FeatureView, names: list[str], stamp: str) -> str:
    """SQL for the features ``names`` of one view, one row per row of ``entity_rows``, in order.

    It reads the view's Parquet under the name ``<view>_rows``.
    """
    source = parquet_source(view)
    newest = f"entity_rows.{stamp} >= rows.{source.timestamp_field}"
    return f"""
        SELECT {", ".join(fresh_columns(view, names, stamp, "rows"))}
        FROM entity_rows ASOF LEFT JOIN {view.name}_rows AS rows
        ON {" AND ".join([*equal_keys(view, "rows"), newest])}
        ORDER BY entity_row
    """
