"""The prediction log: what was answered, from which features, by which model, and what came true.

One place for both halves, so that monitoring can join them: SQLite by default, Postgres by URL
alone. Who judges a model says up to when outcomes are known (`known_by`): an outcome counts only
from the moment it was known, whenever it was written.

Notable decisions
- `record` is one transaction and returns after its commit: an answer that left is in the log, also
  after `kill -9`.
- Features are a JSON array of float32 (shortest digits that read back equal; NaN is null), their
  names once beside it: 1.2 KB a prediction, where names in every row made it 4.2 KB.
- The first report of a flight's outcome stands. An equal one is a duplicate, a contradicting one is
  kept beside it: what monitoring has already judged is never rewritten.
- Tables are made at first use: a log that cannot be reached makes the API unready, not dead.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pandas as pd
from sqlalchemy import (
    Connection,
    Delete,
    Insert,
    Select,
    Table,
    Update,
    and_,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ontime.database import open_engine
from ontime.log_tables import (
    FEATURE_SETS,
    METADATA,
    OUTCOME_CONTRADICTIONS,
    OUTCOMES,
    PREDICTIONS,
    SERVING_HISTORY,
    SHADOW_PREDICTIONS,
    TABLES,
    Outcome,
    OutcomeCounts,
    Prediction,
    UtcDateTime,
)


class LogUnavailable(RuntimeError):
    """The log does not answer or cannot be written; nothing may be answered without its row."""


class AlreadyAnswered(RuntimeError):
    """The request id is in the log already: the logged answer is the answer."""


class PredictionLog:
    """Raises `LogUnavailable` from every method when the database does not do its part in time."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self._tables_made = False
        self._feature_sets: set[str] = set()  # that this process has written

    def close(self) -> None:
        """Give back the connections; the next use opens new ones."""
        self.engine.dispose()

    def record(self, predictions: Sequence[Prediction], feature_names: Sequence[str]) -> None:
        """Write the predictions of one request, all or none.

        `feature_names` [f] are those of each prediction's `features` [f].

        Raises:
            AlreadyAnswered: if the request id is in the log.
        """
        same = {"feature_set": self._feature_set(feature_names)}
        rows = [vars(p) | same | {"prediction_id": p.prediction_id} for p in predictions]
        try:
            with self._transaction() as connection:
                connection.execute(insert(PREDICTIONS), rows)
        except IntegrityError as error:
            raise AlreadyAnswered(predictions[0].request_id) from error

    def answered(self, request_id: str) -> list[dict[str, Any]]:
        """The logged answer to a request, in order; empty if there was none."""
        columns = PREDICTIONS.c["prediction_id", "model_version", "probability_late", "uncertainty"]
        details = PREDICTIONS.c["features_missing", "features_stale", "request_digest"]
        query = select(*columns, *details).where(PREDICTIONS.c.request_id == request_id)
        return self.rows(query.order_by(PREDICTIONS.c.position))

    def record_shadow(
        self, version: str, prediction_ids: Sequence[str], probabilities: np.ndarray
    ) -> None:
        rows = [
            {"prediction_id": name, "model_version": version, "probability_late": probability}
            for name, probability in zip(prediction_ids, probabilities.tolist(), strict=True)
        ]
        with self._transaction() as connection:
            connection.execute(insert(SHADOW_PREDICTIONS), rows)

    def record_outcomes(self, outcomes: Sequence[Outcome]) -> OutcomeCounts:
        """Write what happened, idempotent by flight."""
        try:
            return self._record_outcomes(outcomes)
        except IntegrityError:  # somebody reported one of the flights meanwhile: now we see it
            return self._record_outcomes(outcomes)

    def _record_outcomes(self, outcomes: Sequence[Outcome]) -> OutcomeCounts:
        with self._transaction() as connection:
            standing = _standing(connection, {outcome.flight_id for outcome in outcomes})
            accepted, contradicting = [], []
            for outcome in outcomes:
                if (stands := standing.setdefault(outcome.flight_id, outcome)) is outcome:
                    accepted.append(outcome)
                elif not outcome.agrees(stands):
                    contradicting.append(outcome)
            reported_at = {"reported_at": datetime.now(UTC)}
            late = [vars(o) | reported_at | {"is_late": o.is_late} for o in accepted]
            _insert(connection, OUTCOMES, late)
            _insert(
                connection, OUTCOME_CONTRADICTIONS, [vars(o) | reported_at for o in contradicting]
            )
            predicted = _count_predicted(connection, [o.flight_id for o in accepted])
        return OutcomeCounts(
            accepted=len(accepted),
            duplicates=len(outcomes) - len(accepted) - len(contradicting),
            contradictions=len(contradicting),
            never_predicted=len(accepted) - predicted,
            contradicting=[outcome.flight_id for outcome in contradicting],
        )

    def served(
        self, since: datetime, until: datetime, known_by: datetime | None = None
    ) -> pd.DataFrame:
        """Predictions with since <= as_of < until, each with its outcome if known by `known_by`.

        One row a prediction, ordered by as_of and flight: the columns of `predictions`, every
        logged feature as its own float32 column (NaN = missing or stale), and `status`,
        `arrival_delay_min`, `is_late` (boolean, NA = not known), `known_at`.
        """
        known = OUTCOMES.c.flight_id == PREDICTIONS.c.flight_id
        if known_by is not None:
            known = and_(known, OUTCOMES.c.known_at <= known_by)
        outcome = OUTCOMES.c["status", "arrival_delay_min", "is_late", "known_at"]
        query = (
            select(PREDICTIONS, *outcome)
            .outerjoin_from(PREDICTIONS, OUTCOMES, known)
            .where(PREDICTIONS.c.as_of >= since, PREDICTIONS.c.as_of < until)
            .order_by(*PREDICTIONS.c["as_of", "flight_id", "prediction_id"])
        )
        moments = [
            column.name for column in query.selected_columns if isinstance(column.type, UtcDateTime)
        ]
        types = dict.fromkeys(moments, "datetime64[us, UTC]")  # also where there is no row
        types |= {"is_late": "boolean", "arrival_delay_min": "float64"}
        return self._frame(query).astype(types)

    def recent_questions(self, n: int) -> pd.DataFrame:
        """Model inputs of the last `n` predictions: carrier, origin, dest and every feature."""
        columns = PREDICTIONS.c["carrier", "origin", "dest", "feature_set", "features"]
        return self._frame(select(*columns).order_by(PREDICTIONS.c.predicted_at.desc()).limit(n))

    def shadow_scores(self, version: str) -> pd.Series:
        """Probabilities that a challenger gave in the background, by prediction_id."""
        table = SHADOW_PREDICTIONS
        query = select(*table.c["prediction_id", "probability_late"])
        rows = self.rows(query.where(table.c.model_version == version))
        return pd.Series(
            {row["prediction_id"]: row["probability_late"] for row in rows}, dtype="float64"
        )

    def began_serving(self, version: str, at: datetime, trained_through: str | None) -> datetime:
        """Note that a version serves from `at` on, and return since when it really does.

        The version that serves already (a restart, a second replica) goes on with its row.
        """
        table = SERVING_HISTORY
        with self._transaction() as connection:
            latest = select(table).order_by(table.c.id.desc()).limit(1)
            last = connection.execute(latest).mappings().first()
            if last is not None and last["version"] == version:
                return cast("datetime", last["serving_since"])
            connection.execute(update(table).where(table.c.until.is_(None)).values(until=at))
            row = {
                "version": version,
                "reason": _reason(last["version"] if last else None, version),
                "trained_through": trained_through,
                "serving_since": at,
            }
            connection.execute(insert(table), row)
        return at

    def history(self) -> list[dict[str, Any]]:
        """Which version answered when, and why it changed; oldest first."""
        return self.rows(select(SERVING_HISTORY).order_by(SERVING_HISTORY.c.id))

    def counts(self) -> dict[str, int]:
        """Rows of each table."""
        return {
            table.name: self.rows(select(func.count().label("n")).select_from(table))[0]["n"]
            for table in TABLES
        }

    def check(self) -> None:
        """Raise if the log does not answer."""
        self.rows(select(1))

    def rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        with self._transaction() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def write(self, statement: Insert | Update | Delete) -> None:
        """Run one statement in a transaction of its own."""
        with self._transaction() as connection:
            connection.execute(statement)

    def _frame(self, query: Select[Any]) -> pd.DataFrame:
        with self._transaction() as connection:
            result = connection.execute(query)
            frame = pd.DataFrame(result.all(), columns=list(result.keys()))
        sets, features = frame.pop("feature_set"), frame.pop("features")
        names = {row["feature_set"]: row["names"] for row in self.rows(select(FEATURE_SETS))}
        parts = [_numbers(rows, names[key]) for key, rows in features.groupby(sets)]
        return frame.join(pd.concat(parts)) if parts else frame

    def _feature_set(self, names: Sequence[str]) -> str:
        key = hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
        if key not in self._feature_sets:
            with suppress(IntegrityError), self._transaction() as connection:  # known already
                connection.execute(insert(FEATURE_SETS), {"feature_set": key, "names": names})
            self._feature_sets.add(key)
        return key

    def _make_tables(self) -> None:
        if self._tables_made:
            return
        try:
            METADATA.create_all(self.engine)
        except DBAPIError as error:
            if "exist" not in str(error.orig):
                raise
            METADATA.create_all(self.engine)  # another process made some of them meanwhile
        self._tables_made = True

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            self._make_tables()
            with self.engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout) as error:
            where = self.engine.url.render_as_string(hide_password=True)
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise LogUnavailable(f"the prediction log {where} does not work: {cause}") from error


def _numbers(rows: pd.Series, names: list[str]) -> pd.DataFrame:
    values = np.array(rows.tolist(), dtype=np.float32)  # None becomes NaN
    return pd.DataFrame(values, columns=names, index=rows.index)


def _standing(connection: Connection, flight_ids: Iterable[str]) -> dict[str, Outcome]:
    columns = OUTCOMES.c["flight_id", "status", "arrival_delay_min", "known_at"]
    rows = connection.execute(select(*columns).where(OUTCOMES.c.flight_id.in_(flight_ids)))
    return {row.flight_id: Outcome(*row) for row in rows}


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _count_predicted(connection: Connection, flight_ids: Sequence[str]) -> int:
    flight_id = PREDICTIONS.c.flight_id
    query = select(func.count(flight_id.distinct())).where(flight_id.in_(flight_ids))
    return int(connection.execute(query).scalar_one())


def _reason(before: str | None, version: str) -> str:
    """Registry versions count upwards, so that a lower number is a way back."""
    if before is None:
        return "start"
    return "rollback" if int(version) < int(before) else "promotion"
