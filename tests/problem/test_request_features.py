"""Request features and derived entity keys of flights."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ontime.data.timestamps import column_arrays
from ontime.problem import (
    EXAMPLE_INSTANCE,
    FEATURE_SPEC,
    VIEWS,
    Instance,
    entity_key_columns,
    request_features,
)
from ontime.problem.request_features import EVENTS, REQUEST_FEATURES, departure_hour, event_inputs

NAMES = [name for names in REQUEST_FEATURES.values() for name in names]
SLACK = REQUEST_FEATURES["aircraft_leg"]


def minute(text: str) -> np.ndarray:
    return np.array([text], dtype="datetime64[us]")


def features_of(
    departure: str, arrival: str, earliest_return: str | None, as_of: str
) -> dict[str, np.ndarray]:
    back = np.array([np.nan])
    if earliest_return:
        back = minute(earliest_return).astype("datetime64[m]").astype(float)
    columns = {
        "origin": np.array(["JFK"]),
        "scheduled_departure": minute(departure),
        "scheduled_arrival": minute(arrival),
        "aircraft_earliest_return_epoch_min": back,
        **{name: np.full((1, n, 5), np.nan) for name, n in EVENTS.items()},
    }
    return request_features(columns, minute(as_of))


def test_request_features_of_a_known_flight() -> None:
    features = features_of(
        "2013-07-05 16:45", "2013-07-05 19:00", "2013-07-05 15:30", "2013-07-05 14:00"
    )
    # 12:45 local time, a Friday.
    assert [features[name].item() for name in REQUEST_FEATURES["request"]] == [12.75, 4, 135, 165]
    assert [features[name].item() for name in SLACK] == [75, 75]


@pytest.mark.parametrize(
    ("earliest_return", "slack", "tight"),
    [
        ("2013-07-05 17:45", -60, -60),  # the aircraft cannot be back in time
        ("2013-07-06 16:45", -720, -90),  # clipped
        ("2013-07-01 00:00", 1440, 150),
        (None, np.nan, np.nan),
    ],
)
def test_slack_is_the_time_between_the_earliest_return_and_departure(
    earliest_return: str | None, slack: float, tight: float
) -> None:
    features = features_of(
        "2013-07-05 16:45", "2013-07-05 19:00", earliest_return, "2013-07-05 14:00"
    )
    np.testing.assert_array_equal([features[name].item() for name in SLACK], [slack, tight])


def test_request_features_are_float32() -> None:
    features = features_of("2013-07-05 16:45", "2013-07-05 19:00", None, "2013-07-05 14:00")
    scalars = [name for group in ("request", "aircraft_leg") for name in REQUEST_FEATURES[group]]
    assert list(features) == [*scalars, *EVENTS]
    assert {values.dtype for values in features.values()} == {np.dtype(np.float32)}


def test_the_departure_hour_is_local_in_winter_and_in_summer() -> None:
    utc = np.array(["2013-01-02T04:59", "2013-07-02T04:59"] * 2, dtype="datetime64[us]")
    origins = np.array(["LGA", "LGA", "PHX", "PHX"])  # Phoenix has no daylight saving time
    hours = departure_hour({"origin": origins, "scheduled_departure": utc})
    assert hours.tolist() == [23, 0, 21, 21]
    assert hours.dtype == np.int32


@pytest.mark.parametrize("tailnum", [None, np.nan])
def test_an_unknown_tail_number_is_a_key_that_no_row_has(tailnum: Any) -> None:
    instance = Instance.model_validate(EXAMPLE_INSTANCE).model_dump() | {"tailnum": tailnum}
    keys = entity_key_columns(column_arrays(pd.DataFrame([instance]), Instance.model_fields))
    assert keys["tailnum"].tolist() == [""]
    assert keys["departure_hour"].tolist() == [8]


def test_an_event_is_seen_from_the_request() -> None:
    """Of a request at 14:00 for 16:00: landed, cancelled, gone, overdue, and no more events."""
    nan = np.nan
    scheduled = minute("2013-07-05 10:00").astype("datetime64[m]").astype(float).item()
    events = [
        [scheduled, 30, 25, 1, 100],
        [scheduled - 1440, nan, nan, 1, 100],
        [scheduled + 180, 5, nan, nan, 100],
        [scheduled + 210, nan, nan, nan, 100],
        [nan, nan, nan, nan, nan],
    ]
    as_of = np.array([scheduled + 240])
    found = event_inputs(np.array([events]), as_of + 120, as_of)[0]
    sine, cosine = -1, 0  # six hours earlier in the day
    np.testing.assert_allclose(found[:2, -2:], [[sine, cosine]] * 2, atol=1e-9)
    np.testing.assert_array_equal(
        found[:, :-2],
        [
            [4, 30, 1, 25, 1, 100],
            [28, nan, 0, nan, 1, 100],
            [1, 5, 1, nan, nan, 100],
            [0.5, 30, 0, nan, nan, 100],
            [nan, nan, nan, nan, nan, nan],
        ],
    )


def test_the_model_reads_every_column_but_the_helper_columns() -> None:
    views = [view for view in VIEWS if not view.events]
    helpers = {name for view in views for name in view.helper_columns}
    stored = {name for view in views for name in view.columns}
    assert helpers == {"aircraft_earliest_return_epoch_min"}
    assert set(FEATURE_SPEC.numeric) == stored - helpers | set(NAMES)


def test_the_inputs_of_events_are_in_the_order_in_which_they_are_computed() -> None:
    for name, n in EVENTS.items():
        assert FEATURE_SPEC.sequences[name] == n
        assert FEATURE_SPEC.groups[name][8:10] == (f"{name}_2_age_h", f"{name}_2_dep_delay_min")
