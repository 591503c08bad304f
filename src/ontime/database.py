"""Connections to SQLite or Postgres, by URL alone, on which nothing waits without a bound.

SQLite runs in WAL mode with synchronous=NORMAL: a commit survives the death of the process, also
``kill -9``; only a power cut can take the last ones, and none is left half written.
"""

from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import URL, Engine, create_engine, event, make_url

WAIT_S = 5  # how long a write may wait for its turn, or for a server's answer


def open_engine(address: str) -> Engine:
    url = make_url(address)
    if url.get_backend_name() != "sqlite":
        server = {"connect_timeout": WAIT_S, "options": f"-c statement_timeout={WAIT_S}s"}
        return _create(url, pool_pre_ping=True, pool_timeout=WAIT_S, connect_args=server)
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = _create(url, connect_args={"timeout": WAIT_S})
    event.listen(engine, "connect", _set_pragmas)
    return engine


def _create(url: URL, **options: Any) -> Engine:
    def as_text(value: Any) -> str:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()  # NaN is null

    return create_engine(
        url,
        json_serializer=as_text,
        json_deserializer=orjson.loads,
        hide_parameters=True,
        **options,
    )


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
