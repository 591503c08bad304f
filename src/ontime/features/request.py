"""Features of the request itself and of what it meets in the store: one function, both paths.

Training and serving call `add_request_features` with the same columns, so these cannot differ.
"""

import numpy as np
import pandas as pd

NEW_YORK = "America/New_York"

REQUEST_COLUMNS = (
    "departure_local_hour",
    "departure_weekday",
    "block_min",
    "lead_min",
)
# Known only with the aircraft's last leg: these are missing where that view is.
SLACK_COLUMNS = ("aircraft_slack_min", "aircraft_tight_slack_min")


def departure_hour(scheduled_departure: pd.Series) -> pd.Series:
    """The local hour (0 to 23) of departure: the join key of origin_hour_rates."""
    return scheduled_departure.dt.tz_convert(NEW_YORK).dt.hour.astype("int32")


def add_request_features(frame: pd.DataFrame, as_of: pd.Series) -> pd.DataFrame:
    """The frame with ``REQUEST_COLUMNS`` and ``SLACK_COLUMNS`` (float32; NaN: aircraft unknown).

    Args:
        frame: scheduled_departure, scheduled_arrival (UTC), aircraft_earliest_return_epoch_min.
        as_of: the moment of asking (UTC), one a row.
    """
    departure = frame.scheduled_departure.dt.tz_convert(NEW_YORK)
    departure_epoch_min = _minutes(frame.scheduled_departure - pd.Timestamp(0, tz="UTC"))
    slack = departure_epoch_min - frame.aircraft_earliest_return_epoch_min.astype("float64")
    features = {
        "departure_local_hour": departure.dt.hour + departure.dt.minute / 60,
        "departure_weekday": departure.dt.weekday,
        "block_min": _minutes(frame.scheduled_arrival - frame.scheduled_departure),
        "lead_min": _minutes(frame.scheduled_departure - as_of),
        # Beyond a day the aircraft has long been back: only "enough" matters there.
        "aircraft_slack_min": slack.clip(-720, 1440),
        # The same within the span where a minute matters, at a scale where it shows.
        "aircraft_tight_slack_min": slack.clip(-90, 150),
    }
    return frame.assign(**{name: value.astype(np.float32) for name, value in features.items()})


def _minutes(duration: pd.Series) -> pd.Series:
    return duration.dt.total_seconds() / 60
