"""SQLAlchemy engines for SQLite and Postgres on which every wait is bounded.

A Postgres server that is suspended keeps its connections open and cancels no statement: `_connect`
makes connections that raise when the server is silent.

SQLite runs in WAL mode with synchronous=NORMAL: a commit survives the death of the process, also
``kill -9``; a power failure can lose the last commits, and leaves none half written.
"""

from collections.abc import Generator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
from sqlalchemy import URL, Engine, create_engine, event, make_url

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 5  # also the wait for SQLite's write lock


def open_engine(address: str | URL, timeout_s: int = STATEMENT_TIMEOUT_S) -> Engine:
    """An engine whose statements raise after `timeout_s`."""
    url = make_url(address)
    if url.get_backend_name() == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = _create(url, connect_args={"timeout": timeout_s})
        event.listen(engine, "connect", _set_pragmas)
        return engine
    options = f"-c statement_timeout={timeout_s}s"
    server = {"connect_timeout": CONNECT_TIMEOUT_S, "options": options}
    engine = _create(url, pool_pre_ping=True, pool_timeout=CONNECT_TIMEOUT_S, connect_args=server)
    silence_s = timeout_s + 1  # a server that works cancels the statement before that
    event.listen(engine, "do_connect", partial(_connect, silence_s))
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


def _connect(silence_s: float, _dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
    import psycopg  # not installed without Postgres

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *rest: Any, **named: Any) -> Any:
            try:
                return super().wait(_until_silence(gen, silence_s), *rest, **named)
            except TimeoutError as error:
                self.close()  # its result may still arrive, and belongs to no later statement
                raise psycopg.OperationalError(str(error)) from error

    return Connection.connect(*arguments, **options)


def _until_silence(
    protocol: Generator[Any, Any, Any], silence_s: float
) -> Generator[Any, Any, Any]:
    """Psycopg's exchange with a server, ended when nothing was received for `silence_s`.

    Psycopg resumes it with 0 ten times a second while nothing is received.
    """
    last = monotonic()
    try:
        waits_for = next(protocol)
        while True:
            ready = yield waits_for
            if ready:
                last = monotonic()
            elif monotonic() - last > silence_s:
                raise TimeoutError(f"the database must respond in {silence_s} s, and is silent")
            waits_for = protocol.send(ready)
    except StopIteration as end:
        return end.value
