"""Feast's configuration, made from the settings. Imports neither DuckDB nor the views."""

import warnings

from feast import FeatureStore, RepoConfig

from ontime.settings import Settings

# Importing Feast shows the DeprecationWarnings of every library; this is Python's default again.
warnings.simplefilter("ignore", DeprecationWarning)

FEATURE_SERVICE = "prediction_features"
# Names, not {"type": ...}: Feast then imports one, and its engine, only for a historical join.
OFFLINE_STORES = {
    "duckdb": "ontime.features.offline_store.AsofDuckDBOfflineStore",
    "spark": "ontime.features.spark_store.AsofSparkOfflineStore",
}
CONNECT_TIMEOUT = {"connect_timeout": 5}


def repo_config(settings: Settings) -> RepoConfig:
    """Feast's configuration; ``feature_repo/feature_store.yaml`` is its embedded default."""
    home = settings.data_dir / "feast"
    online: dict[str, object] = {
        "type": "ontime.features.sqlite_store.CompactSqliteOnlineStore",
        "path": str(home / "compact.db"),
    }
    if settings.redis_url:
        online = {
            "type": "ontime.features.redis_store.CompactRedisOnlineStore",
            "connection_string": settings.redis_url,
        }
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
        offline_store=OFFLINE_STORES[settings.engine],
        materialization={"pull_latest_features": True},
        entity_key_serialization_version=3,
    )


def open_feature_store(settings: Settings) -> FeatureStore:
    """Feast's store for the settings; its folder is created."""
    (settings.data_dir / "feast").mkdir(parents=True, exist_ok=True)
    return FeatureStore(config=repo_config(settings))
