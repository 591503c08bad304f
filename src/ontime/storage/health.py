"""Checks that the database can be written, and that its file is whole."""

from pathlib import Path

from sqlalchemy import Connection, Engine, func, select

from ontime.errors import PredictionLogUnavailable
from ontime.storage.schema import PREDICTIONS


class HealthCheck:
    """Remembers the size of a SQLite file, which does not shrink.

    Its connections do not notice if it is truncated: pages come from their caches and from the WAL.
    """

    def __init__(self, engine: Engine) -> None:
        is_file = engine.dialect.name == "sqlite" and engine.url.database
        self._file = Path(str(engine.url.database)) if is_file else None
        self._largest_size = 0

    def check(self, connection: Connection) -> None:
        """Write a commit without a row, and read the newest prediction.

        Raises:
            PredictionLogUnavailable: if the file of the database is absent or was truncated.
            DBAPIError: if the commit or the read fails.
        """
        if self._file is not None:
            self._check_size(self._file)
            connection.exec_driver_sql("PRAGMA user_version = 1")  # writes a page
        else:
            connection.execute(select(func.pg_current_xact_id()))  # its commit is written
        newest = select(PREDICTIONS).order_by(PREDICTIONS.c.predicted_at.desc()).limit(1)
        connection.execute(newest).all()

    def _check_size(self, file: Path) -> None:
        try:
            size = file.stat().st_size
        except OSError as error:
            raise PredictionLogUnavailable(f"the prediction log has no file: {error}") from error
        if size < self._largest_size:
            raise PredictionLogUnavailable(
                f"the prediction log's file had {self._largest_size} bytes, and has {size} now"
            )
        self._largest_size = size
