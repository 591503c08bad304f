"""What was decided and what became of it: retraining decisions and changes of the champion.

Both tables lie in the prediction log's database. A change of champion is claimed here before the
registry's alias moves: MLflow's aliases cannot be compared and set, a primary key can, so that of
two promotions at once one is told that it judged against a champion that no longer serves.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Integer, Table, Text, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ontime.log_tables import METADATA, UtcDateTime
from ontime.prediction_log import PredictionLog
from ontime.settings import Settings

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("decision_id", Text, primary_key=True, comment="digest of the evidence"),
    Column("decided_at", UtcDateTime, nullable=False, comment="on the clock of as_of"),
    Column("action", Text, nullable=False, comment="keep or retrain"),
    Column("reasons", JSON, nullable=False, comment="sentences"),
    Column("evidence", JSON, nullable=False, comment="every number the rules looked at"),
    Column("challenger", Text, comment="version that a retrain made; null: none (yet)"),
    Column("result", Text, comment="promoted or refused; null: keep, or under way"),
    Column("result_reasons", JSON, comment="the gate's sentences"),
    comment="One row a decision about retraining, also the ones to keep.",
)

CHAMPION_CHANGES = Table(
    "champion_changes",
    METADATA,
    Column("number", Integer, primary_key=True, comment="1, 2, 3, ... without holes"),
    Column("kind", Text, nullable=False, comment="promotion or rollback"),
    Column("version", Text, nullable=False, comment="champion from here on"),
    Column("replaced", Text, comment="champion before; null for the first"),
    Column("as_of", UtcDateTime, nullable=False, comment="on the clock of as_of"),
    Column("reasons", JSON, nullable=False),
    comment="One row a change of the champion, in the order they took effect.",
)


class ChampionChanged(RuntimeError):
    """Somebody else changed the champion since it was looked at."""


@dataclass(frozen=True)
class ChampionChange:
    """One row of `champion_changes`."""

    number: int
    kind: str
    version: str
    replaced: str | None
    as_of: datetime
    reasons: list[str]


def open_decision_log(settings: Settings) -> "DecisionLog":
    return DecisionLog(PredictionLog(settings.log_url))


class DecisionLog:
    """The two tables above, in the database of a prediction log."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log

    def decisions(self) -> list[dict[str, Any]]:
        """Every decision, oldest first."""
        return self._log.rows(select(DECISIONS).order_by(DECISIONS.c.decided_at))

    def last(self) -> dict[str, Any] | None:
        """The newest decision; None before the first."""
        newest = select(DECISIONS).order_by(DECISIONS.c.decided_at.desc()).limit(1)
        return next(iter(self._log.rows(newest)), None)

    def unfinished(self) -> list[str]:
        """Ids of decisions to retrain of which nothing has come: the process died in between."""
        where = (DECISIONS.c.action == "retrain") & DECISIONS.c.result.is_(None)
        return [row["decision_id"] for row in self._log.rows(select(DECISIONS).where(where))]

    def record(self, decision: dict[str, Any]) -> bool:
        """Write a decision down; False if the same evidence was decided on before."""
        try:
            self._log.write(insert(DECISIONS).values(**decision))
        except IntegrityError:
            return False
        return True

    def conclude(
        self, decision_id: str, challenger: str, promoted: bool, reasons: list[str]
    ) -> None:
        """Write down what came of a decision to retrain."""
        result = {
            "challenger": challenger,
            "result": "promoted" if promoted else "refused",
            "result_reasons": reasons,
        }
        where = DECISIONS.c.decision_id == decision_id
        self._log.write(update(DECISIONS).where(where).values(**result))

    def changes(self) -> list[ChampionChange]:
        """Every change of the champion, oldest first."""
        query = select(CHAMPION_CHANGES).order_by(CHAMPION_CHANGES.c.number)
        return [ChampionChange(**row) for row in self._log.rows(query)]

    def claim(self, change: ChampionChange) -> None:
        """Take the next place in the order of champions.

        Raises:
            ChampionChanged: if somebody took that place since the caller counted.
        """
        try:
            self._log.write(insert(CHAMPION_CHANGES).values(**vars(change)))
        except IntegrityError:
            raise ChampionChanged(
                f"change {change.number} of the champion was made by somebody else meanwhile; "
                f"version {change.version} was judged against {change.replaced}: judge it again"
            ) from None

    def withdraw(self, number: int) -> None:
        """Give a claimed place back, because the alias could not be moved."""
        self._log.write(delete(CHAMPION_CHANGES).where(CHAMPION_CHANGES.c.number == number))
