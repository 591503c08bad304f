"""Servers as processes, and their load by `wrk`: throughput, latencies and CPU time per request."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import psutil

from ontime.settings import ROOT

START_S, IDLE_S = 120.0, 0.5
Row = dict[str, Any]


@dataclass(frozen=True)
class Server:
    name: str
    process: psutil.Process
    url: str
    body: str = ""  # suffix of the files with its request bodies


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def running(
    name: str, command: list[str], path: str, ready: str, body: str = "", **environment: str
) -> Iterator[Server]:
    """A server that was started with ``--port`` and responds at `ready`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *command, "--port", str(port)],
        cwd=ROOT,
        env=os.environ | {"PATH": path_with_environment()} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = monotonic() + START_S
        while True:
            try:
                if httpx.get(url + ready, timeout=5).is_success:
                    break
            except httpx.TransportError:
                sleep(0.2)
            if monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(
                    f"{name} must respond at {ready} in {START_S:.0f} s, and did not"
                )
        yield Server(name, psutil.Process(process.pid), url + path, body)
    finally:
        with suppress(psutil.NoSuchProcess):  # it ended by itself
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
        process.terminate()
        process.wait(timeout=60)


def path_with_environment() -> str:
    """MLflow starts uvicorn by its name."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def cpu_seconds(process: psutil.Process) -> float:
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def wait_until_idle(process: psutil.Process) -> None:
    """Wait for the requests that the load generator left behind, which take CPU time of the next.

    A slow server works on them for seconds.
    """
    deadline = monotonic() + START_S
    before = -1.0
    while (now := cpu_seconds(process)) - before > IDLE_S * 0.05 and monotonic() < deadline:
        before = now
        sleep(IDLE_S)


def load(server: Server, connections: int, instances: int, seconds: int, folder: Path) -> Row:
    """Requests per second, latencies and CPU time per request of one server under one load.

    Raises:
        RuntimeError: if a request failed: errors are answered faster, or slower, than predictions.
    """
    script = folder / f"{instances}{server.body}.lua"

    def wrk(seconds: int) -> str:
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=30s", "--latency"]
        command += ["-s", str(script), server.url]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    wrk(1)  # warm
    before = cpu_seconds(server.process)
    done = wrk(seconds)
    used = cpu_seconds(server.process) - before
    wait_until_idle(server.process)
    found = re.search(r"(\d+) requests in ([\d.]+)s", done)
    assert found is not None, done
    if failed := re.search(r"Non-2xx or 3xx responses: (\d+)", done):
        raise RuntimeError(f"{server.name}: {failed[1]} of {found[1]} requests failed")
    row = {
        "server": server.name,
        "connections": connections,
        "instances": instances,
        "requests_per_s": float(found[1]) / float(found[2]),
        "p50_ms": milliseconds(done, "50%"),
        "p99_ms": milliseconds(done, "99%"),
        "cpu_ms_per_request": 1000 * used / max(int(found[1]), 1),
    }
    print(
        f"  {server.name:<30}{connections:>3} connections {instances:>4} instances "
        f"{row['requests_per_s']:>9,.0f} requests/s   p50 {row['p50_ms']:>8.2f} ms   "
        f"p99 {row['p99_ms']:>8.2f} ms   CPU {row['cpu_ms_per_request']:.2f} ms",
        flush=True,
    )
    return row


def milliseconds(output: str, quantile: str) -> float:
    found = re.search(rf"{quantile}\s+([\d.]+)(us|ms|s|m)\b", output)
    assert found is not None, output
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[found[2]]
