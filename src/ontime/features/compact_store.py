"""An online store for Feast that holds one array per row; it has a SQLite and a Redis form.

Feast's own stores keep one Protobuf message per value, which Python decodes one by one. Here a row
is one value,

    <project>:<view>:<digest of the feature names>:<entity key values as JSON> -> float64 [1 + f]

with the event timestamp (microseconds of the Unix epoch, exact in a float64), then the features;
NaN is null. All views of all requested instances are one read.

- The order of the features is the registry's. Feast keeps it when a definition lists the same
  features in another order.
- The newest row of a key is kept, whatever the order of writes. The database compares the event
  timestamps, so that concurrent writers are safe.
- Rows that were written under other feature names are never read, because their keys differ.
- `get_online_features` with a feature service returns an `ArrayResponse`. With a list of feature
  references, and in ``feast materialize``, the stores behave as Feast documents.

Shapes: n rows, f features of a view.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import orjson
import pandas as pd
from feast import Entity, FeatureService, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from ontime.data.timestamps import EPOCH, MICROSECOND, utc_array

FeastRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


@dataclass(frozen=True)
class RowLayout:
    """Keys and bytes of one view's rows."""

    view: str
    prefix: bytes
    join_keys: tuple[str, ...]
    features: tuple[str, ...]

    @classmethod
    def of(cls, project: str, view: FeatureView) -> "RowLayout":
        features = tuple(field.name for field in view.features)
        digest = hashlib.blake2b("\n".join(features).encode(), digest_size=4).hexdigest()
        prefix = view_prefix(project, view) + f"{digest}:".encode()
        return cls(view.name, prefix, tuple(view.join_keys), features)

    @cached_property
    def absent(self) -> bytes:
        """A row of NaN, for a key without one."""
        return np.full(1 + len(self.features), np.nan).tobytes()

    def keys(self, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
        """The key of each row [n], of the entity keys [n] each."""
        rows = zip(*(columns[name] for name in self.join_keys), strict=True)
        return [self.prefix + orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in rows]

    def pack(self, event_us: np.ndarray, values: np.ndarray) -> list[bytes]:
        """The bytes of each row [n], of event timestamps [n] and features [n, f]."""
        table = np.column_stack([event_us, values]).astype(np.float64)
        data, size = table.tobytes(), len(self.absent)
        return [data[start : start + size] for start in range(0, len(data), size)]


def unpack(layouts: Sequence[RowLayout], rows: Iterable[Sequence[bytes | None]]) -> np.ndarray:
    """The rows of n instances, of each one row per layout, as float64 [n, sum of all 1 + f].

    NaN where a row is None.
    """
    absent = [layout.absent for layout in layouts]
    data = b"".join(row or nan for each in rows for row, nan in zip(each, absent, strict=True))
    return np.frombuffer(data).reshape(-1, sum(1 + len(layout.features) for layout in layouts))


def view_prefix(project: str, view: FeatureView) -> bytes:
    return f"{project}:{view.name}:".encode()


class ArrayResponse(OnlineResponse):
    """The stored features of n instances.

    Attributes:
        table: float64 [n, sum of all 1 + f], the views side by side: of each the event timestamp in
            epoch microseconds, then the features; NaN where there is no row or no value.
        features: view -> names of its features, in the order of the registry.
    """

    def __init__(self, layouts: Sequence[RowLayout], table: np.ndarray) -> None:
        super().__init__(GetOnlineFeaturesResponse())
        self.table = table
        self.features = {layout.view: layout.features for layout in layouts}

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """View -> its part of the table, float64 [n, 1 + f]."""
        ends = list(accumulate(1 + len(names) for names in self.features.values()))
        return dict(zip(self.features, np.split(self.table, ends[:-1], axis=1), strict=True))

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for view, table in self.rows.items():
            for name, column in zip(self.features[view], table.T[1:], strict=True):
                found[name] = [None if np.isnan(value) else value for value in column.tolist()]
                if include_event_timestamps:
                    found[f"{name}__ts"] = np.nan_to_num(table[:, 0] / 1e6).astype(int).tolist()
        return found


class CompactOnlineStore(OnlineStore):
    """What the two stores share; a store implements `fetch`, `put` and `delete`."""

    def __init__(self) -> None:
        self._layouts: dict[str, list[RowLayout]] = {}  # of each feature service that was read

    @abstractmethod
    def fetch(self, config: RepoConfig, keys: list[bytes]) -> list[bytes | None]:
        """The rows of the keys, in their order."""

    @abstractmethod
    def put(self, config: RepoConfig, keys: list[bytes], rows: list[bytes]) -> None:
        """Write each row unless the store holds a newer one of its key."""

    @abstractmethod
    def delete(self, config: RepoConfig, prefix: bytes) -> None:
        """Delete every row whose key starts with the prefix."""

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        *args: Any,
        **options: Any,
    ) -> OnlineResponse:
        if not isinstance(features, FeatureService):
            arguments = (config, features, entity_rows, registry, project, *args)
            return super().get_online_features(*arguments, **options)
        if (layouts := self._layouts.get(features.name)) is None:
            names = [projection.name for projection in features.feature_view_projections]
            views = [registry.get_feature_view(name, project, allow_cache=True) for name in names]
            layouts = [RowLayout.of(project, view) for view in views]
            self._layouts[features.name] = layouts
        keys = [layout.keys(entity_rows) for layout in layouts]
        unique = list(dict.fromkeys(key for each in keys for key in each))
        found = dict(zip(unique, self.fetch(config, unique), strict=True))
        rows = ([found[key] for key in each] for each in zip(*keys, strict=True))
        return ArrayResponse(layouts, unpack(layouts, rows))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        layout = RowLayout.of(config.project, table)
        keys = layout.keys(_key_columns(layout, entity_keys))
        rows = unpack([layout], ([row] for row in self.fetch(config, keys)))
        result: list[tuple[datetime | None, dict[str, Value] | None]] = []
        for event_us, *values in rows.tolist():
            if np.isnan(event_us):
                result.append((None, None))
                continue
            named = {
                name: Value() if np.isnan(value) else Value(double_val=value)
                for name, value in zip(layout.features, values, strict=True)
                if requested_features is None or name in requested_features
            }
            result.append((EPOCH + event_us * MICROSECOND, named))
        return result

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeastRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        layout = RowLayout.of(config.project, table)
        keys = layout.keys(_key_columns(layout, [key for key, *_ in data]))
        event_us = np.array([(_aware(at) - EPOCH) // MICROSECOND for _, _, at, _ in data])
        values = [[_number(row.get(name)) for name in layout.features] for _, row, _, _ in data]
        self.put(config, keys, layout.pack(event_us, np.array(values)))
        if progress:
            progress(len(data))

    def write_frames(
        self, config: RepoConfig, tables: Iterable[tuple[FeatureView, pd.DataFrame]]
    ) -> None:
        """Write rows of several views, with the columns of their tables, in one transaction."""
        keys: list[bytes] = []
        values: list[bytes] = []
        for view, rows in tables:
            layout = RowLayout.of(config.project, view)
            keys += layout.keys({name: rows[name].tolist() for name in layout.join_keys})
            event_us = utc_array(rows["event_timestamp"]).astype(np.int64)
            values += layout.pack(event_us, rows[list(layout.features)].to_numpy(np.float64))
        if keys:
            self.put(config, keys, values)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        for view in tables_to_delete:
            self.delete(config, view_prefix(config.project, view))

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        for view in tables:
            self.delete(config, view_prefix(config.project, view))


def _key_columns(layout: RowLayout, keys: Sequence[EntityKey]) -> dict[str, list[Any]]:
    rows = [
        {
            name: getattr(value, value.WhichOneof("val"))
            for name, value in zip(key.join_keys, key.entity_values, strict=True)
        }
        for key in keys
    ]
    return {name: [row[name] for row in rows] for name in layout.join_keys}


def _number(value: Value | None) -> float:
    kind = value.WhichOneof("val") if value is not None else None
    return float(getattr(value, kind)) if kind else np.nan


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
