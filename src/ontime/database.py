"""Connections to SQLite or Postgres, by URL alone, on which nothing waits without a bound.

A Postgres that is frozen keeps its connections open and ends no statement itself: `_connect` makes
connections that give up when the server is silent.

SQLite runs in WAL mode with synchronous=NORMAL: a commit survives the death of the process, also
``kill -9``; only a power cut can take the last ones, and none is left half written.
"""

from collections.abc import Generator
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
from sqlalchemy import URL, Engine, create_engine, event, make_url

WAIT_S = 5  # how long a write may wait for its turn, or for a server's answer
SILENCE_S = WAIT_S + 1  # the server ends a slow statement itself before that


def open_engine(address: str) -> Engine:
    url = make_url(address)
    if url.get_backend_name() != "sqlite":
        server = {"connect_timeout": WAIT_S, "options": f"-c statement_timeout={WAIT_S}s"}
        engine = _create(url, pool_pre_ping=True, pool_timeout=WAIT_S, connect_args=server)
        event.listen(engine, "do_connect", _connect)
        return engine
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


def _connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
    import psycopg

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *rest: Any, **named: Any) -> Any:
            try:
                return super().wait(_until_silence(gen), *rest, **named)
            except TimeoutError as error:
                self.close()  # what it asked for may still come: nobody may read that as another's
                raise psycopg.OperationalError(str(error)) from error

    return Connection.connect(*arguments, **options)


def _until_silence(conversation: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Psycopg's conversation with a server, ended when nothing has come for `SILENCE_S`.

    It is woken with 0 ten times a second while nothing comes.
    """
    heard = monotonic()
    try:
        waits_for = next(conversation)
        while True:
            ready = yield waits_for
            if ready:
                heard = monotonic()
            elif monotonic() - heard > SILENCE_S:
                raise TimeoutError(f"the database must answer in {SILENCE_S} s, and is silent")
            waits_for = conversation.send(ready)
    except StopIteration as end:
        return end.value
