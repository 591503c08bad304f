"""No row knows what came after it: hide everything after T, rebuild, compare every row up to T.

What is hidden is what nobody could know at T: departures, landings, outcomes, the tail numbers of
flights that have not left, and weather not yet observed. Once the published schedule of later
flights stays, and once they vanish wholly: the mere existence of a row must not depend on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import ontime.features
from ontime.features import VIEWS, build_features

if TYPE_CHECKING:
    from feast import FeatureStore

    from tests.conftest import World

MOMENTS = [
    "2013-01-20 15:00",  # on the hour
    "2013-02-03 08:00",  # on the daily tick
    "2013-02-09 00:37",  # between ticks, in the storm: one flight in two is cancelled or overdue
    "2013-02-25 23:59:59",
]
FIRST_TICK = "TIMESTAMPTZ '2013-01-01 10:00:00+00'"
STAYS, VANISHES = "the schedule stays", "later flights vanish"

Rows = dict[str, pd.DataFrame]


def hide_after(tables: Rows, moment: pd.Timestamp, schedule: str) -> Rows:
    """The source tables as somebody at ``moment`` could have had them."""
    flights, weather = tables["flights"].copy(), tables["weather"]
    left = flights.departed_at <= moment
    landed = flights.arrived_at <= moment
    unknown = flights.outcome_known_at > moment
    flights.loc[~left, ["departed_at", "dep_delay_min", "tailnum"]] = [pd.NaT, np.nan, None]
    flights.loc[~landed, ["arrived_at", "arr_delay_min"]] = [pd.NaT, np.nan]
    flights.loc[unknown, ["outcome_known_at", "status"]] = [pd.NaT, None]
    # The label cannot be missing: turned around, whoever reads it gives himself away.
    flights["is_late"] = flights.is_late ^ unknown
    if schedule == VANISHES:
        flights = flights[left | (flights.scheduled_departure <= moment)]
    return tables | {"flights": flights, "weather": weather[weather.known_at <= moment]}


def differing(before: Rows, after: Rows, moment: pd.Timestamp) -> list[str]:
    """The views with a row up to ``moment`` that is another, missing or too many."""
    return [
        view.name
        for view in VIEWS
        if not up_to(moment, before[view.name]).equals(up_to(moment, after[view.name]))
    ]


def up_to(moment: pd.Timestamp, rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.event_timestamp <= moment].reset_index(drop=True)


@dataclass(frozen=True)
class Rebuilt:
    """The feature rows as they come out when everything after ``moment`` is hidden."""

    moment: pd.Timestamp
    schedule: str
    rows: Rows
    store: "FeatureStore"


@pytest.fixture(scope="module")
def known(world: "World") -> Rows:
    return {view.name: world.rows(view.name) for view in VIEWS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def hidden_store(folder: Path) -> Iterator["FeatureStore"]:
    """Feast over the feature tables of ``folder``, which each case rewrites."""
    from feast import FeatureService

    from feature_repo import definitions
    from ontime.feature_store import SERVICE, open_feature_store
    from ontime.settings import Settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "FEATURES", folder)
        views = [definitions.feature_view(view) for view in VIEWS]
    store = open_feature_store(Settings(var=folder / "var"))
    service = FeatureService(name=SERVICE, features=[*views])
    store.apply([*definitions.ENTITIES.values(), *views, service])
    yield store


@pytest.fixture(
    scope="module",
    params=[(at, schedule) for at in MOMENTS for schedule in (STAYS, VANISHES)],
    ids=lambda case: f"{case[0]}, {case[1]}",
)
def rebuilt(
    request: pytest.FixtureRequest, world: "World", folder: Path, hidden_store: "FeatureStore"
) -> Rebuilt:
    moment, schedule = pd.Timestamp(request.param[0], tz="UTC"), request.param[1]
    tables = hide_after(world.tables, moment, schedule)
    rows = {view.name: built for view, built in build_features(tables, world.until)}
    for name, built in rows.items():
        # Not checked by `write_table`: in a world where nothing leaves any more, a flight is
        # overdue for weeks, which no schema allows.
        built.to_parquet(folder / f"{name}.parquet")
    return Rebuilt(moment, schedule, rows, hidden_store)


def test_no_feature_row_depends_on_what_came_after_it(known: Rows, rebuilt: Rebuilt) -> None:
    assert differing(known, rebuilt.rows, rebuilt.moment) == []


def test_what_was_hidden_would_have_shown(known: Rows, rebuilt: Rebuilt) -> None:
    """After T the rows do differ: the comparison above compares something."""
    end = known["origin_state"].event_timestamp.max()
    shows = set(differing(known, rebuilt.rows, end))
    # Rates change once a day, and the last moment is after the last tick of the world.
    daily = {"carrier_rates", "route_rates", "flight_rates", "origin_hour_rates"}
    expected = {view.name for view in VIEWS} - {"aircraft"}
    assert shows >= (expected - daily if rebuilt.moment > end - pd.Timedelta(days=1) else expected)


def test_no_training_example_depends_on_what_came_after_it(
    world: "World", examples: pd.DataFrame, rebuilt: Rebuilt
) -> None:
    from ontime.clock import prediction_time
    from ontime.dataset import build_examples

    flights = world.tables["flights"]
    asked = flights[prediction_time(flights.scheduled_departure) <= rebuilt.moment]
    again = build_examples(rebuilt.store, asked)
    expected = up_to(rebuilt.moment, examples)
    assert len(expected) > 10_000
    pd.testing.assert_frame_equal(again, expected, check_exact=True)


# The comparison finds what it is there to find.


@pytest.mark.parametrize(
    ("file", "honest", "leaky", "view"),
    [
        # Weather an hour too early: the leak that was worth .002 of AUC.
        ("origin_weather", "known_at AS", "known_at - INTERVAL 1 HOUR AS", "origin_weather"),
        # A departure counted at its schedule, before anybody knows how late it left.
        ("flight_hours", "ceil_hour(departed_at)", "ceil_hour(scheduled_departure)", "dest_state"),
        # An outcome counted on the day of the flight.
        ("outcome_days", "outcome_known_at -", "scheduled_departure -", "carrier_rates"),
        # A leg stamped with its schedule.
        ("aircraft_leg", "departed_at AS event", "scheduled_departure AS event", "aircraft_leg"),
        # Rows for a key that is first seen later: no value is wrong, but a row is there too soon.
        ("dest_state", "series(min(tick),", f"series({FIRST_TICK},", "dest_state"),
    ],
)
def test_a_leak_is_found(
    world: "World",
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    honest: str,
    leaky: str,
    view: str,
) -> None:
    text = ontime.features.sql
    assert honest in text(file)
    monkeypatch.setattr(
        ontime.features,
        "sql",
        lambda name: text(name).replace(honest, leaky) if name == file else text(name),
    )
    moment = pd.Timestamp("2013-01-20 08:00Z")
    leaking = [each for each in VIEWS if each.name == view]

    def rows(tables: Rows) -> pd.DataFrame:
        ((_, built),) = build_features(tables, world.until, leaking)
        return up_to(moment, built)

    hidden = hide_after(world.tables, moment, VANISHES)
    assert not rows(world.tables).equals(rows(hidden))
