"""The flight problem in words and numbers: its texts, limits, costs and minimum sizes."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from ontime.data.timestamps import column_arrays, local_time, utc_array
from ontime.problem.airports import local_departure

NAME = "flight delays"
QUESTION = (
    "Two hours before departure: how likely is this flight to arrive 15 or more minutes late, or "
    "not at all?"
)
POSITIVE_LABEL = "arrives 15 or more minutes late, is cancelled or is diverted"
PREDICTION_MOMENT = "on the hour, two to three hours before the scheduled departure"
INSTANCES = "flights"  # the plural noun in texts and pictures
LIMITS = (
    "By default New York departures of 2013, one year: the next year's regime is not in it.",
    "The tail number is the aircraft that flew, not the one planned two hours before.",
    "Flights without a tail number are left out: in this data all of them were cancelled.",
    "Cancellations and diversions are assumed to be known four hours after the scheduled time.",
    "It is a forecast for planning, not for decisions about a person.",
)

LOCAL_ZONE = "America/New_York"  # of days that span all origins; an hour is the origin's own
LATE_MIN = 15  # a flight is late when it arrives this many minutes late, or not at all
PREDICTION_HORIZON = timedelta(hours=2)  # a flight is predicted this long before its departure,
PREDICTION_INTERVAL = timedelta(hours=1)  # rounded down to a whole multiple of this
# 99.97 % of the outcomes are known 12 h after the scheduled departure (99.1 % after 8 h).
LABEL_DUE_AFTER = timedelta(hours=12)

DEMO_START = datetime(2013, 5, 1, tzinfo=UTC)
DEMO_END = datetime(2013, 8, 1, tzinfo=UTC)
# First and last month of the expanding-window backtest. Choices are made on the tuning months; no
# choice was made on a month from `HOLDOUT_FROM` on.
BACKTEST_MONTHS = ("2013-05", "2013-12")
TUNING_MONTHS = ("2013-04", "2013-07")
HOLDOUT_FROM = "2013-09"

# A false alarm costs a check of the departures board, a missed delay costs a connection.
COST_FALSE_ALARM, COST_MISS = 1.0, 3.0

# A stored feature that is itself a rate of the label: the baseline that needs no model.
RATE_FEATURE = "origin_hour_late_rate_28d"
# What a first model must beat before there is a champion.
FIRST_GATE_BASELINES = ("base_rate", "logistic")

# Sizes for about 900 flights a day.
MIN_GATE_INSTANCES = 2_000  # about two days; with fewer, one day's weather decides
MIN_SLICE_INSTANCES = 300  # a slice with fewer is not compared
MIN_MONITORING_LABELS = 2_000
MIN_MONITORING_DAYS = 14  # days are resampled whole; with fewer the interval is not to be trusted
MIN_DRIFT_INSTANCES = 500  # with 500 rows of one distribution a drift score is about 0.04

DAY_PARTS = {"night": 0, "morning": 6, "midday": 10, "afternoon": 14, "evening": 18}


def local_day(rows: pd.DataFrame) -> np.ndarray:
    """The local day of each departure, datetime64[D] [n]: days are bootstrap clusters and folds."""
    return local_time(utc_array(rows["scheduled_departure"]), LOCAL_ZONE).astype("datetime64[D]")


def day_part(rows: pd.DataFrame) -> np.ndarray:
    """The part of the origin's day in which each flight departs, str [n]."""
    local = local_departure(column_arrays(rows, ["origin", "scheduled_departure"]))
    hours = (local - local.astype("datetime64[D]")) / np.timedelta64(1, "h")
    starts = np.array(list(DAY_PARTS.values()))
    return np.array(list(DAY_PARTS))[np.searchsorted(starts, hours, side="right") - 1]


# Slice name -> its value for each row, str [n]. Scores are compared within each value.
SLICES = {
    "carrier": lambda rows: rows["carrier"].to_numpy(dtype=str),
    "origin": lambda rows: rows["origin"].to_numpy(dtype=str),
    "day_part": day_part,
}
