"""Outcomes of predicted instances: first report kept, contradictions beside it, corrections.

An outcome counts from the time at which it was known (`PredictionLog.served`), not from the time at
which it was written.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select
from sqlalchemy.exc import IntegrityError

from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import (
    OUTCOME_CONTRADICTIONS,
    OUTCOMES,
    PREDICTIONS,
    LoggedOutcome,
    OutcomeCounts,
)


class OutcomeLog:
    """The tables `outcomes` and `outcome_contradictions`, in a prediction log's database."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log

    def record(self, outcomes: Sequence[LoggedOutcome], reporter: str) -> OutcomeCounts:
        """Write outcomes, idempotent by instance; those of instances never predicted are left out.

        The first report is kept, and a contradicting one is stored beside it.
        """
        try:
            return self._record(outcomes, reporter)
        except IntegrityError:  # a concurrent report inserted one of them; the retry reads it
            return self._record(outcomes, reporter)

    def _record(self, outcomes: Sequence[LoggedOutcome], reporter: str) -> OutcomeCounts:
        with self._log.transaction() as connection:
            ids = {outcome.instance_id for outcome in outcomes}
            known = _predicted(connection, ids)
            predicted = [outcome for outcome in outcomes if outcome.instance_id in known]
            first = _logged_outcomes(connection, ids)
            accepted, contradicting = [], []
            for outcome in predicted:
                if (logged := first.setdefault(outcome.instance_id, outcome)) is outcome:
                    accepted.append(outcome)
                elif not outcome.agrees(logged):
                    contradicting.append(outcome)
            by = {"reported_at": datetime.now(UTC), "reporter": reporter}
            _insert(connection, OUTCOMES, [vars(o) | by for o in accepted])
            _insert(connection, OUTCOME_CONTRADICTIONS, [vars(o) | by for o in contradicting])
        return OutcomeCounts(
            accepted=len(accepted),
            duplicates=len(predicted) - len(accepted) - len(contradicting),
            contradictions=len(contradicting),
            never_predicted=len(outcomes) - len(predicted),
            contradicting=[outcome.instance_id for outcome in contradicting],
            newest_accepted=max((outcome.known_at for outcome in accepted), default=None),
        )

    def correct(self, outcome: LoggedOutcome, reporter: str) -> bool:
        """Replace the outcome of an instance; the former one is kept as a contradiction.

        False, and nothing is written, if no outcome was reported or the reported one agrees.
        """
        with self._log.transaction() as connection:
            where = OUTCOMES.c.instance_id == outcome.instance_id
            former = connection.execute(select(OUTCOMES).where(where)).mappings().first()
            if former is None:
                return False
            if (former["label"], former["details"]) == (outcome.label, outcome.details):
                return False
            now = datetime.now(UTC)
            connection.execute(delete(OUTCOMES).where(where))
            _insert(connection, OUTCOME_CONTRADICTIONS, [dict(former) | {"replaced_at": now}])
            by = {"reported_at": now, "reporter": reporter}
            _insert(connection, OUTCOMES, [vars(outcome) | by])
        return True

    def predicted_instances(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The request fields of the instances that were predicted, by id."""
        columns = PREDICTIONS.c["instance_id", "instance"]
        rows = self._log.rows(select(*columns).where(PREDICTIONS.c.instance_id.in_(set(ids))))
        return {row["instance_id"]: row["instance"] for row in rows}


def _predicted(connection: Connection, ids: set[str]) -> set[str]:
    instance_id = PREDICTIONS.c.instance_id
    return set(connection.execute(select(instance_id).where(instance_id.in_(ids))).scalars())


def _logged_outcomes(connection: Connection, ids: set[str]) -> dict[str, LoggedOutcome]:
    columns = OUTCOMES.c["instance_id", "label", "details", "known_at"]
    rows = connection.execute(select(*columns).where(OUTCOMES.c.instance_id.in_(ids)))
    return {row.instance_id: LoggedOutcome(*row) for row in rows}


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)
