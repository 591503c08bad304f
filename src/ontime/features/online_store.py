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
# Index in `VIEWS` -> features that are computed from the view's columns.
DERIVED = {
    i: names
    for i, view in enumerate(VIEWS)
    if (names := [name for name in FEATURE_SPEC.groups[view.name] if name not in view.columns])
    and not view.events
}
TTL_S = np.array([view.ttl.total_seconds() for view in VIEWS])


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


class TableIndex:
    """Where the features are in the table of an `ArrayResponse`; found once.

    With it a read computes with all views at once. One view after the other took twice as long: for
    few rows the time of numpy is the number of its calls.

    Attributes:
        names: of the table's columns.
        view: of each column the index of its view in `VIEWS`.
        stamps: column of each view's event timestamp.
        sequences: view of a sequence -> its columns.
        inputs: columns that are numeric inputs, and their places among these.
        noted: names of the features and sequences that are stored.
        markers: of each of them the column that is NaN where it is missing.
    """

    def __init__(self, features: Mapping[str, Sequence[str]]) -> None:
        """`features`: view -> its features, both in the order of the table."""
        stamps = {view: f"timestamp of {view}" for view in features}
        self.names = [name for view in features for name in (stamps[view], *features[view])]
        at = {name: i for i, name in enumerate(self.names)}
        order = {view.name: i for i, view in enumerate(VIEWS)}
        self.view = np.array([order[view] for view in features for _ in (view, *features[view])])
        self.stamps = [at[stamps[view.name]] for view in VIEWS]
        self.sequences = {v.name: [at[name] for name in v.columns] for v in VIEWS if v.events}
        stored = [name for name in FEATURE_SPEC.tabular if name in at]
        places = [FEATURE_SPEC.places[name].start for name in stored]
        self.inputs = [at[name] for name in stored], places
        whole = {name: at[stamps[name]] for name in self.sequences}
        noted = {name: at[name] for view in VIEWS for name in view.inputs} | whole
        self.noted, self.markers = list(noted), list(noted.values())


class OnlineFeatures:
    """Reads features from the online store.

    The feature service is looked up once: a lookup per request costs ten milliseconds.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.service: FeatureService = store.get_feature_service(FEATURE_SERVICE)
        self._index: TableIndex | None = None

    def read(self, fields: Mapping[str, np.ndarray], as_of: np.ndarray) -> OnlineRead:
        """The features of n instances, of each as known at its prediction time.

        Args:
            fields: the request fields [n] each, times as datetime64[us] in UTC.
            as_of: the prediction times, datetime64[us] [n].

        Raises:
            OnlineStoreUnavailable: if the store does not respond.
        """
        response = self._fetch(entity_key_columns(fields))
        index = self._index = self._index or TableIndex(response.features)
        n = len(as_of)
        as_of_us = as_of.astype("datetime64[us]").astype(np.float64)
        age = (as_of_us[:, None] - response.table[:, index.stamps]) / US_PER_S  # NaN without a row
        # Only the newest row is kept; a prediction in the past must not read it.
        later, expired = age < 0, age > TTL_S  # [n, views]
        table = np.where((later | expired)[:, index.view], np.nan, response.table)
        stored = dict(zip(index.names, table.T, strict=True))
        for name, columns in index.sequences.items():
            stored[name] = table[:, columns].reshape(n, FEATURE_SPEC.sequences[name], -1)
        computed = request_features({**fields, **stored}, as_of)
        numeric = np.empty((n, len(FEATURE_SPEC.numeric)), dtype=np.float32)
        columns, places = index.inputs
        numeric[:, places] = table[:, columns]
        for name, values in computed.items():
            numeric[:, FEATURE_SPEC.places[name]] = values.reshape(n, -1)

        missing: list[list[str]] = [[] for _ in range(n)]
        stale: list[list[str]] = [[] for _ in range(n)]
        not_yet_known: list[list[str]] = [[] for _ in range(n)]
        absent, views = np.isnan(response.table[:, index.markers]), index.view[index.markers]
        _note(missing, absent & ~later[:, views], index.noted)
        _note(not_yet_known, later[:, views], index.noted)
        _note(stale, expired[:, views] & ~absent, index.noted)
        for i, names in DERIVED.items():
            absent = np.isnan(np.stack([computed[name] for name in names], axis=1))
            _note(missing, absent & ~(later | expired)[:, [i]], names)
            _note(not_yet_known, absent & later[:, [i]], names)
            _note(stale, absent & expired[:, [i]], names)
        oldest = np.where(age >= 0, age, -1).max(axis=0).tolist()
        age_seconds = {v.name: s for v, s in zip(VIEWS, oldest, strict=True) if s >= 0}
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


def _note(notes: list[list[str]], where: np.ndarray, names: Sequence[str]) -> None:
    """Add the names at which ``where`` [n, names] is true."""
    for row, column in zip(*where.nonzero(), strict=True):
        notes[row].append(names[column])


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
