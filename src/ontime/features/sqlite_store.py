"""The compact online store in a SQLite file, the embedded default."""

import sqlite3
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import orjson
from feast import RepoConfig
from feast.repo_config import FeastConfigBaseModel

from ontime.features.compact_store import CompactOnlineStore


class CompactSqliteOnlineStoreConfig(FeastConfigBaseModel):
    type: Literal["ontime.features.sqlite_store.CompactSqliteOnlineStore"]
    path: str


class CompactSqliteOnlineStore(CompactOnlineStore):
    """One table in one SQLite file, in WAL mode: readers do not wait for a writer."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()  # one connection, used by several threads
        self._open: sqlite3.Connection | None = None

    def fetch(self, config: RepoConfig, keys: list[bytes]) -> list[bytes | None]:
        # One parameter for all keys: SQLite prepares the statement once, whatever their number.
        wanted = orjson.dumps([key.decode() for key in keys]).decode()
        query = "SELECT key, row FROM rows WHERE key IN (SELECT value FROM json_each(?))"
        with self._lock:
            found = dict(self._connection(config).execute(query, (wanted,)).fetchall())
        return [found.get(key.decode()) for key in keys]

    def put(self, config: RepoConfig, keys: list[bytes], rows: list[bytes]) -> None:
        event_us = [int(np.frombuffer(row, count=1)[0]) for row in rows]
        texts = [key.decode() for key in keys]
        statement = (
            "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            "event_us = excluded.event_us, row = excluded.row "
            "WHERE excluded.event_us >= rows.event_us"
        )
        with self._lock, self._connection(config) as connection:
            connection.executemany(statement, zip(texts, event_us, rows, strict=True))

    def delete(self, config: RepoConfig, prefix: bytes) -> None:
        first = prefix.decode()
        with self._lock, self._connection(config) as connection:
            last = first[:-1] + chr(ord(first[-1]) + 1)  # the first text after all with the prefix
            connection.execute("DELETE FROM rows WHERE key >= ? AND key < ?", (first, last))

    def _connection(self, config: RepoConfig) -> sqlite3.Connection:
        if self._open is None:
            path = Path(config.online_store.path)
            if config.repo_path and not path.is_absolute():
                path = config.repo_path / path
            connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS rows "
                "(key TEXT PRIMARY KEY, event_us INTEGER NOT NULL, row BLOB NOT NULL) WITHOUT ROWID"
            )
            self._open = connection
        return self._open
