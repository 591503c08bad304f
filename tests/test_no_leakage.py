"""No row knows what came after it: hide everything after T, rebuild, compare every row up to T.

What is hidden is what nobody could know at T: departures, landings, outcomes, the tail numbers of
flights that have not left, and weather not yet observed. Once the published schedule of the next
days stays, and once later flights vanish wholly: not even a row's existence may depend on them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import ontime.features.runner
from ontime.features import VIEWS
from ontime.features.runner import build_features

if TYPE_CHECKING:
    from feast import FeatureStore

    from tests.conftest import World

MOMENTS = [
    "2013-01-20 15:00",  # on the hour
    "2013-02-03 08:00",  # on the daily tick
    "2013-02-09 00:37",  # between ticks, in the storm: one flight in two is cancelled or overdue
    "2013-02-25 23:59:59",
]
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
    # A schedule of two days: where nothing leaves any more, all of it is overdue to the end.
    published = moment + (pd.Timedelta(days=2) if schedule == STAYS else pd.Timedelta(0))
    flights = flights[left | (flights.scheduled_departure <= published)]
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
def hidden_store(folder: Path) -> "FeatureStore":
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
    return store


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
    ("view", "moment", "file", "honest", "leaky"),
    [
        # Weather an hour too early: the leak that was worth .002 of AUC.
        (
            "origin_weather",
            "2013-01-20 15:00",
            "origin_weather",
            "known_at AS",
            "known_at - INTERVAL 1 HOUR AS",
        ),
        # A departure counted at its schedule, before anybody knows how late it left.
        (
            "dest_state",
            "2013-01-20 15:00",
            "flight_hours",
            "ceil_hour(departed_at)",
            "ceil_hour(scheduled_departure)",
        ),
        # An outcome counted at the daily tick after the departure.
        (
            "carrier_rates",
            "2013-01-20 08:00",
            "outcome_days",
            "outcome_known_at -",
            "scheduled_departure -",
        ),
        # A leg stamped with its schedule.
        (
            "aircraft_leg",
            "2013-01-20 15:00",
            "aircraft_leg",
            "departed_at AS event",
            "scheduled_departure AS event",
        ),
        # Hours of a destination before its first flight: no wrong value, but a row too soon.
        (
            "dest_state",
            "2013-01-04 12:00",
            "dest_state",
            "generate_series(min(tick),",
            "generate_series(TIMESTAMPTZ '2013-01-01 10:00:00+00',",
        ),
    ],
)
def test_a_leak_is_found(
    world: "World",
    monkeypatch: pytest.MonkeyPatch,
    view: str,
    moment: str,
    file: str,
    honest: str,
    leaky: str,
) -> None:
    text = ontime.features.runner.sql
    assert honest in text(file)
    monkeypatch.setattr(
        ontime.features.runner,
        "sql",
        lambda name: text(name).replace(honest, leaky) if name == file else text(name),
    )
    at = pd.Timestamp(moment, tz="UTC")
    leaking = [each for each in VIEWS if each.name == view]

    def rows(tables: Rows) -> pd.DataFrame:
        ((_, built),) = build_features(tables, at.to_pydatetime(), leaking)
        return up_to(at, built)

    assert not rows(world.tables).equals(rows(hide_after(world.tables, at, VANISHES)))
