"""The online read: the features of prediction requests, from Feast's online store.

`OnlineFeatures.read` returns for a request at a moment what the historical join returns for it,
bit for bit; ``tests/integration/test_train_serve_equality.py`` compares them. From the store to the
model there are arrays only: a data frame of one row costs more than the read.

Shapes: n instances, f numeric features.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from feast import FeatureService, FeatureStore
from feast.infra.online_stores.helpers import get_online_store_from_config

from ontime.errors import OnlineStoreUnavailable
from ontime.features.compact_store import ArrayResponse, CompactOnlineStore
from ontime.features.feast_config import FEATURE_SERVICE
from ontime.features.spec import View
from ontime.problem import (
    ENTITY_KEYS,
    FEATURE_SPEC,
    VIEWS,
    entity_key_columns,
    request_features,
)

US_PER_S = 1e6
# View -> features that are computed from its columns. Those of a sequence are noted as the view.
DERIVED = {
    view.name: names
    for view in VIEWS
    if (names := [name for name in FEATURE_SPEC.groups[view.name] if name not in view.columns])
    and not view.events
}


@dataclass(frozen=True)
class OnlineRead:
    """Features of n instances, and which of them were unusable.

    A value that was never written, or is null, is *missing*; one older than its view's TTL at the
    prediction time is *stale*; one that became known after it is *not yet known*. All are NaN; the
    model was trained with NaN. A feature that is computed from stored values has their reason. A
    sequence counts as one feature with the name of its view, unusable if there is no usable row.

    Attributes:
        fields: request field -> values [n].
        numeric: float32 [n, f], in the order of ``FEATURE_SPEC.numeric``.
        missing: names of the missing features of each instance.
        stale: names of the stale features of each instance.
        not_yet_known: names of the features of each instance that were not yet known.
        age_seconds: view -> age of the oldest row that was read.
    """

    fields: Mapping[str, np.ndarray]
    numeric: np.ndarray
    missing: list[list[str]]
    stale: list[list[str]]
    not_yet_known: list[list[str]]
    age_seconds: dict[str, float]

    @property
    def frame(self) -> pd.DataFrame:
        """Request fields and features, one row per instance."""
        features = pd.DataFrame(self.numeric, columns=list(FEATURE_SPEC.numeric))
        return pd.DataFrame(dict(self.fields)).join(features)


class OnlineFeatures:
    """Reads features from the online store.

    The feature service is looked up once: a lookup per request costs ten milliseconds.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.service: FeatureService = store.get_feature_service(FEATURE_SERVICE)

    def read(self, fields: Mapping[str, np.ndarray], as_of: np.ndarray) -> OnlineRead:
        """The features of n instances, of each as known at its prediction time.

        Args:
            fields: the request fields [n] each, times as datetime64[us] in UTC.
            as_of: the prediction times, datetime64[us] [n].

        Raises:
            OnlineStoreUnavailable: if the store does not respond.
        """
        n = len(as_of)
        response = self._fetch(entity_key_columns(fields))
        as_of_us = as_of.astype("datetime64[us]").astype(np.float64)
        stored: dict[str, np.ndarray] = {}
        age_seconds: dict[str, float] = {}
        missing: list[list[str]] = [[] for _ in range(n)]
        stale: list[list[str]] = [[] for _ in range(n)]
        not_yet_known: list[list[str]] = [[] for _ in range(n)]
        states: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # view -> later [n], expired [n]
        for view in VIEWS:
            table, columns = response.rows[view.name], response.features[view.name]
            age = (as_of_us - table[:, 0]) / US_PER_S  # NaN where there is no row
            # Only the newest row is kept; a prediction in the past must not read it.
            states[view.name] = later, expired = age < 0, age > view.ttl.total_seconds()
            values = np.where(later[:, None], np.nan, table[:, 1:])
            if view.events:
                _note(missing, np.isnan(age)[:, None], [view.name])
                _note(not_yet_known, later[:, None], [view.name])
                _note(stale, expired[:, None], [view.name])
                values[expired] = np.nan
                if columns != (declared := tuple(view.columns)):  # Feast keeps an earlier order
                    values = values[:, [columns.index(name) for name in declared]]
                stored[view.name] = values.reshape(n, view.events, -1)
                if (found := age >= 0).any():
                    age_seconds[view.name] = float(age[found].max())
                continue
            absent = np.isnan(values)
            if absent.any():
                _note(missing, absent & ~later[:, None], columns, view.helper_columns)
                _note(not_yet_known, absent & later[:, None], columns, view.helper_columns)
            if expired.any():
                _note(stale, expired[:, None] & ~absent, columns, view.helper_columns)
                values[expired] = np.nan
            if (found := ~absent.all(axis=1)).any():
                age_seconds[view.name] = float(age[found].max())
            stored.update(zip(columns, values.T, strict=True))
        features = stored | request_features({**fields, **stored}, as_of)
        for name, derived in DERIVED.items():
            later, expired = states[name]
            absent = np.isnan([features[each] for each in derived]).T  # [n, derived]
            _note(missing, absent & ~(later | expired)[:, None], derived)
            _note(not_yet_known, absent & later[:, None], derived)
            _note(stale, absent & expired[:, None], derived)
        numeric = FEATURE_SPEC.matrix(features)
        return OnlineRead(fields, numeric, missing, stale, not_yet_known, age_seconds)

    def _fetch(self, keys: Mapping[str, np.ndarray]) -> ArrayResponse:
        try:
            response = self.store.get_online_features(
                self.service, {name: keys[name].tolist() for name in ENTITY_KEYS}
            )
            assert isinstance(response, ArrayResponse)
        except Exception as error:  # every store raises its own; callers need one
            raise OnlineStoreUnavailable(
                f"a prediction needs the online store, which failed: {error!r}. "
                "Is it running, and was `make features` run?"
            ) from error
        return response


def _note(
    notes: list[list[str]], where: np.ndarray, names: Sequence[str], skipped: Sequence[str] = ()
) -> None:
    """Add the names at which ``where`` [n, names] is true."""
    for row, column in np.argwhere(where):
        if (name := names[column]) not in skipped:
            notes[row].append(name)


class OnlineWriter:
    """Writes feature rows to the online store, as arrays and in one transaction.

    Feast's `write_to_online_store` reads the definition of every view at each call, which took half
    of an hour's replay.
    """

    def __init__(self, store: FeatureStore) -> None:
        online_store = get_online_store_from_config(store.config.online_store)
        assert isinstance(online_store, CompactOnlineStore)
        self._online_store, self._config = online_store, store.config
        self._views = {view.name: store.get_feature_view(view.name) for view in VIEWS}

    def write(self, tables: Iterable[tuple[View, pd.DataFrame]]) -> None:
        """Write rows of several views; the store keeps the newest row of each key."""
        self._online_store.write_frames(
            self._config, [(self._views[view.name], rows) for view, rows in tables]
        )
