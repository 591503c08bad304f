"""One row per flight: the prediction request, the moment it is made, and the label."""

from typing import Any

import pandas as pd

from ontime.problem.definition import (
    LABEL_DUE_AFTER,
    PREDICTION_HORIZON,
    PREDICTION_INTERVAL,
)


def prediction_time(scheduled_departure: pd.Series) -> pd.Series:
    """Scheduled departure minus two hours, rounded down to the hour (UTC): the entity timestamp.

    At a whole hour the row that the historical join picks is the row in the online store.
    """
    return (scheduled_departure - PREDICTION_HORIZON).dt.floor(PREDICTION_INTERVAL)


def examples(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per flight, key ``instance_id``.

    Columns: instance_id, event_timestamp (the prediction time), the fields of `Instance`, the
    derived entity key departure_hour, what `outcome_of` reports (status, arr_delay_min), label,
    outcome_known_at, due_at, eligible. Times are UTC.

    A flight without a tail number is not eligible for training, evaluation or prediction: all of
    them were cancelled, so "tail number unknown" would be the label in disguise. Its outcome is
    reported all the same. In a source without any tail number every flight is eligible.
    """
    flights = tables["flights"]
    has_tail_number = flights.tailnum.notna()
    departure = flights.scheduled_departure
    return pd.DataFrame(
        {
            "instance_id": flights.flight_id,
            "event_timestamp": prediction_time(departure),
            "carrier": flights.carrier,
            "flight": flights.flight,
            "origin": flights.origin,
            "dest": flights.dest,
            "tailnum": flights.tailnum,
            "departure_hour": flights.departure_hour,
            "scheduled_departure": departure,
            "scheduled_arrival": flights.scheduled_arrival,
            "status": flights.status,
            "arr_delay_min": flights.arr_delay_min,
            "label": flights.is_late,
            "outcome_known_at": flights.outcome_known_at,
            "due_at": departure + LABEL_DUE_AFTER,
            "eligible": has_tail_number | (not has_tail_number.any()),
        }
    )


def request_of(row: dict[str, Any]) -> dict[str, Any]:
    """The instance that a client sends to ``POST /predict`` for a row of `examples`."""
    return {name: row[name] for name in ("carrier", "flight", "origin", "dest", "tailnum")} | {
        name: row[name].isoformat() for name in ("scheduled_departure", "scheduled_arrival")
    }


def outcome_of(row: dict[str, Any]) -> dict[str, Any]:
    """The outcome that a client sends to ``POST /outcomes`` for a row of `examples`."""
    arrived = row["status"] == "arrived"
    return {name: row[name] for name in ("carrier", "flight", "origin", "status")} | {
        "scheduled_departure": row["scheduled_departure"].isoformat(),
        "arrival_delay_min": row["arr_delay_min"] if arrived else None,
        "known_at": row["outcome_known_at"].isoformat(),
    }
