"""Bounds on connections, headers and the time of a request, over real sockets."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import sleep

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serving import server

REQUEST = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 4\r\n\r\nbody"
HEADERS = b"GET / HTTP/1.1\r\nHost: api\r\n"
Connect = Callable[[], socket.socket]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    body, message = b"", await receive()
    while message.get("more_body"):
        body, message = body + message["body"], await receive()
    body += message.get("body", b"")
    length = str(len(body)).encode()
    headers = [(b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Opens connections to a server with short timeouts."""
    monkeypatch.setattr(server, "REQUEST_TIMEOUT_S", 0.3)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 1)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 4)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        running = uvicorn.Server(server.server_config(app, lifespan="off", log_config=None))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        while not running.started:
            sleep(0.01)

        def connect() -> socket.socket:
            address = listener.getsockname()
            return stack.enter_context(socket.create_connection(address, timeout=60))

        yield connect
        running.should_exit = True
        thread.join()


def received(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    parts = []
    while part := _receive(connection):
        parts.append(part)
    return b"".join(parts)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST / HT", HEADERS, HEADERS + b"A: ", REQUEST[:-1], REQUEST + REQUEST[:-1]],
    ids=["idle", "half a line", "half of the headers", "half a header", "half a body", "second"],
)
def test_a_request_that_is_not_complete_in_time_ends_the_connection(
    connect: Connect, sent: bytes
) -> None:
    connection = connect()
    connection.sendall(sent)

    assert received(connection).count(b"200 OK") == sent.count(REQUEST)


def test_a_connection_is_kept_for_the_next_request_and_then_closed(connect: Connect) -> None:
    connection = connect()
    connection.sendall(REQUEST)
    assert b"200 OK" in connection.recv(65_536)
    sleep(0.5)  # longer than a request may take, shorter than a pause may
    connection.sendall(REQUEST)

    assert received(connection).endswith(b"body")


@pytest.mark.parametrize("n", [40_000, 400_000])
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["endless", "complete"])
def test_headers_above_the_limit_are_rejected(connect: Connect, n: int, end: bytes) -> None:
    connection = connect()
    connection.sendall(HEADERS)
    sleep(0.05)  # another packet
    many = b"".join(b"A%d: 1\r\n" % i for i in range(n // 10))
    try:
        connection.sendall(many + end)
    except ConnectionError:  # rejected before all was sent
        return

    assert b"200 OK" not in received(connection)


def test_headers_below_the_limit_are_accepted(connect: Connect) -> None:
    connection = connect()
    connection.sendall(HEADERS + b"A: " + b"x" * 30_000 + b"\r\n\r\n")

    assert b"200 OK" in received(connection)


def test_more_connections_than_the_limit_are_turned_away_and_close(connect: Connect) -> None:
    held = [connect() for _ in range(4)]
    last = connect()
    last.sendall(REQUEST)
    assert b"503 Service Unavailable" in received(last)

    assert [received(connection) for connection in held] == [b""] * 4
    again = connect()
    again.sendall(REQUEST)
    assert b"200 OK" in received(again)
