"""The canary's share of the instances, and the CPU time of a prediction's forward pass."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("champion_changes", sa.Column("share", sa.Double))
    op.add_column("predictions", sa.Column("model_seconds", sa.Double))
