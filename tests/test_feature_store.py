"""Feast's configuration, and the online read: what is missing, stale, or from later."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore, RepoConfig
from feast.repo_config import load_repo_config
from feast.repo_operations import parse_repo

from feature_repo.definitions import DEFINITIONS, ENTITIES, FEATURE_VIEWS
from ontime.feature_store import (
    REDIS_BOUNDS,
    OnlineFeatures,
    OnlineRead,
    OnlineStoreUnavailable,
    open_feature_store,
    repo_config,
    write_online,
)
from ontime.features import FEATURE_SPEC, VIEWS
from ontime.features.request import REQUEST_COLUMNS
from ontime.settings import ROOT, Settings

if TYPE_CHECKING:
    from tests.conftest import World

REPO = ROOT / "feature_repo"
TICK = datetime(2013, 2, 5, 12, tzinfo=UTC)
BY_NAME = {view.name: view for view in VIEWS}
STORED = [name for view in VIEWS for name in view.columns if name not in view.hidden]


# Configuration.


def fields(config: RepoConfig) -> dict[str, Any]:
    """Every field as Feast understands it, the two paths as Feast resolves them."""
    values = config.model_dump(exclude={"repo_path"})
    for name in ("registry", "online_store", "offline_store", "batch_engine"):
        part = getattr(config, name)
        values[name] = {"class": type(part)} | part.model_dump()
    folder = config.repo_path or Path("/")
    for name in ("registry", "registry_config", "online_store", "online_config"):
        values[name]["path"] = (folder / values[name]["path"]).resolve()
    return values


def test_the_file_for_feasts_command_line_is_the_embedded_default() -> None:
    written = load_repo_config(REPO, REPO / "feature_store.yaml")
    assert fields(written) == fields(repo_config(Settings(var=ROOT / "var")))


def test_feasts_command_line_finds_every_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = parse_repo(REPO)
    objects: list[Any] = [*found.entities, *found.feature_views, *found.feature_services]
    names = {each.name for each in objects}
    assert names - {"__dummy"} == {each.name for each in DEFINITIONS}
    assert {view.name for view in found.feature_views} == set(BY_NAME)


def test_each_real_part_is_switched_on_by_its_own_setting(tmp_path: Path) -> None:
    config = repo_config(
        Settings(var=tmp_path, redis_url="redis:6379", feast_registry_url="postgresql://registry")
    )
    bounded = f"redis:6379,{REDIS_BOUNDS}"
    assert config.online_config == {"type": "redis", "connection_string": bounded}
    assert isinstance(config.registry_config, dict)
    given = {"registry_type": "sql", "path": "postgresql://registry", "cache_ttl_seconds": 0}
    assert given.items() <= config.registry_config.items()


def test_feast_declares_the_columns_of_the_tables(world: "World") -> None:
    for view in FEATURE_VIEWS:
        columns = world.rows(view.name).dtypes.astype(str)
        declared = {field.name: str(field.dtype).lower() for field in view.features}
        assert declared == {name: columns[name] for name in BY_NAME[view.name].columns}
        assert view.ttl == BY_NAME[view.name].ttl
        assert view.entities == list(BY_NAME[view.name].keys)
    assert set(ENTITIES) == {key for view in VIEWS for key in view.keys}


# What the online store holds, written by hand.


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = open_feature_store(Settings(var=tmp_path))
    store.apply(DEFINITIONS)
    return store


@pytest.fixture
def read(store: FeatureStore) -> Callable[..., OnlineRead]:
    """Ask about one flight, or the given ones, at ``TICK`` plus a duration."""
    features = OnlineFeatures(store)

    def ask(after: timedelta = timedelta(0), **changes: Any) -> OnlineRead:
        return features.read(request(**changes), TICK + after)

    return ask


def request(**changes: Any) -> pd.DataFrame:
    flight = {
        "carrier": "UA",
        "flight": 1545,
        "origin": "EWR",
        "dest": "IAH",
        "tailnum": "N14228",
        "scheduled_departure": pd.Timestamp(TICK + timedelta(hours=2, minutes=15)),
        "scheduled_arrival": pd.Timestamp(TICK + timedelta(hours=5)),
    }
    return pd.DataFrame([flight | changes])


KEYS = {
    "origin": "EWR",
    "dest": "IAH",
    "carrier": "UA",
    "tailnum": "N14228",
    "flight": 1545,
    "departure_hour": 9,  # 14:15 UTC in February
}


def row(view: str, value: float, after: timedelta = timedelta(0), **changes: Any) -> pd.DataFrame:
    """A feature row of the flight above, known at ``TICK`` plus a duration."""
    declared = BY_NAME[view]
    keys = {key: KEYS[key] for key in declared.keys}
    values = dict.fromkeys(declared.columns, value)
    frame = pd.DataFrame(
        [keys | values | {"event_timestamp": pd.Timestamp(TICK + after)} | changes]
    )
    types = {name: column.dtype for name, column in declared.table.columns.items()}
    return frame.astype({n: t for n, t in types.items() if t not in ("string", "timestamp")})


def visible(view: str) -> list[str]:
    return [name for name in BY_NAME[view].columns if name not in BY_NAME[view].hidden]


def test_a_store_without_rows_answers_with_everything_missing(
    read: Callable[..., OnlineRead],
) -> None:
    answer = read()
    assert answer.missing == [STORED]
    assert answer.stale == [[]]
    assert answer.age_seconds == {}
    assert answer.frame[STORED].isna().all(axis=None)
    # The request itself is known, but for the slack to an aircraft nobody has seen.
    assert answer.frame[list(REQUEST_COLUMNS)].iloc[0].tolist() == [9.25, 1, 165, 135]
    assert np.isnan(answer.frame.aircraft_slack_min[0])


def test_what_was_written_is_read_in_32_bits(
    store: FeatureStore, read: Callable[..., OnlineRead]
) -> None:
    for number, view in enumerate(VIEWS):
        write_online(store, view.name, row(view.name, 0.1 * number))
    answer = read()
    assert answer.missing == [[]] and answer.stale == [[]]
    assert set(answer.frame.dtypes[list(FEATURE_SPEC.numeric)].astype(str)) == {"float32"}
    for number, view in enumerate(VIEWS):
        assert (answer.frame[visible(view.name)] == np.float32(0.1 * number)).all(axis=None)


def test_an_online_read_needs_nothing_of_the_historical_join(
    store: FeatureStore, tmp_path: Path
) -> None:
    """What the serving image does not hold is made impossible to import."""
    write_online(store, "carrier_rates", row("carrier_rates", 0.5))
    program = """
import sys
for name in ("dask", "duckdb", "ibis", "sqlglot"):
    sys.modules[name] = None
from tests.test_feature_store import TICK, request, visible
from ontime.feature_store import OnlineFeatures, open_feature_store
from ontime.settings import Settings
read = OnlineFeatures(open_feature_store(Settings())).read(request(), TICK)
print((read.frame[visible("carrier_rates")] == 0.5).all(axis=None))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env=os.environ | {"ONTIME_VAR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_row_is_fresh_to_the_end_of_its_ttl_and_stale_a_second_later(
    store: FeatureStore, read: Callable[..., OnlineRead], view: Any
) -> None:
    write_online(store, view.name, row(view.name, 1.0))
    names = visible(view.name)

    fresh = read(view.ttl)
    assert fresh.stale == [[]]
    assert fresh.missing == [[name for name in STORED if name not in names]]
    assert (fresh.frame[names] == 1).all(axis=None)
    assert fresh.age_seconds == {view.name: view.ttl.total_seconds()}

    stale = read(view.ttl + timedelta(seconds=1))
    assert stale.stale == [names]
    assert stale.missing == [[name for name in STORED if name not in names]]
    assert stale.frame[names].isna().all(axis=None)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_row_from_after_the_question_is_not_seen(
    store: FeatureStore, read: Callable[..., OnlineRead], view: Any
) -> None:
    write_online(store, view.name, row(view.name, 1.0, after=timedelta(seconds=1)))
    early = read()
    assert (early.missing, early.stale, early.age_seconds) == ([STORED], [[]], {})
    assert early.frame[STORED].isna().all(axis=None)
    assert np.isnan(early.frame.aircraft_slack_min[0])
    in_time = read(timedelta(seconds=1))
    assert in_time.missing == [[name for name in STORED if name not in visible(view.name)]]


def test_a_stale_aircraft_gives_no_slack(
    store: FeatureStore, read: Callable[..., OnlineRead]
) -> None:
    write_online(store, "aircraft_leg", row("aircraft_leg", 1.0))
    ttl = BY_NAME["aircraft_leg"].ttl
    assert read(ttl).frame.aircraft_slack_min.notna().all()
    assert read(ttl + timedelta(seconds=1)).frame.aircraft_slack_min.isna().all()


def test_another_key_is_not_there(store: FeatureStore, read: Callable[..., OnlineRead]) -> None:
    write_online(store, "route_rates", row("route_rates", 0.5))
    assert "route_late_rate_7d" not in read().missing[0]
    assert "route_late_rate_7d" in read(dest="BOS").missing[0]
    assert "route_late_rate_7d" in read(origin="JFK").missing[0]


@pytest.mark.parametrize("tailnum", [None, np.nan])
def test_a_flight_without_a_tail_number_has_no_aircraft_and_everything_else(
    store: FeatureStore, read: Callable[..., OnlineRead], tailnum: Any
) -> None:
    for view in VIEWS:
        write_online(store, view.name, row(view.name, 1.0))
    of_aircraft = [*visible("aircraft_leg"), *visible("aircraft")]
    answer = read(tailnum=tailnum)
    assert answer.missing == [of_aircraft]
    assert np.isnan(answer.frame.aircraft_slack_min[0])


def test_one_value_missing_in_a_row_is_missing_alone(
    store: FeatureStore, read: Callable[..., OnlineRead]
) -> None:
    """The first column of a view, too: the 1048 mph wind must not hide the weather's age."""
    write_online(store, "origin_weather", row("origin_weather", 1.0, wind_speed_mph=np.nan))
    answer = read(timedelta(minutes=5))
    others = [name for name in visible("origin_weather") if name != "wind_speed_mph"]
    assert "wind_speed_mph" in answer.missing[0]
    assert not set(others) & set(answer.missing[0])
    assert (answer.frame[others] == 1).all(axis=None)
    assert answer.age_seconds == {"origin_weather": 300}


def test_rows_of_one_request_do_not_mix(store: FeatureStore) -> None:
    write_online(store, "route_rates", row("route_rates", 0.5))
    write_online(store, "route_rates", row("route_rates", 0.25, dest="BOS"))
    flights = pd.concat([request(dest=dest) for dest in ("BOS", "XNA", "IAH", "BOS")])
    answer = OnlineFeatures(store).read(flights, TICK)
    found = answer.frame.route_late_rate_7d
    np.testing.assert_array_equal(found, np.array([0.25, np.nan, 0.5, 0.25], dtype="float32"))
    assert ["route_late_rate_7d" in names for names in answer.missing] == [
        False,
        True,
        False,
        False,
    ]
    assert answer.frame.dest.tolist() == ["BOS", "XNA", "IAH", "BOS"]


def test_of_several_rows_of_a_key_the_newest_is_kept(
    store: FeatureStore, read: Callable[..., OnlineRead]
) -> None:
    hours = [timedelta(hours=hour) for hour in (-1, 0, -2)]
    rows = [row("origin_state", value, hour) for value, hour in zip((1, 2, 3), hours, strict=True)]
    write_online(store, "origin_state", pd.concat(rows))
    answer = read()
    assert (answer.frame[visible("origin_state")] == 2).all(axis=None)
    assert answer.age_seconds == {"origin_state": 0}


def test_writing_no_rows_changes_nothing(
    store: FeatureStore, read: Callable[..., OnlineRead]
) -> None:
    write_online(store, "origin_state", row("origin_state", 2.0))
    write_online(store, "origin_state", row("origin_state", 3.0).iloc[:0])
    assert (read().frame[visible("origin_state")] == 2).all(axis=None)


def test_a_store_that_does_not_answer_is_named_with_the_remedy(
    store: FeatureStore, tmp_path: Path
) -> None:
    for file in (tmp_path / "feast").glob("online.db*"):
        file.unlink()
    (tmp_path / "feast" / "online.db").write_text("this is no database " * 100)
    broken = OnlineFeatures(FeatureStore(config=repo_config(Settings(var=tmp_path))))
    with pytest.raises(OnlineStoreUnavailable, match=r"not a database.*make features"):
        broken.read(request(), TICK)


# Filling it from the tables.


@pytest.fixture
def filled_at(tmp_path: Path, world: "World", monkeypatch: pytest.MonkeyPatch) -> Any:
    """`fill_online_store` on a folder of its own, with the world's feature tables."""
    from pipelines.materialize import fill_online_store

    monkeypatch.setenv("ONTIME_VAR", str(tmp_path))
    return fill_online_store.fn


def rows_from_later(var: Path) -> dict[str, int]:
    """How many values of each view the SQLite file holds that became known after ``TICK``."""
    with closing(sqlite3.connect(var / "feast" / "online.db")) as online:
        later = f"WHERE event_ts > {TICK.timestamp():.0f}"
        return {
            name: online.execute(f"SELECT count(*) FROM ontime_{name} {later}").fetchone()[0]
            for name in BY_NAME
        }


def test_materialize_leaves_nothing_from_the_future_of_an_earlier_run(
    filled_at: Callable[[datetime], None], tmp_path: Path, examples: pd.DataFrame
) -> None:
    filled_at(TICK + timedelta(days=7))
    open_before = OnlineFeatures(open_feature_store(Settings(var=tmp_path)))
    flights = examples[examples.event_timestamp == pd.Timestamp(TICK)]
    # What the second run has to remove: also aircraft that were first seen in the week between.
    ahead = rows_from_later(tmp_path)
    assert min(n for view, n in ahead.items() if view != "aircraft") > 0

    filled_at(TICK)
    assert rows_from_later(tmp_path) == dict.fromkeys(BY_NAME, 0)
    # Also for a reader that was there before: an API that serves meanwhile.
    for features in (OnlineFeatures(open_feature_store(Settings(var=tmp_path))), open_before):
        answer = features.read(flights, TICK)
        assert min(answer.age_seconds.values()) == 0  # the row of the very tick is there
        names = list(FEATURE_SPEC.numeric)
        pd.testing.assert_frame_equal(
            answer.frame[names], flights[names].reset_index(drop=True), check_exact=True
        )
