"""Feast on Redis with its registry in Postgres: equal features, and no read that blocks."""

import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pandas as pd
import pytest
from feast.infra.registry.sql import SqlRegistry

from feature_repo.definitions import definitions
from ontime.errors import OnlineStoreUnavailable
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import REQUEST_FIELDS
from ontime.features.online_store import OnlineFeatures
from ontime.problem import VIEWS
from tests.conftest import Dataset, read_online, write_online
from tests.integration.conftest import RealPostgres, RealRedis

BOUND_S = 6.0  # two seconds each to connect and to read


@pytest.fixture(scope="module")
def as_of(dataset: Dataset) -> datetime:
    return dataset.start + timedelta(days=35, hours=12)


@pytest.fixture(scope="module")
def instances(dataset: Dataset, as_of: datetime) -> pd.DataFrame:
    requests = dataset.requests[dataset.requests.eligible]
    recent = requests.event_timestamp.between(as_of - timedelta(hours=2), as_of)
    return requests.loc[recent, [*REQUEST_FIELDS]].head(100).reset_index(drop=True)


@pytest.fixture(scope="module")
def on_redis(
    dataset: Dataset, as_of: datetime, redis: RealRedis, postgres: RealPostgres
) -> Iterator[OnlineFeatures]:
    """The feature rows known at `as_of`."""
    addresses = {"redis_url": redis.address, "feast_registry_url": postgres.url("feast")}
    store = open_feature_store(dataset.settings.model_copy(update=addresses))
    store.apply(definitions(dataset.settings.features_dir))
    for view in VIEWS:
        rows = dataset.rows(view.name)
        write_online(store, view, rows[rows.event_timestamp <= as_of])
    yield OnlineFeatures(store)
    assert isinstance(store.registry, SqlRegistry)
    store.registry.write_engine.dispose()  # Feast leaves its connections open


def test_redis_returns_what_sqlite_returns(
    online_store_at: Callable[[datetime], OnlineFeatures],
    on_redis: OnlineFeatures,
    instances: pd.DataFrame,
    as_of: datetime,
) -> None:
    expected, read = (
        read_online(store, instances, as_of) for store in (online_store_at(as_of), on_redis)
    )
    pd.testing.assert_frame_equal(expected.frame, read.frame, check_exact=True)
    assert expected.missing == read.missing
    assert expected.stale == read.stale
    assert len(instances) > 5
    assert read.frame.notna().any(axis=None)


@pytest.mark.parametrize("how", ["killed", "suspended"])
def test_without_redis_a_read_fails_in_seconds_and_later_ones_work(
    on_redis: OnlineFeatures, instances: pd.DataFrame, as_of: datetime, redis: RealRedis, how: str
) -> None:
    before = read_online(on_redis, instances, as_of).frame
    if how == "killed":
        redis.server.kill()
    else:
        redis.server.send(signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(OnlineStoreUnavailable):
            read_online(on_redis, instances, as_of)
        assert time.monotonic() - start < BOUND_S
    finally:
        if how == "killed":
            redis.server.start()
        else:
            redis.server.send(signal.SIGCONT)
    pd.testing.assert_frame_equal(before, read_online(on_redis, instances, as_of).frame)
