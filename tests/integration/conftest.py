"""Real servers for the tests of this folder, on ports and folders of their own: Postgres, Redis, an
S3 API and MLflow's server. They are the session's, and a test that stops one starts it again.

The binaries `redis-server` and `postgres` are the machine's (Debian: redis-server, postgresql;
macOS: brew install redis postgresql@17). Where they are absent a person's tests are skipped with
that reason, and CI's fail.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import httpx
import psycopg
import pytest
from redis import Redis
from redis.exceptions import RedisError

BOUND_S = 30.0


@dataclass
class Server:
    """A process of the machine that can be killed, frozen and started again on the same data."""

    command: list[str]
    answers: Callable[[], bool]
    env: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            env=os.environ | self.env,
            user=self.user,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + BOUND_S
        while not self.answers():
            assert self.process.poll() is None, f"{self.command} ended"
            assert time.monotonic() < deadline, f"{self.command} does not answer"
            time.sleep(0.05)

    def send(self, what: signal.Signals) -> None:
        """To the process and its children: Postgres has one a connection, each its own group."""
        assert self.process is not None
        command = ["pgrep", "-P", str(self.process.pid)]
        found = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        for pid in (self.process.pid, *map(int, found.split())):
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, what)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()


def binary(name: str) -> str:
    """Where a program is; Debian keeps those of Postgres beside the path."""
    beside = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, beside)])
    if found := shutil.which(name, path=path):
        return found
    reason = f"no {name} on this machine: the real part cannot be tested"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Not pytest's: Postgres refuses to run as root, and its own user must reach this."""
    folder = Path(mkdtemp(prefix="ontime-servers-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class RealRedis:
    server: Server
    address: str  # as ONTIME_REDIS_URL


@pytest.fixture(scope="session")
def redis(folder: Path) -> Iterator[RealRedis]:
    port, password = free_port(), "of-the-tests"

    def answers() -> bool:
        try:
            with closing(Redis(port=port, password=password, socket_timeout=1)) as client:
                return bool(client.ping())
        except RedisError:
            return False

    data = folder / "redis"
    data.mkdir()
    options = {"port": str(port), "dir": str(data), "appendonly": "yes", "requirepass": password}
    arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
    server = Server([binary("redis-server"), *arguments], answers)
    server.start()
    yield RealRedis(server, f"127.0.0.1:{port},password={password}")
    server.kill()


@dataclass
class RealPostgres:
    server: Server
    port: int

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """The address of a database, which is made if it is not there."""
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
            if row.fetchone() is None:
                connection.execute(f'CREATE DATABASE "{database}"')
        return f"{driver}://postgres@127.0.0.1:{self.port}/{database}"

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database} connect_timeout=2"

    def answers(self) -> bool:
        try:
            with psycopg.connect(self._dsn("postgres")):
                return True
        except psycopg.OperationalError:
            return False


@pytest.fixture(scope="session")
def postgres(folder: Path) -> Iterator[RealPostgres]:
    initdb, program = binary("initdb"), binary("postgres")
    user = None
    if os.geteuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in known else "nobody"
    data, port = folder / "postgres", free_port()
    subprocess.run(
        [initdb, "--pgdata", str(data), "--username", "postgres", "--auth", "trust", "--no-sync"],
        user=user,
        cwd="/",
        check=True,
        capture_output=True,
    )
    command = [program, "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    real = RealPostgres(Server(command, lambda: real.answers(), user=user), port)
    real.server.start()
    yield real
    real.server.kill()


@pytest.fixture(scope="session")
def s3(folder: Path) -> Iterator[Server]:
    """An S3 API with the bucket `mlflow`; `env` is what a client of it needs."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.put(f"{address}/mlflow").status_code in (200, 409)
        except httpx.TransportError:
            return False

    env = {
        "MLFLOW_S3_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "ontime",
        "AWS_SECRET_ACCESS_KEY": "of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    server = Server([*command, "-p", str(port)], answers, env)
    server.start()
    yield server
    server.kill()


@dataclass
class RealMlflow:
    server: Server
    address: str  # as ONTIME_MLFLOW_URL


@pytest.fixture(scope="session")
def mlflow(postgres: RealPostgres, s3: Server) -> Iterator[RealMlflow]:
    """The server with the options of docker-compose.yml, on Postgres and S3."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/health", timeout=2).is_success
        except httpx.TransportError:
            return False

    command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", f"--port={port}"]
    options = ["--workers=1", "--serve-artifacts", "--artifacts-destination=s3://mlflow"]
    env = {
        "MLFLOW_BACKEND_STORE_URI": postgres.url("mlflow"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    hosts = "--allowed-hosts=127.0.0.1:*"
    server = Server([*command, *options, hosts], answers, s3.env | env)
    server.start()
    yield RealMlflow(server, address)
    server.kill()
