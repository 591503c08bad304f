"""Run by Alembic's commands, which `ontime.storage.migrations.upgrade` calls with a connection."""

import logging

from alembic import context

from ontime.storage.schema import METADATA

logging.getLogger("alembic").setLevel(logging.WARNING)  # it reports each step at INFO
context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
