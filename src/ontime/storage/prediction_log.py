"""The prediction log: each prediction with its inputs, its model version and, later, its outcome.

Predictions and outcomes are in one database, SQLite by default and Postgres by URL, so that
monitoring can join them; `ontime.storage.outcomes` writes outcomes.

- `record` returns after its commit, and responses are sent after `record`; ``kill -9`` loses no
  prediction that was returned.
- Features as one JSON array of float32 (shortest digits that read back equal; NaN is null), names
  stored once per list: 1.2 KB per prediction instead of 4.2 KB.
- Migrations run only in `migrate`; before, each method raises `PredictionLogUnavailable`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, get_args

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Executable, func, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ontime.errors import DuplicateRequest, PredictionLogUnavailable
from ontime.problem import Instance
from ontime.storage.engine import open_engine
from ontime.storage.health import HealthCheck
from ontime.storage.migrations import check_revision, find_revision, upgrade
from ontime.storage.schema import (
    FEATURE_SETS,
    METADATA,
    OUTCOMES,
    PREDICTIONS,
    SCHEMA_VERSION,
    SHADOW_PREDICTIONS,
    Prediction,
    UtcDateTime,
)

UTC_TIMESTAMP = "datetime64[us, UTC]"
INSTANCE_FIELDS = list(Instance.model_fields)
TIME_FIELDS = [
    name
    for name, field in Instance.model_fields.items()
    if datetime in (field.annotation, *get_args(field.annotation))  # also an optional time
]
RESPONSE_COLUMNS = [c for c in PREDICTIONS.c if c.name not in ("instance", "features")]
ROWS_DECODED_AT_ONCE = 1_000

INSERT_PREDICTION = insert(PREDICTIONS)  # SQLAlchemy keeps its cache key on the object


class PredictionLog:
    """Every method raises `PredictionLogUnavailable` if the database does not respond in time."""

    def __init__(self, url: str) -> None:
        self.engine, self._migrated = open_engine(url), False
        self._health = HealthCheck(self.engine)
        self._feature_sets: set[str] = set()  # written by this process

    def migrate(self) -> None:
        """Upgrade the database to this code's schema; returns at once if it has that schema.

        Safe if several processes call it at the same time.
        """
        with self._domain_errors():
            with self.engine.connect() as connection:  # bounded by seconds, unlike `upgrade`
                revision = find_revision(connection)
            if revision != SCHEMA_VERSION:
                upgrade(self.engine.url)
        self._migrated = True

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self.engine.dispose()

    def record(self, predictions: Sequence[Prediction], feature_names: Sequence[str]) -> None:
        """Write predictions, all or none.

        `feature_names` [f] are those of each prediction's `features` [f].

        Raises:
            DuplicateRequest: if one of their request ids is in the log.
        """
        same = {"feature_set": self._feature_set(feature_names)}
        rows = [vars(p) | same | {"prediction_id": p.prediction_id} for p in predictions]
        try:
            with self.transaction() as connection:
                connection.execute(INSERT_PREDICTION, rows)
        except IntegrityError as error:
            raise DuplicateRequest("a request id is in the prediction log already") from error

    def responses(self, request_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """The logged response rows, by position, of each of the requests that is in the log."""
        found: dict[str, list[dict[str, Any]]] = {}
        if request_ids:
            query = select(*RESPONSE_COLUMNS).where(PREDICTIONS.c.request_id.in_(request_ids))
            for row in self.rows(query.order_by(PREDICTIONS.c.position)):
                found.setdefault(row["request_id"], []).append(row)
        return found

    def record_shadow(
        self, version: str, prediction_ids: Sequence[str], probabilities: np.ndarray
    ) -> None:
        """Write a challenger's probabilities [n] for logged predictions [n]."""
        rows = [
            {"prediction_id": name, "model_version": version, "probability": probability}
            for name, probability in zip(prediction_ids, probabilities.tolist(), strict=True)
        ]
        with self.transaction() as connection:
            connection.execute(insert(SHADOW_PREDICTIONS), rows)

    def served(
        self, since: datetime, until: datetime, known_by: datetime | None = None
    ) -> pd.DataFrame:
        """Predictions with since <= as_of < until, each with its outcome if known by `known_by`.

        One row per prediction, ordered by as_of and instance: the columns of `predictions`, the
        request fields, one float32 column per feature (NaN = no usable value), `label` (boolean,
        NA = not known) and `known_at`. Times are UTC timestamps.
        """
        known = OUTCOMES.c.instance_id == PREDICTIONS.c.instance_id
        if known_by is not None:
            known &= OUTCOMES.c.known_at <= known_by
        query = (
            select(PREDICTIONS, *OUTCOMES.c["label", "known_at"])
            .outerjoin_from(PREDICTIONS, OUTCOMES, known)
            .where(PREDICTIONS.c.as_of >= since, PREDICTIONS.c.as_of < until)
            .order_by(*PREDICTIONS.c["as_of", "instance_id", "prediction_id"])
        )
        times = [
            column.name for column in query.selected_columns if isinstance(column.type, UtcDateTime)
        ]
        types = dict.fromkeys(times, UTC_TIMESTAMP)  # also where there is no row
        return self._frame(query).astype(
            types
            | {
                "label": "boolean",
                "decision": "boolean",
                "production_traffic": "bool",
                "outside_training": "bool",
            }
        )

    def monitored(self, since: datetime, until: datetime, known_by: datetime) -> pd.DataFrame:
        """The rows of `served` that monitoring counts: production traffic, each instance once.

        The first prediction of an instance counts, which no later request can change.
        """
        rows = self.served(since, until, known_by)
        rows = rows[rows.production_traffic].sort_values("predicted_at", kind="stable")
        return rows.drop_duplicates("instance_id").sort_index()

    def recent_inputs(self, n: int) -> pd.DataFrame:
        """Inputs of the last `n` predictions: the request fields and every feature."""
        columns = PREDICTIONS.c["instance", "feature_set", "features"]
        return self._frame(select(*columns).order_by(PREDICTIONS.c.predicted_at.desc()).limit(n))

    def shadow_scores(self, version: str) -> pd.Series:
        """Probabilities of a challenger that scored in the background, by prediction_id."""
        table = SHADOW_PREDICTIONS
        query = select(*table.c["prediction_id", "probability"])
        rows = self.rows(query.where(table.c.model_version == version))
        return pd.Series(
            {row["prediction_id"]: row["probability"] for row in rows}, dtype="float64"
        )

    def counts(self) -> dict[str, int]:
        """Number of rows per table."""
        return {
            table.name: self.rows(select(func.count().label("n")).select_from(table))[0]["n"]
            for table in METADATA.tables.values()
        }

    def check(self) -> None:
        """Raise unless the database has this code's schema and can be written and read."""
        with self.transaction() as connection:
            self._health.check(connection)

    def rows(self, query: Executable) -> list[dict[str, Any]]:
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def write(self, statement: Executable) -> None:
        """Run one statement in a transaction of its own."""
        with self.transaction() as connection:
            connection.execute(statement)

    def _frame(self, query: Executable) -> pd.DataFrame:
        with self.transaction() as connection:
            result = connection.execute(query)
            columns = list(result.keys())
            rows: list[tuple[Any, ...]] = []
            at = columns.index("features")
            # As Python numbers, features of three months would take 0.6 GB and keep it, because
            # other values of the rows lie between them. None becomes NaN.
            for part in result.partitions(ROWS_DECODED_AT_ONCE):
                rows += [(*row[:at], np.array(row[at], np.float32), *row[at + 1 :]) for row in part]
        frame = pd.DataFrame(rows, columns=columns)
        instances = pd.DataFrame(frame.pop("instance").tolist(), columns=INSTANCE_FIELDS)
        for name in TIME_FIELDS:
            times = pd.to_datetime(instances[name], utc=True, format="ISO8601")
            instances[name] = times.astype(UTC_TIMESTAMP)
        sets, features = frame.pop("feature_set"), frame.pop("features")
        names = {row["feature_set"]: row["names"] for row in self.rows(select(FEATURE_SETS))}
        parts = [
            pd.DataFrame(np.stack(values.tolist()), values.index, names[key])
            for key, values in features.groupby(sets)
        ]
        return frame.join([instances, pd.concat(parts)] if parts else instances)

    def _feature_set(self, names: Sequence[str]) -> str:
        key = hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
        if key not in self._feature_sets:
            with suppress(IntegrityError), self.transaction() as connection:  # another process
                connection.execute(insert(FEATURE_SETS), {"feature_set": key, "names": names})
            self._feature_sets.add(key)
        return key

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._domain_errors(), self.engine.begin() as connection:
            if not self._migrated:
                check_revision(connection)
                self._migrated = True
            yield connection

    @contextmanager
    def _domain_errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout) as error:
            where = self.engine.url.render_as_string(hide_password=True)
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise PredictionLogUnavailable(
                f"the prediction log {where} does not work: {cause}"
            ) from error
