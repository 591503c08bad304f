"""The tables of the time before migrations, in databases that do not have them.

They have the columns of the flight problem, which no other generic code except 0002 may name: a
database of that time has them. A fork keeps both files unchanged.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "predictions",
        sa.Column("prediction_id", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("request_digest", sa.Text, nullable=False),
        sa.Column("flight_id", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("carrier", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("dest", sa.Text, nullable=False),
        sa.Column("tailnum", sa.Text),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("flight", sa.Integer, nullable=False),
        sa.Column("probability_late", sa.Double, nullable=False),
        sa.Column("uncertainty", sa.Double, nullable=False),
        sa.Column("feature_set", sa.Text, nullable=False),
        sa.Column("features", sa.JSON, nullable=False),
        sa.Column("features_missing", sa.JSON, nullable=False),
        sa.Column("features_stale", sa.JSON, nullable=False),
        sa.Column("predicted_at", TIME, nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("scheduled_departure", TIME, nullable=False),
        sa.Column("scheduled_arrival", TIME, nullable=False),
        sa.UniqueConstraint("request_id", "position"),
        if_not_exists=True,
    )
    op.create_index("predictions_by_flight", "predictions", ["flight_id"], if_not_exists=True)
    op.create_index("predictions_by_as_of", "predictions", ["as_of"], if_not_exists=True)
    op.create_index("predictions_by_time", "predictions", ["predicted_at"], if_not_exists=True)
    op.create_table(
        "feature_sets",
        sa.Column("feature_set", sa.Text, primary_key=True),
        sa.Column("names", sa.JSON, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "shadow_predictions",
        sa.Column("prediction_id", sa.Text, primary_key=True),
        sa.Column("model_version", sa.Text, primary_key=True),
        sa.Column("probability_late", sa.Double, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "outcomes",
        sa.Column("flight_id", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("arrival_delay_min", sa.Double),
        sa.Column("is_late", sa.Boolean, nullable=False),
        sa.Column("known_at", TIME, nullable=False),
        sa.Column("reported_at", TIME, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "outcome_contradictions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("flight_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("arrival_delay_min", sa.Double),
        sa.Column("known_at", TIME, nullable=False),
        sa.Column("reported_at", TIME, nullable=False),
        if_not_exists=True,
    )
    op.create_index(
        "ix_outcome_contradictions_flight_id",
        "outcome_contradictions",
        ["flight_id"],
        if_not_exists=True,
    )
    op.create_table(
        "serving_history",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("trained_through", sa.Text),
        sa.Column("serving_since", TIME, nullable=False),
        sa.Column("until", TIME),
        if_not_exists=True,
    )
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.Text, primary_key=True),
        sa.Column("decided_at", TIME, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.Column("challenger", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("result_reasons", sa.JSON),
        if_not_exists=True,
    )
    op.create_table(
        "champion_changes",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("replaced", sa.Text),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        if_not_exists=True,
    )
