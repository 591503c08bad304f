"""API keys; client and `outside_training` of each prediction; the reporter of each outcome.

What was logged before had no client and counts as production traffic. Outcomes of instances that
were never predicted stay, and no query joins them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("production_traffic", sa.Boolean, nullable=False),
        sa.Column("requests_per_s", sa.Integer, nullable=False),
        sa.Column("max_concurrent", sa.Integer, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME),
    )
    op.add_column("predictions", sa.Column("client", sa.Text))
    flags = {"production_traffic": sa.true(), "outside_training": sa.false()}  # of earlier rows
    with op.batch_alter_table("predictions") as table:
        for name, value in flags.items():
            table.add_column(sa.Column(name, sa.Boolean, server_default=value))
    with op.batch_alter_table("predictions") as table:
        for name in flags:
            table.alter_column(name, nullable=False, server_default=None)
    op.add_column("outcomes", sa.Column("reporter", sa.Text))
    op.add_column("outcome_contradictions", sa.Column("reporter", sa.Text))
    op.add_column("outcome_contradictions", sa.Column("replaced_at", TIME))
