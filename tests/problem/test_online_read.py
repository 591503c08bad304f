"""The online read of flights: aircraft that are unknown, and a snowstorm."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.skew import skew
from ontime.features.historical import REQUEST_FIELDS
from ontime.features.online_store import OnlineFeatures
from ontime.problem import FEATURE_SPEC, VIEWS
from tests.conftest import read_online

AIRCRAFT_VIEWS = [view.name for view in VIEWS if "tailnum" in view.keys]
STORM = datetime(2013, 2, 9, 17, tzinfo=UTC)

OnlineStoreAt = Callable[[datetime], OnlineFeatures]


@pytest.fixture(scope="module")
def online(online_store_at: OnlineStoreAt) -> OnlineFeatures:
    return online_store_at(STORM)


@pytest.fixture
def flights(examples: pd.DataFrame) -> pd.DataFrame:
    """The flights of the day after the storm."""
    day = examples[examples.event_timestamp.between(STORM, STORM + timedelta(days=1))]
    return day[[*REQUEST_FIELDS]].reset_index(drop=True)


@pytest.mark.parametrize("tailnum", [None, np.nan])
def test_a_flight_without_a_tail_number_misses_the_features_of_the_aircraft(
    online: OnlineFeatures, flights: pd.DataFrame, tailnum: Any
) -> None:
    known = flights.head(100)
    before, after = (
        read_online(online, frame, STORM) for frame in (known, known.assign(tailnum=tailnum))
    )
    of_aircraft = [name for view in AIRCRAFT_VIEWS for name in FEATURE_SPEC.groups[view]]
    assert "aircraft_slack_min" in of_aircraft
    for missing, missing_before in zip(after.missing, before.missing, strict=True):
        assert set(missing) == {*missing_before, *of_aircraft}
    slack = after.frame[list(FEATURE_SPEC.groups["aircraft_leg"])]
    assert slack.isna().all(axis=None)


def test_after_the_storm_some_features_are_missing_and_some_are_stale(
    online: OnlineFeatures, flights: pd.DataFrame
) -> None:
    read = read_online(online, flights, STORM)
    assert sum(map(bool, read.missing)) > 50
    assert sum(map(bool, read.stale)) > 5


def test_an_hour_that_was_not_written_changes_the_live_views_and_no_rate(
    online_store_at: OnlineStoreAt, examples: pd.DataFrame
) -> None:
    noon = datetime(2013, 2, 4, 17, tzinfo=UTC)
    rows = examples[examples.event_timestamp == noon]
    read = read_online(online_store_at(noon - timedelta(hours=1)), rows[[*REQUEST_FIELDS]], noon)
    served = read.frame.assign(instance_id=rows.instance_id.to_numpy(), as_of=noon)
    found = skew(served, examples, FEATURE_SPEC).mismatched
    live = {"origin_state", "carrier_origin_state", "dest_state", "origin_weather"}
    assert {view.name for view in VIEWS if set(view.columns) & set(found)} >= live
    assert not any("rate" in feature for feature in found)
