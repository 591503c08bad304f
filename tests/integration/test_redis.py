"""Feast on a real Redis, its registry in Postgres: equal features, and no request that hangs."""

import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ontime.feature_store import (
    OnlineFeatures,
    OnlineStoreUnavailable,
    open_feature_store,
    write_online,
)
from ontime.features import VIEWS
from tests.integration.conftest import RealPostgres, RealRedis

if TYPE_CHECKING:
    from tests.conftest import World

AS_OF = pd.Timestamp("2013-02-05T12:00Z")
BOUND_S = 6.0  # connecting and reading have two seconds each


@pytest.fixture(scope="module")
def flights(world: "World") -> pd.DataFrame:
    departures = world.tables["flights"]
    due = departures.scheduled_departure.between(AS_OF, AS_OF + pd.Timedelta(hours=3))
    columns = ["carrier", "flight", "origin", "dest", "tailnum"]
    times = ["scheduled_departure", "scheduled_arrival"]
    return departures.loc[due, columns + times].head(100).reset_index(drop=True)


@pytest.fixture(scope="module")
def stores(
    world: "World", redis: RealRedis, postgres: RealPostgres
) -> Iterator[tuple[OnlineFeatures, OnlineFeatures]]:
    """SQLite and Redis with the same rows, all known at AS_OF."""
    from feast.infra.registry.sql import SqlRegistry

    from feature_repo.definitions import DEFINITIONS

    real = open_feature_store(
        world.settings.model_copy(
            update={"redis_url": redis.address, "feast_registry_url": postgres.url("feast")}
        )
    )
    real.apply(DEFINITIONS)
    for view in VIEWS:
        rows = world.rows(view.name)
        known = rows[rows.event_timestamp <= AS_OF]
        for store in (world.store, real):
            write_online(store, view.name, known)
    yield OnlineFeatures(world.store), OnlineFeatures(real)
    assert isinstance(real.registry, SqlRegistry)
    real.registry.write_engine.dispose()  # Feast leaves its connections open


def test_redis_answers_what_sqlite_answers(
    stores: tuple[OnlineFeatures, OnlineFeatures], flights: pd.DataFrame
) -> None:
    embedded, real = (store.read(flights, AS_OF.to_pydatetime()) for store in stores)
    pd.testing.assert_frame_equal(embedded.frame, real.frame, check_exact=True)
    assert embedded.missing == real.missing
    assert embedded.stale == real.stale
    assert len(flights) > 20
    assert real.frame.notna().any(axis=None)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_redis_a_read_fails_soon_and_works_again_by_itself(
    stores: tuple[OnlineFeatures, OnlineFeatures],
    flights: pd.DataFrame,
    redis: RealRedis,
    how: str,
) -> None:
    _, real = stores
    moment = AS_OF.to_pydatetime()
    before = real.read(flights, moment).frame
    if how == "killed":
        redis.server.kill()
    else:
        redis.server.send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(OnlineStoreUnavailable):
            real.read(flights, moment)
        assert time.monotonic() - began < BOUND_S
    finally:
        if how == "killed":
            redis.server.start()
        else:
            redis.server.send(signal.SIGCONT)
    pd.testing.assert_frame_equal(before, real.read(flights, moment).frame)
