"""One row per airport and hour: the prediction request, the moment it is made, and the label."""

from typing import Any

import pandas as pd

from ontime.data.timestamps import utc_array
from ontime.problem.definition import LABEL_DUE_AFTER, MIN_OBSERVATIONS, local_hour


def examples(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per forecast window, key ``instance_id``; the prediction time is the window's start.

    Columns: instance_id, event_timestamp, the fields of `Instance` (airport, window_start), the
    derived entity key local_hour, what `outcome_of` reports (min_visibility_mi), label,
    outcome_known_at, due_at, eligible. Times are UTC.
    """
    windows = tables["visibility_windows"]
    start = windows.window_start
    return pd.DataFrame(
        {
            "instance_id": windows.airport + start.dt.strftime("-%Y-%m-%dT%HZ"),
            "event_timestamp": start,
            "airport": windows.airport,
            "local_hour": local_hour(utc_array(start)),
            "window_start": start,
            "min_visibility_mi": windows.min_visibility_mi,
            "label": windows.is_low,
            "outcome_known_at": windows.outcome_known_at,
            "due_at": start + LABEL_DUE_AFTER,
            "eligible": windows.n_observations >= MIN_OBSERVATIONS,
        }
    )


def request_of(row: dict[str, Any]) -> dict[str, Any]:
    """The instance that a client sends to ``POST /predict`` for a row of `examples`."""
    return {"airport": row["airport"], "window_start": row["window_start"].isoformat()}


def outcome_of(row: dict[str, Any]) -> dict[str, Any]:
    """The outcome that a client sends to ``POST /outcomes`` for a row of `examples`."""
    return request_of(row) | {
        "min_visibility_mi": round(row["min_visibility_mi"], 2),
        "known_at": row["outcome_known_at"].isoformat(),
    }
