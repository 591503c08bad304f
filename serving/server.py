"""Runs the API on uvicorn, with bounds on connections, headers and time:

    python -m serving.server [--host HOST] [--port PORT] [--workers N]

uvicorn bounds the number of connections and the pause between two requests. `BoundedConnection`
adds what it leaves open: the size of the headers, and the time in which a request arrives.
"""

import argparse
import asyncio
import os
import shutil
import socket
from contextlib import closing, suppress
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors.multiprocess import Multiprocess

from ontime.errors import PredictionLogUnavailable
from ontime.settings import Settings
from ontime.storage.api_keys import ApiKeys
from ontime.storage.prediction_log import PredictionLog
from serving.dependencies import require_api_key
from serving.keyring import KeyRing

APP = "serving.app:create_app"
MAX_CONNECTIONS = 256  # one more is answered with 503; the thread pool works on 40 requests
MAX_HEADER_BYTES = 32_768
REQUEST_TIMEOUT_S = 20.0  # from the first byte to the last one of a request
KEEP_ALIVE_S = 10  # a connection without a request
WORKER_START_S = 60  # a worker that is silent for longer is replaced; imports take 5 s and more
SHUTDOWN_S = 20  # for requests in progress; Kubernetes kills after 30


class BoundedConnection(HttpToolsProtocol):
    """Closes the connection if a request takes too long to arrive, or has too many headers."""

    _deadline: asyncio.TimerHandle | None = None
    _header_bytes: int | None = None  # received of an incomplete header; None outside of one

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._start_deadline()
        continued = self._header_bytes is not None
        super().data_received(data)
        if continued and self._header_bytes is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        self._start_deadline()
        self._header_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._header_bytes = None
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"headers have at most {MAX_HEADER_BYTES} bytes")  # answered with 400
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._cancel_deadline()
        super().on_message_complete()

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def server_config(app: Any = APP, **options: Any) -> uvicorn.Config:
    """uvicorn's configuration with all bounds; `app` is an ASGI app or the path of a factory."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        http=BoundedConnection,
        ws="none",
        access_log=False,  # the app logs requests
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        **options,
    )


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser("serving.server", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--workers", type=int, default=1, help="processes; each has a champion")
    arguments = parser.parse_args()
    if arguments.workers > 1:
        run_workers(arguments.workers, arguments.host, arguments.port)
        return
    server = uvicorn.Server(server_config(host=arguments.host, port=arguments.port))
    server.run()
    if not server.started:
        raise SystemExit(3)  # as uvicorn's command


class WorkerSocket(socket.socket):
    """A socket that a worker receives as another one on the same port.

    Of one socket that all share, the worker that wakes first accepts every connection that waits,
    and clients keep theirs. With SO_REUSEPORT Linux distributes new connections among the sockets.
    """

    @classmethod
    def bound(cls, host: str, port: int) -> Self:
        own = cls(socket.AF_INET6 if ":" in host else socket.AF_INET)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        own.bind((host, port))
        return own

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).bound, self.getsockname()[:2]


def run_workers(n: int, host: str, port: int, app: str = APP) -> None:
    """Run n processes on one port. Their metrics are summed through files in an empty folder.

    Raises:
        NoApiKey: in production, if there is none; workers that end would be started again for ever.
        OSError: if another program uses the port.
    """
    settings = Settings()
    if settings.environment == "production":
        log = PredictionLog(settings.prediction_db_url)
        with closing(log), suppress(PredictionLogUnavailable):  # the workers wait for it
            log.migrate()
            require_api_key(KeyRing(ApiKeys(log)))
    folder = settings.data_dir / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["ONTIME_METRICS_DIR"] = str(folder)  # the workers inherit it
    config = server_config(app, workers=n, timeout_worker_healthcheck=WORKER_START_S)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()  # a second API would share the port
    with WorkerSocket.bound(host, port) as reserved:  # it never listens
        Multiprocess(config, sockets=[reserved]).run()


if __name__ == "__main__":
    main()
