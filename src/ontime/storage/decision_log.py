"""Retraining decisions with their results, and changes of the champion.

Both tables are in the prediction log's database. A change of champion is reserved here before the
registry's alias moves: MLflow has no compare-and-set for aliases and a primary key does, so that
of two concurrent promotions one fails, because its challenger was evaluated against a former
champion.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ontime.errors import ChampionChanged
from ontime.settings import Settings
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import CHAMPION_CHANGES, DECISIONS


@dataclass(frozen=True)
class ChampionChange:
    """One row of `champion_changes`.

    A canary answers its share of the instances while the champion answers the others.
    """

    number: int
    kind: str
    version: str
    replaced: str | None
    as_of: datetime
    reasons: list[str]
    share: float | None = None  # None: all

    def takes(self, instance_id: str) -> bool:
        """True if the canary answers for an instance: in every process, and at any larger share.

        The version is hashed with the id, so that each canary has other instances.
        """
        key = f"{self.version}:{instance_id}".encode()
        place = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())
        return self.share is not None and place < self.share * 2**64


def champion_of(changes: list[ChampionChange]) -> str | None:
    """The champion after these changes; a canary is none yet."""
    return next((c.version for c in reversed(changes) if c.kind != "canary"), None)


def canary_of(changes: list[ChampionChange]) -> ChampionChange | None:
    """The canary that runs after these changes, with its share."""
    return changes[-1] if changes and changes[-1].kind == "canary" else None


def open_decision_log(settings: Settings) -> "DecisionLog":
    """The decision log, with its database migrated."""
    log = PredictionLog(settings.prediction_db_url)
    log.migrate()
    return DecisionLog(log)


class DecisionLog:
    """The tables `decisions` and `champion_changes`, in the database of a prediction log."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log

    def decisions(self) -> list[dict[str, Any]]:
        """Every decision, oldest first."""
        return self._log.rows(select(DECISIONS).order_by(DECISIONS.c.decided_at))

    def last(self) -> dict[str, Any] | None:
        """The newest decision; None before the first."""
        newest = select(DECISIONS).order_by(DECISIONS.c.decided_at.desc()).limit(1)
        return next(iter(self._log.rows(newest)), None)

    def unfinished(self) -> list[dict[str, Any]]:
        """Decisions to retrain without a result, oldest first.

        The challenger of such a decision is None while it is trained, then a version in shadow.
        """
        where = (DECISIONS.c.action == "retrain") & DECISIONS.c.result.is_(None)
        query = select(DECISIONS).where(where)
        return self._log.rows(query.order_by(DECISIONS.c.decided_at))

    def record(self, decision: dict[str, Any]) -> bool:
        """Write a decision; False if a decision on the same evidence exists."""
        try:
            self._log.write(insert(DECISIONS).values(**decision))
        except IntegrityError:
            return False
        return True

    def record_challenger(self, decision_id: str, version: str) -> None:
        """Write the version that a decision to retrain produced; its shadow deployment begins."""
        self._update(decision_id, {"challenger": version})

    def record_result(self, decision_id: str, promoted: bool, reasons: list[str]) -> None:
        """Write the gate's result for the challenger of a decision to retrain."""
        result = "promoted" if promoted else "rejected"
        self._update(decision_id, {"result": result, "result_reasons": reasons})

    def _update(self, decision_id: str, values: dict[str, Any]) -> None:
        where = DECISIONS.c.decision_id == decision_id
        self._log.write(update(DECISIONS).where(where).values(**values))

    def changes(self) -> list[ChampionChange]:
        """Every change of the champion, oldest first."""
        query = select(CHAMPION_CHANGES).order_by(CHAMPION_CHANGES.c.number)
        return [ChampionChange(**row) for row in self._log.rows(query)]

    def reserve_change(self, change: ChampionChange) -> None:
        """Insert the row of a change, before the alias moves.

        Raises:
            ChampionChanged: if a change with this number exists.
        """
        try:
            self._log.write(insert(CHAMPION_CHANGES).values(**vars(change)))
        except IntegrityError:
            raise ChampionChanged(
                f"another process made change {change.number} of the champion meanwhile; version "
                f"{change.version} was evaluated against {change.replaced}: evaluate it again"
            ) from None

    def cancel_change(self, number: int) -> None:
        """Delete a reserved change, because the alias could not be moved."""
        self._log.write(delete(CHAMPION_CHANGES).where(CHAMPION_CHANGES.c.number == number))
