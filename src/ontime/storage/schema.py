"""The tables of the prediction log and the decision log, and their rows.

Comments state grain, keys and units. All times are UTC. Two clocks: `as_of`, `known_at`, `due_at`
and `decided_at` are on the clock of the prediction request (simulated in a replay); `predicted_at`,
`reported_at` and the serving history are wall clock. A change here needs a migration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

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

SCHEMA_VERSION = "0005"  # the newest revision in migrations/versions


class UtcDateTime(TypeDecorator[datetime]):
    """Aware times in UTC, also in SQLite, which stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a logged time has a time zone; {value!r} has none: pass it in UTC")
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
    Column("request_id", Text, nullable=False, comment="the Idempotency-Key, or generated"),
    Column("trace_id", Text, nullable=False, comment="X-Request-ID; also in the API's log lines"),
    Column("request_digest", Text, nullable=False, comment="of the body, to recognise a retry"),
    Column("instance_id", Text, nullable=False, comment="the id under which outcomes arrive"),
    Column("model_version", Text, nullable=False),
    Column("feature_set", Text, nullable=False, comment="names of features, in feature_sets"),
    Column("position", Integer, nullable=False, comment="index of the instance in its request"),
    Column("probability", Double, nullable=False, comment="0 to 1"),
    Column("uncertainty", Double, nullable=False, comment="std of the ensemble members"),
    Column("decision", Boolean, comment="probability >= threshold; null: logged before 0002"),
    Column("instance", JSON, nullable=False, comment="the request fields"),
    Column("features", JSON, nullable=False, comment="float32 numbers, null = no usable value"),
    Column("features_missing", JSON, nullable=False, comment="names, never stored"),
    Column("features_stale", JSON, nullable=False, comment="names, older than their view's TTL"),
    Column("features_not_yet_known", JSON, nullable=False, comment="names, stored after as_of"),
    Column("predicted_at", UtcDateTime, nullable=False, comment="wall clock"),
    Column("as_of", UtcDateTime, nullable=False, comment="prediction time"),
    Column("due_at", UtcDateTime, nullable=False, comment="when the outcome is expected"),
    Column("client", Text, comment="whose key was sent; null: logged before 0003"),
    Column("production_traffic", Boolean, nullable=False, comment="monitoring counts no other"),
    Column("outside_training", Boolean, nullable=False, comment="of the times of training"),
    Column("model_seconds", Double, comment="CPU time of its forward pass; null: before 0005"),
    UniqueConstraint("request_id", "position"),
    Index("predictions_by_instance", "instance_id"),
    Index("predictions_by_as_of", "as_of"),
    Index("predictions_by_time", "predicted_at"),
    comment="One row per instance of a request; an instance predicted twice has two rows.",
)

FEATURE_SETS = Table(
    "feature_sets",
    METADATA,
    Column("feature_set", Text, primary_key=True, comment="digest of the names"),
    Column("names", JSON, nullable=False, comment="in the order of predictions.features"),
    comment="One row per list of features; written once instead of in every prediction.",
)

SHADOW_PREDICTIONS = Table(
    "shadow_predictions",
    METADATA,
    Column("prediction_id", Text, primary_key=True, comment="the prediction that was returned"),
    Column("model_version", Text, primary_key=True, comment="the challenger"),
    Column("probability", Double, nullable=False, comment="0 to 1, never returned"),
    comment="One row per prediction and challenger that scored it in the background.",
)

OUTCOMES = Table(
    "outcomes",
    METADATA,
    Column("instance_id", Text, primary_key=True),
    Column("label", Boolean, nullable=False),
    Column("details", JSON, nullable=False, comment="what was reported"),
    Column("known_at", UtcDateTime, nullable=False, comment="on the clock of as_of"),
    Column("reported_at", UtcDateTime, nullable=False, comment="wall clock"),
    Column("reporter", Text, comment="client; null: reported before 0003"),
    comment="One row per instance: the first report of its outcome, or its correction.",
)

OUTCOME_CONTRADICTIONS = Table(
    "outcome_contradictions",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("instance_id", Text, nullable=False, index=True),
    Column("label", Boolean, nullable=False),
    Column("details", JSON, nullable=False),
    Column("known_at", UtcDateTime, nullable=False),
    Column("reported_at", UtcDateTime, nullable=False),
    Column("reporter", Text),
    Column("replaced_at", UtcDateTime, comment="wall clock of a correction; null: never accepted"),
    comment="One row per report that the one in outcomes contradicts. Append-only.",
)

SERVING_HISTORY = Table(
    "serving_history",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("version", Text, nullable=False),
    Column("reason", Text, nullable=False, comment="start, promotion or rollback"),
    Column("trained_through", Text, comment="ISO 8601, from the model"),
    Column("serving_since", UtcDateTime, nullable=False, comment="wall clock, inclusive"),
    Column("until", UtcDateTime, comment="wall clock, exclusive; null while it is deployed"),
    comment="One row per period in which one version was deployed; a restart continues it.",
)

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("decision_id", Text, primary_key=True, comment="digest of the evidence"),
    Column("decided_at", UtcDateTime, nullable=False, comment="on the clock of as_of"),
    Column("action", Text, nullable=False, comment="keep or retrain"),
    Column("reasons", JSON, nullable=False, comment="objects of code, value, limit and text"),
    Column("evidence", JSON, nullable=False, comment="every number that the rules used"),
    Column("challenger", Text, comment="version that a retrain registered; null: none (yet)"),
    Column("result", Text, comment="promoted or rejected; null: keep, or not decided yet"),
    Column("result_reasons", JSON, comment="the gate's sentences"),
    comment="One row per decision about retraining, also the decisions to keep.",
)

CHAMPION_CHANGES = Table(
    "champion_changes",
    METADATA,
    Column("number", Integer, primary_key=True, comment="1, 2, 3, ... without gaps"),
    Column("kind", Text, nullable=False, comment="canary, promotion or rollback"),
    Column("version", Text, nullable=False, comment="the canary or the new champion"),
    Column("replaced", Text, comment="champion, or canary rolled back; null for the first"),
    Column("as_of", UtcDateTime, nullable=False, comment="on the clock of as_of"),
    Column("reasons", JSON, nullable=False, comment="sentences"),
    Column("share", Double, comment="of the instances, for a canary; null: all"),
    comment="One row per change of the champion or of the canary's share; the last is the truth.",
)


API_KEYS = Table(
    "api_keys",
    METADATA,
    Column("key_id", Text, primary_key=True, comment="start of the digest"),
    Column("digest", Text, nullable=False, comment="SHA-256 of the key, hexadecimal"),
    Column("client", Text, nullable=False, comment="has several keys during a rotation"),
    Column("scopes", JSON, nullable=False, comment="of predict, outcomes, operate, read"),
    Column("production_traffic", Boolean, nullable=False, comment="monitoring counts its requests"),
    Column("requests_per_s", Integer, nullable=False, comment="per process of the API"),
    Column("max_concurrent", Integer, nullable=False, comment="requests, per process of the API"),
    Column("created_at", UtcDateTime, nullable=False, comment="wall clock"),
    Column("revoked_at", UtcDateTime, comment="wall clock; null: valid"),
    comment="One row per API key; a revoked one is kept.",
)


@dataclass(frozen=True)
class Prediction:
    """One row of `predictions`; `features` is float32 [f], NaN where no value is usable."""

    request_id: str
    position: int
    trace_id: str
    request_digest: str
    client: str
    production_traffic: bool
    instance_id: str
    model_version: str
    probability: float
    uncertainty: float  # standard deviation of the ensemble members' probabilities
    decision: bool
    features: np.ndarray
    features_missing: Sequence[str]
    features_stale: Sequence[str]
    features_not_yet_known: Sequence[str]
    as_of: datetime
    due_at: datetime
    predicted_at: datetime
    outside_training: bool  # the model has seen no such prediction time, or not such a value
    model_seconds: float  # CPU time of the forward pass that computed it, beside others
    instance: dict[str, Any]  # request field -> JSON value or aware datetime

    @property
    def prediction_id(self) -> str:
        return f"{self.request_id}-{self.position}"


@dataclass(frozen=True)
class LoggedOutcome:
    """The outcome of an instance; `details` holds JSON values."""

    instance_id: str
    label: bool
    details: dict[str, Any]
    known_at: datetime

    def agrees(self, other: "LoggedOutcome") -> bool:
        """True if both report the same fact; when it became known does not matter."""
        return (self.label, self.details) == (other.label, other.details)


@dataclass(frozen=True)
class OutcomeCounts:
    """Result of one report; the first four add up to the number of outcomes reported."""

    accepted: int
    duplicates: int
    contradictions: int
    never_predicted: int  # not stored
    contradicting: list[str]  # instance ids
    newest_accepted: datetime | None  # the latest known_at of those accepted
