"""Which version was deployed when: the table `serving_history` in the prediction log's database."""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import SERVING_HISTORY


class ServingHistory:
    """Every method raises `PredictionLogUnavailable` if the database does not respond in time."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log

    def record(self, version: str, at: datetime, trained_through: str | None) -> datetime:
        """Write that a version is deployed from `at` on; returns since when it is deployed.

        A restart or a second replica with the same version continues its row. Of two replicas that
        write at the same time, the primary key rejects one, which then reads the other's row.
        """
        try:
            return self._record(version, at, trained_through)
        except IntegrityError:
            return self._record(version, at, trained_through)

    def _record(self, version: str, at: datetime, trained_through: str | None) -> datetime:
        table = SERVING_HISTORY
        with self._log.transaction() as connection:
            latest = select(table).order_by(table.c.id.desc()).limit(1)
            last = connection.execute(latest).mappings().first()
            if last is not None and last["version"] == version:
                return cast("datetime", last["serving_since"])
            row = {
                "id": last["id"] + 1 if last is not None else 1,
                "version": version,
                "reason": _reason(last["version"] if last is not None else None, version),
                "trained_through": trained_through,
                "serving_since": at,
            }
            connection.execute(update(table).where(table.c.until.is_(None)).values(until=at))
            connection.execute(insert(table), row)
        return at

    def rows(self) -> list[dict[str, Any]]:
        """Every period of a deployment, oldest first."""
        return self._log.rows(select(SERVING_HISTORY).order_by(SERVING_HISTORY.c.id))


def _reason(before: str | None, version: str) -> str:
    """Registry versions increase, so that a lower number is a rollback."""
    if before is None:
        return "start"
    return "rollback" if int(version) < int(before) else "promotion"
