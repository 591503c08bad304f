"""The tables of the prediction log and their rows; comments state grain, keys and units.

All moments are UTC. Two clocks: `as_of` and `known_at` are the clock of the question (simulated in
a replay), `predicted_at`, `reported_at` and the serving history are the wall clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

from ontime.flights import LATE_MIN


class UtcDateTime(TypeDecorator[datetime]):
    """Aware moments in UTC, also in SQLite, which knows no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a logged moment has a zone; {value!r} has none: pass it in UTC")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value and value.astimezone(UTC)
        return value.replace(tzinfo=UTC)


METADATA = MetaData()

PREDICTIONS = Table(
    "predictions",
    METADATA,
    Column("prediction_id", Text, primary_key=True, comment="<request_id>-<position>"),
    Column("request_id", Text, nullable=False, comment="the Idempotency-Key, or made for it"),
    Column("trace_id", Text, nullable=False, comment="X-Request-ID; also in the logs of the API"),
    Column("request_digest", Text, nullable=False, comment="of the body, to recognise a retry"),
    Column("flight_id", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("carrier", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("dest", Text, nullable=False),
    Column("tailnum", Text),
    Column("position", Integer, nullable=False, comment="index of the flight in its request"),
    Column("flight", Integer, nullable=False, comment="flight number"),
    Column("probability_late", Double, nullable=False, comment="0 to 1"),
    Column("uncertainty", Double, nullable=False, comment="deviation of the ensemble's members"),
    Column("feature_set", Text, nullable=False, comment="names of features, in feature_sets"),
    Column("features", JSON, nullable=False, comment="float32 numbers, null = missing or stale"),
    Column("features_missing", JSON, nullable=False, comment="names, never stored"),
    Column("features_stale", JSON, nullable=False, comment="names, older than their view's TTL"),
    Column("predicted_at", UtcDateTime, nullable=False, comment="wall clock"),
    Column("as_of", UtcDateTime, nullable=False, comment="the moment the question is asked from"),
    Column("scheduled_departure", UtcDateTime, nullable=False),
    Column("scheduled_arrival", UtcDateTime, nullable=False),
    UniqueConstraint("request_id", "position"),
    Index("predictions_by_flight", "flight_id"),
    Index("predictions_by_as_of", "as_of"),
    Index("predictions_by_time", "predicted_at"),
    comment="One row a flight of an answered request; a flight asked about twice has two rows.",
)

FEATURE_SETS = Table(
    "feature_sets",
    METADATA,
    Column("feature_set", Text, primary_key=True, comment="digest of the names"),
    Column("names", JSON, nullable=False, comment="in the order of predictions.features"),
    comment="One row a list of features; written once instead of 65 names in every prediction.",
)

SHADOW_PREDICTIONS = Table(
    "shadow_predictions",
    METADATA,
    Column("prediction_id", Text, primary_key=True, comment="the prediction that was answered"),
    Column("model_version", Text, primary_key=True, comment="the challenger"),
    Column("probability_late", Double, nullable=False, comment="0 to 1, never returned"),
    comment="One row a prediction and challenger that scored it in the background.",
)

OUTCOMES = Table(
    "outcomes",
    METADATA,
    Column("flight_id", Text, primary_key=True),
    Column("status", Text, nullable=False, comment="arrived, cancelled or diverted"),
    Column("arrival_delay_min", Double, comment="minutes; null unless arrived"),
    Column("is_late", Boolean, nullable=False, comment=f"{LATE_MIN} min or more, or not arrived"),
    Column("known_at", UtcDateTime, nullable=False, comment="on the clock of as_of"),
    Column("reported_at", UtcDateTime, nullable=False, comment="wall clock"),
    comment="One row a flight: the first report of what happened, predicted or not.",
)

OUTCOME_CONTRADICTIONS = Table(
    "outcome_contradictions",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("flight_id", Text, nullable=False, index=True),
    Column("status", Text, nullable=False),
    Column("arrival_delay_min", Double),
    Column("known_at", UtcDateTime, nullable=False),
    Column("reported_at", UtcDateTime, nullable=False),
    comment="One row a report that says otherwise than the one that stands. Append-only.",
)

SERVING_HISTORY = Table(
    "serving_history",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("version", Text, nullable=False),
    Column("reason", Text, nullable=False, comment="start, promotion or rollback"),
    Column("trained_through", Text, comment="ISO 8601, from the model"),
    Column("serving_since", UtcDateTime, nullable=False, comment="wall clock, inclusive"),
    Column("until", UtcDateTime, comment="wall clock, exclusive; null while it serves"),
    comment="One row a stretch of time in which one version answered; a restart continues it.",
)


TABLES = (
    PREDICTIONS,
    FEATURE_SETS,
    SHADOW_PREDICTIONS,
    OUTCOMES,
    OUTCOME_CONTRADICTIONS,
    SERVING_HISTORY,
)


@dataclass(frozen=True)
class Prediction:
    """One row of `predictions`; `features` is float32 [f], NaN for what was missing or stale."""

    request_id: str
    position: int
    trace_id: str
    request_digest: str
    flight_id: str
    model_version: str
    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str | None
    scheduled_departure: datetime
    scheduled_arrival: datetime
    as_of: datetime
    predicted_at: datetime
    probability_late: float
    uncertainty: float  # standard deviation of the members' probabilities
    features: np.ndarray
    features_missing: Sequence[str]
    features_stale: Sequence[str]

    @property
    def prediction_id(self) -> str:
        return f"{self.request_id}-{self.position}"


@dataclass(frozen=True)
class Outcome:
    """What happened to a flight. `arrival_delay_min` is None unless it arrived."""

    flight_id: str
    status: str
    arrival_delay_min: float | None
    known_at: datetime

    @property
    def is_late(self) -> bool:
        return self.status != "arrived" or (self.arrival_delay_min or 0.0) >= LATE_MIN

    def agrees(self, other: "Outcome") -> bool:
        """The same fact; when it became known does not matter."""
        return (self.status, self.arrival_delay_min) == (other.status, other.arrival_delay_min)


@dataclass(frozen=True)
class OutcomeCounts:
    """What became of a report: accepted + duplicates + contradictions == rows reported."""

    accepted: int
    duplicates: int
    contradictions: int
    never_predicted: int  # of the accepted ones
    contradicting: list[str]  # flight ids
