"""Hand-made hostile requests: each would stop, bloat or deceive an API without limits."""

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx

from ontime.problem import EXAMPLE_AS_OF, EXAMPLE_INSTANCE, EXAMPLE_OUTCOME

EXAMPLE = {"as_of": EXAMPLE_AS_OF, "instances": [EXAMPLE_INSTANCE]}
NO_CONNECTION = 0  # as a status: the connection was closed


@dataclass
class Target:
    """The API under attack: with a key that has every scope, and one that may only read."""

    url: str
    key: str
    reader: str
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        limits = httpx.Limits(max_connections=100)
        headers = {"Authorization": f"Bearer {self.key}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=60, limits=limits)

    def send(self, path: str, **options: Any) -> int:
        """The status of a POST; 0 if the connection was closed."""
        try:
            return self.http.post(path, **options).status_code
        except httpx.TransportError:
            return NO_CONNECTION

    def many(self, n: int, send: Callable[[int], int], threads: int = 40) -> "Counter[int]":
        with ThreadPoolExecutor(threads) as clients:
            return Counter(clients.map(send, range(n)))

    def raw(self, data: bytes, wait_s: float = 5.0) -> int:
        """The status of the response to bytes."""
        address = urlsplit(self.url)
        to = (address.hostname, address.port)
        with suppress(OSError), socket.create_connection(to, timeout=wait_s) as sock:
            sock.sendall(data)
            line = sock.recv(64).split(b" ")
            return int(line[1]) if len(line) > 1 else NO_CONNECTION
        return NO_CONNECTION


def endless() -> Iterator[bytes]:
    for _ in range(400):
        yield b" " * 100_000


def slow_connections(target: Target) -> "Counter[int]":
    """Half-sent requests on 200 connections; the API must close them by itself."""
    address = urlsplit(target.url)
    open_ones = []
    for _ in range(200):
        with suppress(OSError):
            sock = socket.create_connection((address.hostname, address.port), timeout=60)
            sock.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Le")
            open_ones.append(sock)
    sleep(1)
    during = target.send("/predict", json=EXAMPLE)
    closed = 0
    for sock in open_ones:
        with suppress(OSError):
            while sock.recv(4096):
                pass
            closed += 1
        sock.close()
    return Counter({during: 1, NO_CONNECTION: closed})


def hostile_requests(target: Target) -> dict[str, tuple[Callable[[], Any], set[int]]]:
    """Name -> how to send it, and the statuses that are right."""
    send, many = target.send, target.many
    nothing = {"Authorization": ""}
    reader = {"Authorization": f"Bearer {target.reader}"}
    text = json.dumps(EXAMPLE)
    unknown = EXAMPLE | {f"x{i}": i for i in range(100_000)}
    deep = text[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    report = {"outcomes": [EXAMPLE_OUTCOME]}
    instances = EXAMPLE | {"instances": [EXAMPLE_INSTANCE | {"y" * 99: i} for i in range(500)]}
    guessed = [{"Authorization": f"Bearer {i:064x}"} for i in range(1_000)]
    smuggled = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    smuggled += b"Transfer-Encoding: chunked"
    return {
        "a body of 40 MB": (lambda: send("/predict", content=b" " * 40_000_000), {413, 0}),
        "an endless chunked body": (lambda: send("/predict", content=endless()), {413, 0}),
        "100,000 unknown fields": (lambda: send("/predict", json=unknown), {413, 422}),
        "500 invalid instances": (lambda: send("/predict", json=instances), {422}),
        "arrays 100,000 deep": (lambda: send("/predict", content=deep), {400, 422}),
        "a number of 100,000 digits": (
            lambda: send("/predict", content=text[:-1] + ', "x": ' + "9" * 100_000 + "}"),
            {400, 422},
        ),
        "bytes that are no UTF-8": (lambda: send("/predict", content=b"\xff\xfe{}"), {400, 422}),
        "a lone surrogate": (lambda: send("/predict", content='{"\\ud800": 1}'), {422}),
        "headers of 100 KB": (
            lambda: send("/predict", json=EXAMPLE, headers={"X": "y" * 100_000}),
            {400, 0},
        ),
        "two lengths": (lambda: target.raw(smuggled + b"\r\n\r\n0\r\n\r\n"), {400, 401}),
        "no HTTP": (lambda: target.raw(b"\x16\x03\x01" * 1_000), {400, 0}),
        "no key": (lambda: send("/predict", json=EXAMPLE, headers=nothing), {401}),
        "a key without the scope": (
            lambda: send("/model/reload", headers=reader),
            {403},
        ),
        "1,000 guessed keys": (
            lambda: many(1_000, lambda i: send("/predict", json=EXAMPLE, headers=guessed[i])),
            {401},
        ),
        "as_of in 2099": (
            lambda: send("/predict", json=EXAMPLE | {"as_of": "2099-01-01T00:00Z"}),
            {422},
        ),
        "an outcome from 2099": (
            lambda: send("/outcomes", json={"outcomes": [EXAMPLE_OUTCOME | FUTURE]}),
            {422},
        ),
        "an outcome before its time": (
            lambda: (
                send("/predict", json=EXAMPLE),
                send("/outcomes", json={"outcomes": [EXAMPLE_OUTCOME | PAST]}),
            )[1],
            {422},
        ),
        "an outcome without the scope": (
            lambda: send("/outcomes", json=report, headers=reader),
            {403},
        ),
        "paths outside of the reports": (
            lambda: target.raw(
                b"GET /reports/..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ),
            {404},
        ),
        "60 reloads at once": (lambda: many(60, lambda _: send("/model/reload"), 60), {200, 409}),
        "40 explanations at once": (
            lambda: many(120, lambda _: send("/explain", json=EXPLAIN)),
            {200, 429},
        ),
        "512 instances 40 times at once": (
            lambda: many(120, lambda _: send("/predict", json=LARGEST)),
            {200, 429, 503},
        ),
        "200 half-sent requests": (lambda: slow_connections(target), {200, 503, 0}),
    }


FUTURE = {"known_at": "2099-01-01T00:00:00Z"}
PAST = {"known_at": EXAMPLE_AS_OF}
EXPLAIN = {"as_of": EXAMPLE_AS_OF, "instance": EXAMPLE_INSTANCE}
LARGEST = EXAMPLE | {"instances": [EXAMPLE_INSTANCE] * 512}


def attack(target: Target) -> list[dict[str, Any]]:
    """Send every hostile request; each row has statuses, seconds and whether they are right."""
    rows = []
    for name, (send, right) in hostile_requests(target).items():
        started = perf_counter()
        found = send()
        statuses = found if isinstance(found, Counter) else Counter([found])
        row = {
            "name": name,
            "statuses": {str(status): n for status, n in sorted(statuses.items())},
            "seconds": round(perf_counter() - started, 2),
            "right": statuses.keys() <= right,
        }
        rows.append(row)
        print(f"  {name:<34}{row['statuses']!s:<34}{row['seconds']:>7.2f} s", flush=True)
    return rows
