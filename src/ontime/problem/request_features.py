"""Features and entity keys computed from a request: one function each for training and serving.

All arguments are arrays, one element per request; times are UTC as datetime64[us].
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ontime.problem.airports import local_departure

# Group -> features. The slack is known only with the aircraft's last leg, so it is missing with it.
REQUEST_FEATURES = {
    "request": ("departure_local_hour", "departure_weekday", "block_min", "lead_min"),
    "aircraft_leg": ("aircraft_slack_min", "aircraft_tight_slack_min"),
}
UNKNOWN_AIRCRAFT = ""  # Feast rejects None as a key; no stored row has this one
MINUTE = np.timedelta64(1, "m")


def request_features(columns: Mapping[str, np.ndarray], as_of: np.ndarray) -> dict[str, np.ndarray]:
    """The features named in `REQUEST_FEATURES`, float32 [n]; NaN where the aircraft is unknown.

    Args:
        columns: origin, scheduled_departure, scheduled_arrival and the helper column
            aircraft_earliest_return_epoch_min, [n] each.
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
    return {name: values.astype(np.float32) for name, values in features.items()}


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
