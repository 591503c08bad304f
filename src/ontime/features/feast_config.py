"""Feast's configuration, made from the settings. Imports neither DuckDB nor the views."""

import sqlite3
import warnings

from feast import FeatureStore, RepoConfig

from ontime.settings import Settings

# Importing Feast shows the DeprecationWarnings of every library; this is Python's default again.
warnings.simplefilter("ignore", DeprecationWarning)

FEATURE_SERVICE = "prediction_features"
# A name, not {"type": ...}: Feast then imports it, and DuckDB, only for a historical join.
OFFLINE_STORE = "ontime.features.offline_store.AsofDuckDBOfflineStore"
# Seconds. Without timeouts a request waits for as long as Redis hangs; with the three retries that
# the client makes by default it waits 17 s.
REDIS_TIMEOUTS = "socket_timeout=2,socket_connect_timeout=2,retry=null"
CONNECT_TIMEOUT = {"connect_timeout": 5}


def repo_config(settings: Settings) -> RepoConfig:
    """Feast's configuration; ``feature_repo/feature_store.yaml`` is its embedded default."""
    home = settings.data_dir / "feast"
    online: dict[str, object] = {"type": "sqlite", "path": str(home / "online.db")}
    if settings.redis_url:
        online = {"type": "redis", "connection_string": f"{settings.redis_url},{REDIS_TIMEOUTS}"}
    registry: dict[str, object] = {"registry_type": "file", "path": str(home / "registry.db")}
    if settings.feast_registry_url:
        registry = {
            "registry_type": "sql",
            "path": settings.feast_registry_url,
            # Never refreshed: definitions change with the code only, and a refresh during a request
            # would wait for a registry that is down.
            "cache_ttl_seconds": 0,
            "sqlalchemy_config_kwargs": {"pool_pre_ping": True, "connect_args": CONNECT_TIMEOUT},
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
    """Feast's store for the settings; its folder is created, SQLite is set to WAL mode."""
    home = settings.data_dir / "feast"
    home.mkdir(parents=True, exist_ok=True)
    if not settings.redis_url:
        # WAL mode stays with the file. The API reads while the simulation writes, and a write costs
        # one sync instead of several.
        with sqlite3.connect(home / "online.db") as online:
            online.execute("PRAGMA journal_mode=WAL")
        online.close()
    return FeatureStore(config=repo_config(settings))
