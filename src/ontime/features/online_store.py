"""The online read: the features of prediction requests, from Feast's online store.

`OnlineFeatures.read` returns for a request at a moment what the historical join returns for it,
bit for bit; ``tests/integration/test_train_serve_equality.py`` compares them.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from feast import FeatureService, FeatureStore

from ontime.data.timestamps import column_arrays, utc_datetime64
from ontime.errors import OnlineStoreUnavailable
from ontime.features.feast_config import FEATURE_SERVICE
from ontime.features.spec import View
from ontime.problem import (
    ENTITY_KEYS,
    FEATURE_SPEC,
    VIEWS,
    Instance,
    entity_key_columns,
    request_features,
)


@dataclass(frozen=True)
class OnlineRead:
    """Features of n requests: ``frame`` [n rows], and which of them were unusable in each row.

    A value that was never written, or became known only after ``as_of``, is *missing*; one older
    than its view's TTL at ``as_of`` is *stale*. Both are NaN in the frame; the model was trained
    with both. age_seconds: for each view, the age of the oldest row that was read.
    """

    frame: pd.DataFrame
    missing: list[list[str]]
    stale: list[list[str]]
    age_seconds: dict[str, float]


class OnlineFeatures:
    """Reads features from the online store.

    The feature service is looked up once: a lookup per request costs ten milliseconds.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.service: FeatureService = store.get_feature_service(FEATURE_SERVICE)

    def read(self, instances: pd.DataFrame, as_of: datetime) -> OnlineRead:
        """The features of ``instances`` as known at ``as_of``.

        Args:
            instances: the request fields, n rows; times in UTC.
            as_of: the prediction time.

        Raises:
            OnlineStoreUnavailable: if the store does not respond.
        """
        n = len(instances)
        fields = column_arrays(instances, Instance.model_fields)
        values = self._fetch(entity_key_columns(fields))
        stored: dict[str, np.ndarray] = {}
        age_seconds = {}
        missing: list[list[str]] = [[] for _ in range(n)]
        stale: list[list[str]] = [[] for _ in range(n)]
        for view in VIEWS:
            first = next(iter(view.columns))
            age = as_of.timestamp() - np.array(values[f"{first}__ts"], dtype=np.float64)
            expired = age > view.ttl.total_seconds()
            found = np.zeros(n, dtype=bool)
            for name in view.columns:
                column = np.array(values[name], dtype=np.float64)  # None becomes NaN
                # Feast keeps the newest row only; a prediction in the past must not read it.
                column[age < 0] = np.nan
                absent = np.isnan(column)
                found |= ~absent
                if name not in view.helper_columns:
                    _note(missing, absent, name)
                    _note(stale, expired & ~absent, name)
                stored[name] = np.where(expired, np.nan, column)
            if found.any():
                age_seconds[view.name] = float(age[found].max())
        computed = request_features(fields | stored, np.full(n, utc_datetime64(as_of)))
        features = stored | computed
        numeric = {name: features[name].astype(np.float32) for name in FEATURE_SPEC.numeric}
        # One frame from arrays: adding sixty columns one by one takes longer than reading them.
        given = {name: instances[name].array for name in instances.columns}
        return OnlineRead(pd.DataFrame(given | numeric), missing, stale, age_seconds)

    def _fetch(self, keys: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
        """Feature -> value, and feature__ts -> epoch seconds of its row, [n] each."""
        try:
            response = self.store.get_online_features(
                self.service, {name: keys[name].tolist() for name in ENTITY_KEYS}
            )
        except Exception as error:  # every store raises its own; callers need one
            raise OnlineStoreUnavailable(
                f"a prediction needs the online store, which failed: {error!r}. "
                "Is it running, and was `make features` run?"
            ) from error
        return response.to_dict(include_event_timestamps=True)


def _note(notes: list[list[str]], where: np.ndarray, name: str) -> None:
    for row in np.flatnonzero(where):
        notes[row].append(name)


def write_online(store: FeatureStore, view: View, rows: pd.DataFrame) -> None:
    """Write the newest row of each key to the online store.

    Older rows are dropped first: SQLite keeps the row that is written last, whatever its time.
    """
    newest = rows.sort_values("event_timestamp", kind="stable").drop_duplicates(
        subset=list(view.keys), keep="last"
    )
    if len(newest):
        store.write_to_online_store(view.name, df=newest)
