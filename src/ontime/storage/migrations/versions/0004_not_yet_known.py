"""The features of each prediction that were known only after its time; none of earlier rows."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    column = sa.Column("features_not_yet_known", sa.JSON, nullable=False, server_default="[]")
    op.add_column("predictions", column)
