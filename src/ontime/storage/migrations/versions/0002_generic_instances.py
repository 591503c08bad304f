"""Instances as JSON under `instance_id`, labels, `due_at`, decisions, and reasons with codes.

It names the columns of the flight problem because it converts a database that has them (see 0001).
Converted predictions have no `decision`: the threshold of their model is not in the database.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

FLIGHT_COLUMNS = ("carrier", "flight", "origin", "dest", "tailnum")
FLIGHT_TIMES = ("scheduled_departure", "scheduled_arrival")
EVIDENCE_KEYS = {
    "late_share": "positive_rate",
    "calibration_gap": "calibration_bias",
    "constant_log_loss": "base_rate_log_loss",
}


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    _convert_predictions(sqlite)
    op.execute("ALTER TABLE shadow_predictions RENAME COLUMN probability_late TO probability")
    _convert_outcomes("outcomes", sqlite)
    op.drop_index("ix_outcome_contradictions_flight_id", "outcome_contradictions")
    _convert_outcomes("outcome_contradictions", sqlite)
    op.create_index(None, "outcome_contradictions", ["instance_id"])
    _convert_decisions()


def _convert_predictions(sqlite: bool) -> None:
    if sqlite:
        json_object = "json_object"
        iso = "replace({0}, ' ', 'T') || '+00:00'"
        due_at = "strftime('%Y-%m-%d %H:%M:%f000', scheduled_departure, '+12 hours')"
    else:
        json_object = "json_build_object"
        iso = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')"""
        due_at = "scheduled_departure + interval '12 hours'"
    fields = {name: name for name in FLIGHT_COLUMNS}
    fields |= {name: iso.format(name) for name in FLIGHT_TIMES}
    instance = ", ".join(f"'{name}', {value}" for name, value in fields.items())
    op.add_column("predictions", sa.Column("decision", sa.Boolean))
    op.add_column("predictions", sa.Column("instance", sa.JSON))
    op.add_column("predictions", sa.Column("due_at", sa.DateTime(timezone=True)))
    statement = f"UPDATE predictions SET instance = {json_object}({instance}), due_at = {due_at}"
    op.get_bind().exec_driver_sql(statement)  # `op.execute` takes its colons for parameters
    op.drop_index("predictions_by_flight", "predictions")
    with op.batch_alter_table("predictions") as table:
        table.alter_column("flight_id", new_column_name="instance_id")
        table.alter_column("probability_late", new_column_name="probability")
        table.alter_column("instance", nullable=False)
        table.alter_column("due_at", nullable=False)
        for name in (*FLIGHT_COLUMNS, *FLIGHT_TIMES):
            table.drop_column(name)
    op.create_index("predictions_by_instance", "predictions", ["instance_id"])


def _convert_outcomes(name: str, sqlite: bool) -> None:
    # A contradiction was stored without its label: 15 minutes or more, or no arrival.
    label = "status <> 'arrived' OR coalesce(arrival_delay_min, 0) >= 15"
    label = "is_late" if name == "outcomes" else label
    details = "json_build_object('status', status, 'arrival_delay_min', arrival_delay_min)"
    if sqlite:  # json_object alone keeps 15 digits of a number
        number = "json(iif(arrival_delay_min IS NULL, 'null', printf('%!.17g', arrival_delay_min)))"
        details = f"json_object('status', status, 'arrival_delay_min', {number})"
    op.add_column(name, sa.Column("label", sa.Boolean))
    op.add_column(name, sa.Column("details", sa.JSON))
    op.execute(f"UPDATE {name} SET label = {label}, details = {details}")
    with op.batch_alter_table(name) as table:
        table.alter_column("flight_id", new_column_name="instance_id")
        table.alter_column("label", nullable=False)
        table.alter_column("details", nullable=False)
        table.drop_column("status")
        table.drop_column("arrival_delay_min")
        if name == "outcomes":
            table.drop_column("is_late")


def _convert_decisions() -> None:
    decisions = sa.table(
        "decisions",
        sa.column("decision_id", sa.Text),
        sa.column("reasons", sa.JSON),
        sa.column("evidence", sa.JSON),
        sa.column("result", sa.Text),
    )
    bind = op.get_bind()
    for row in bind.execute(sa.select(decisions)).all():
        reasons = [_reason(sentence) for sentence in row.reasons]
        values = {"reasons": reasons, "evidence": _renamed(row.evidence)}
        where = decisions.c.decision_id == row.decision_id
        bind.execute(sa.update(decisions).where(where).values(**values))
    op.execute("UPDATE decisions SET result = 'rejected' WHERE result = 'refused'")


def _reason(sentence: str) -> dict[str, Any]:
    """ "held back: log-loss: ..." has the code held_back_log_loss."""
    trigger = sentence.removeprefix("held back: ")
    code = trigger.split(":")[0].replace(" ", "_").replace("-", "_")
    code = f"held_back_{code}" if trigger != sentence else code
    return {"code": code, "value": None, "limit": None, "text": sentence}


def _renamed(evidence: Any) -> Any:
    """JSON with `EVIDENCE_KEYS` renamed at every level."""
    if isinstance(evidence, dict):
        return {EVIDENCE_KEYS.get(key, key): _renamed(value) for key, value in evidence.items()}
    return [_renamed(item) for item in evidence] if isinstance(evidence, list) else evidence
