"""Features and entity keys computed from a request: one function each for training and serving.

All arguments are arrays, one element per request; times are UTC as datetime64[us].
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ontime.features.spec import event_names
from ontime.problem.airports import local_departure

# The last events of two sequences: how many, and the inputs of each. The first is missing if there
# is no such event.
EVENTS = {"dest_events": 8, "flight_events": 10}
EVENT_INPUTS = (
    "age_h",  # since its scheduled departure
    "dep_delay_min",  # of a flight that has not departed: minutes overdue
    "is_departed",
    "arr_delay_min",  # missing if it has not landed, or never will
    "is_late",  # missing if its outcome is not known
    "block_min",
    "day_sin",  # of the difference in time of day between the two scheduled departures
    "day_cos",
)
# Group -> features. The slack is known only with the aircraft's last leg, so it is missing with it.
REQUEST_FEATURES = {
    "request": ("departure_local_hour", "departure_weekday", "block_min", "lead_min"),
    "aircraft_leg": ("aircraft_slack_min", "aircraft_tight_slack_min"),
    **{name: event_names(name, n, EVENT_INPUTS) for name, n in EVENTS.items()},
}
UNKNOWN_AIRCRAFT = ""  # Feast rejects None as a key; no stored row has this one
MINUTE = np.timedelta64(1, "m")
MINUTES_PER_DAY = 1440


def request_features(columns: Mapping[str, np.ndarray], as_of: np.ndarray) -> dict[str, np.ndarray]:
    """The features named in `REQUEST_FEATURES`, float32 [n]; NaN where the aircraft is unknown.

    The inputs of a sequence are one array, [n, events, inputs of an event], by the view's name.

    Args:
        columns: origin, scheduled_departure, scheduled_arrival and the helper column
            aircraft_earliest_return_epoch_min, [n] each; and each view of sequences, float64
            [n, events, columns of an event].
        as_of: the prediction time of each request, [n].
    """
    departure, arrival = columns["scheduled_departure"], columns["scheduled_arrival"]
    local = local_departure(columns)
    local_minute = (local - local.astype("datetime64[D]")) / MINUTE
    epoch_min = (departure - np.datetime64(0, "us")) / MINUTE
    slack = epoch_min - columns["aircraft_earliest_return_epoch_min"]
    features = {
        "departure_local_hour": local_minute / 60,
        # Day 0 of the Unix epoch was a Thursday; Monday is 0.
        "departure_weekday": (local.astype("datetime64[D]").astype(np.int64) + 3) % 7,
        "block_min": (arrival - departure) / MINUTE,
        "lead_min": (departure - as_of) / MINUTE,
        # Clipped: beyond a day more slack makes no difference.
        "aircraft_slack_min": np.clip(slack, -720, 1440),
        # The same over the span in which minutes matter.
        "aircraft_tight_slack_min": np.clip(slack, -90, 150),
    }
    as_of_min = (as_of - np.datetime64(0, "us")) / MINUTE
    for name in EVENTS:
        features[name] = event_inputs(columns[name], epoch_min, as_of_min)
    return {name: values.astype(np.float32, copy=False) for name, values in features.items()}


def event_inputs(
    events: np.ndarray, departure_min: np.ndarray, as_of_min: np.ndarray
) -> np.ndarray:
    """The `EVENT_INPUTS` of each event, float32 [n, k, 8].

    Args:
        events: the columns of `ontime.problem.views.EVENT_COLUMNS`, [n, k, 5].
        departure_min: scheduled departure of each request, epoch minutes [n].
        as_of_min: prediction time of each request, epoch minutes [n].
    """
    scheduled, dep_delay, arr_delay, is_late, block = np.moveaxis(events, 2, 0)
    age = as_of_min[:, None] - scheduled
    is_departed = np.where(np.isnan(scheduled), np.nan, ~np.isnan(dep_delay))
    # A cancelled flight has no delay; before the cancellation is known it is overdue.
    overdue = np.where(np.isnan(is_late), age, np.nan)
    angle = (scheduled - departure_min[:, None]) * (2 * np.pi / MINUTES_PER_DAY)
    inputs = np.empty((*scheduled.shape, len(EVENT_INPUTS)), dtype=np.float32)
    inputs[..., 0] = age / 60
    inputs[..., 1] = np.where(np.isnan(dep_delay), overdue, dep_delay)
    inputs[..., 2] = is_departed
    inputs[..., 3] = arr_delay
    inputs[..., 4] = is_late
    inputs[..., 5] = block
    inputs[..., 6] = np.sin(angle)
    inputs[..., 7] = np.cos(angle)
    return inputs


def entity_key_columns(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The value of every entity key, [n] each: derived ones computed, nulls replaced.

    Args:
        columns: the fields of the request, [n] each.
    """
    tailnum = columns["tailnum"]
    return {
        "origin": columns["origin"],
        "dest": columns["dest"],
        "carrier": columns["carrier"],
        "flight": columns["flight"],
        "departure_hour": departure_hour(columns),
        "tailnum": np.where(pd.isna(tailnum), UNKNOWN_AIRCRAFT, tailnum),
    }


def departure_hour(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """The hour of departure on the origin's clock, int32 [n], 0 to 23."""
    local = local_departure(columns)
    return ((local - local.astype("datetime64[D]")) // np.timedelta64(1, "h")).astype(np.int32)
