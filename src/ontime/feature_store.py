"""Feast, opened from the settings, and the online read that a prediction starts with.

`OnlineFeatures.read` gives for a flight at a moment what the historical join gives for the same
flight at the same moment, bit for bit; `tests/test_train_serve_equality.py` holds this.
"""

import sqlite3
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from feast import FeatureService, FeatureStore, RepoConfig

from ontime.features import FEATURE_SPEC, JOIN_KEYS, VIEWS
from ontime.features.request import (
    REQUEST_COLUMNS,
    SLACK_COLUMNS,
    add_request_features,
    departure_hour,
)
from ontime.settings import Settings

SERVICE = "flight_features"
# By name alone, not {"type": …}: so Feast imports it, and DuckDB, only for a historical join.
OFFLINE_STORE = "ontime.offline_store.AsofDuckDBOfflineStore"
# Seconds. Without these a request waits as long as a Redis that hangs, and with the tries that its
# client makes of itself (three, and pauses) it would still be 17 s.
REDIS_BOUNDS = "socket_timeout=2,socket_connect_timeout=2,retry=null"
CONNECT_BOUND = {"connect_timeout": 5}
NEVER_STORED = ""  # the key of an unknown aircraft: Feast refuses None, and no row has this one


class OnlineStoreUnavailable(RuntimeError):
    """The online store did not answer within its bound."""


def repo_config(settings: Settings) -> RepoConfig:
    """Feast's configuration; ``feature_repo/feature_store.yaml`` is its embedded default."""
    home = settings.var / "feast"
    online: dict[str, object] = {"type": "sqlite", "path": str(home / "online.db")}
    if settings.redis_url:
        online = {"type": "redis", "connection_string": f"{settings.redis_url},{REDIS_BOUNDS}"}
    registry: dict[str, object] = {"registry_type": "file", "path": str(home / "registry.db")}
    if settings.feast_registry_url:
        registry = {
            "registry_type": "sql",
            "path": settings.feast_registry_url,
            # Read once: definitions change with the code. Read again during a request, a registry
            # that is down would keep it waiting.
            "cache_ttl_seconds": 0,
            "sqlalchemy_config_kwargs": {"pool_pre_ping": True, "connect_args": CONNECT_BOUND},
        }
    return RepoConfig(
        project="ontime",
        provider="local",
        registry=registry,
        online_store=online,
        offline_store=OFFLINE_STORE,
        materialization={"pull_latest_features": True},
        entity_key_serialization_version=3,
    )


def open_feature_store(settings: Settings) -> FeatureStore:
    """The store that the settings name."""
    home = settings.var / "feast"
    home.mkdir(parents=True, exist_ok=True)
    if not settings.redis_url:
        # The mode stays with the file: the API reads while a replay writes, and a write costs one
        # sync instead of several.
        with sqlite3.connect(home / "online.db") as online:
            online.execute("PRAGMA journal_mode=WAL")
        online.close()
    return FeatureStore(config=repo_config(settings))


@dataclass(frozen=True)
class OnlineRead:
    """Features of n flights: ``frame`` [n rows], and what was not usable in each row.

    A value that was never written, or only became known after ``as_of``, is *missing*; one older
    than its view's TTL at ``as_of`` is *stale*. Both are NaN in the frame: the network was trained
    with both.
    """

    frame: pd.DataFrame
    missing: list[list[str]]
    stale: list[list[str]]
    age_seconds: dict[str, float]  # oldest row read, a view


class OnlineFeatures:
    """Reads the features of flights from the online store.

    The feature service is looked up once: looking it up per request costs ten milliseconds.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.service: FeatureService = store.get_feature_service(SERVICE)

    def read(self, flights: pd.DataFrame, as_of: datetime) -> OnlineRead:
        """Features of ``flights`` as the online store holds them, judged fresh or stale at as_of.

        Args:
            flights: carrier, flight, origin, dest, tailnum (or None), scheduled_departure and
                scheduled_arrival (UTC).
            as_of: the moment of asking.

        Raises:
            OnlineStoreUnavailable: if the store does not answer.
        """
        values = self._fetch(flights)
        columns: dict[str, np.ndarray] = {}
        age_seconds = {}
        missing: list[list[str]] = [[] for _ in range(len(flights))]
        stale: list[list[str]] = [[] for _ in range(len(flights))]
        for view in VIEWS:
            first = next(iter(view.columns))
            age = as_of.timestamp() - np.array(values[f"{first}__ts"], dtype=np.float64)
            expired = age > view.ttl.total_seconds()
            found = np.zeros(len(flights), dtype=bool)
            for name in view.columns:
                column = np.array(values[name], dtype=np.float64)  # None becomes NaN
                # Feast keeps the newest row only: who asks about the past must not see it.
                column[age < 0] = np.nan
                absent = np.isnan(column)
                found |= ~absent
                if name not in view.hidden:
                    _note(missing, absent, name)
                    _note(stale, expired & ~absent, name)
                columns[name] = np.where(expired, np.nan, column)
            if found.any():
                age_seconds[view.name] = float(age[found].max())
        return OnlineRead(_as_frame(flights, columns, as_of), missing, stale, age_seconds)

    def _fetch(self, flights: pd.DataFrame) -> dict[str, list[float | None]]:
        known = {
            "departure_hour": departure_hour(flights.scheduled_departure),
            "tailnum": flights.tailnum.fillna(NEVER_STORED),
        }
        entities = {key: known.get(key, flights.get(key)).tolist() for key in JOIN_KEYS}
        try:
            response = self.store.get_online_features(self.service, entities)
        except Exception as error:  # each store has its own errors; to a caller they mean one thing
            raise OnlineStoreUnavailable(
                f"the online store must answer to predict, and did not: {error!r}. "
                "Is it running, and was `make features` run?"
            ) from error
        return response.to_dict(include_event_timestamps=True)


def _as_frame(
    flights: pd.DataFrame, columns: dict[str, np.ndarray], as_of: datetime
) -> pd.DataFrame:
    """Flights with stored and request features. Put together once: a frame of sixty columns that
    grows column by column costs more than reading them."""
    request = add_request_features(
        pd.DataFrame(
            {
                "scheduled_departure": flights.scheduled_departure.array,
                "scheduled_arrival": flights.scheduled_arrival.array,
                "aircraft_earliest_return_epoch_min": columns["aircraft_earliest_return_epoch_min"],
            }
        ),
        pd.Series(pd.Timestamp(as_of), index=range(len(flights))),
    )
    given = {name: flights[name].array for name in flights.columns}
    stored = {name: column for name, column in columns.items() if name in FEATURE_SPEC.numeric}
    asked = {name: request[name].array for name in REQUEST_COLUMNS + SLACK_COLUMNS}
    floats = {name: values.astype(np.float32) for name, values in (stored | asked).items()}
    return pd.DataFrame(given | floats)


def _note(notes: list[list[str]], where: np.ndarray, name: str) -> None:
    for row in np.flatnonzero(where):
        notes[row].append(name)


def write_online(store: FeatureStore, view_name: str, rows: pd.DataFrame) -> None:
    """Put the newest row of each key into the online store.

    Sorted by time first: SQLite keeps whatever is written last, also when it is older.
    """
    keys = next(view.keys for view in VIEWS if view.name == view_name)
    newest = rows.sort_values("event_timestamp", kind="stable").drop_duplicates(
        subset=list(keys), keep="last"
    )
    if len(newest):
        store.write_to_online_store(view_name, df=newest)
