"""Postgres, Redis, an S3 API and MLflow's server for the tests of this folder.

Each server runs once per session on a free port in a temporary folder; a test that stops one starts
it again. `redis-server` and `postgres` must be installed (Debian: redis-server, postgresql; macOS:
brew install redis postgresql@17). Without them the tests are skipped with that reason; in CI they
fail.
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

START_TIMEOUT_S = 90.0  # MLflow's server takes 10 s, and 40 s on a loaded machine


@dataclass
class Server:
    """A process that can be killed, suspended and started again on the same data."""

    command: list[str]
    responds: Callable[[], bool]
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
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.responds():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"{self.command} ended, or did not respond in {START_TIMEOUT_S} s")
            time.sleep(0.05)

    def send(self, what: signal.Signals) -> None:
        """Signal the process and its children: Postgres has one process per connection."""
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
    """The path of a program; Debian installs those of Postgres outside of PATH."""
    beside = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, beside)])
    if found := shutil.which(name, path=path):
        return found
    reason = f"{name} is not installed"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that the user of Postgres can read, which does not run as root."""
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
    port, password = free_port(), "test-secret"

    def responds() -> bool:
        try:
            with closing(Redis(port=port, password=password, socket_timeout=1)) as client:
                return bool(client.ping())
        except RedisError:
            return False

    data = folder / "redis"
    data.mkdir()
    options = {"port": str(port), "dir": str(data), "appendonly": "yes", "requirepass": password}
    arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
    server = Server([binary("redis-server"), *arguments], responds)
    server.start()
    yield RealRedis(server, f"127.0.0.1:{port},password={password}")
    server.kill()


@dataclass
class RealPostgres:
    server: Server
    port: int

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """The URL of a database, created if it does not exist."""
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
            if row.fetchone() is None:
                connection.execute(f'CREATE DATABASE "{database}"')
        return f"{driver}://postgres@127.0.0.1:{self.port}/{database}"

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database} connect_timeout=2"

    def responds(self) -> bool:
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
        users = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in users else "nobody"
    data, port = folder / "postgres", free_port()
    subprocess.run(
        [initdb, "--pgdata", str(data), "--username", "postgres", "--auth", "trust", "--no-sync"],
        user=user,
        cwd="/",
        check=True,
        capture_output=True,
    )
    command = [program, "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    real = RealPostgres(Server(command, lambda: real.responds(), user=user), port)
    real.server.start()
    yield real
    real.server.kill()


@pytest.fixture(scope="session")
def s3(folder: Path) -> Iterator[Server]:
    """An S3 API with the bucket `mlflow`; `env` configures its clients."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"

    def responds() -> bool:
        try:
            return httpx.put(f"{address}/mlflow").status_code in (200, 409)
        except httpx.TransportError:
            return False

    env = {
        "MLFLOW_S3_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "ontime",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    server = Server([*command, "-p", str(port)], responds, env)
    server.start()
    yield server
    server.kill()


@dataclass
class RealMlflow:
    server: Server
    address: str  # as ONTIME_MLFLOW_URL


@pytest.fixture(scope="session")
def mlflow(postgres: RealPostgres, s3: Server, folder: Path) -> Iterator[RealMlflow]:
    """The server with the options of docker-compose.yml, on Postgres and S3."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"

    def responds() -> bool:
        try:
            return httpx.get(f"{address}/health", timeout=2).is_success
        except httpx.TransportError:
            return False

    command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", f"--port={port}"]
    options = ["--workers=1", "--serve-artifacts", "--artifacts-destination=s3://mlflow"]
    accounts = folder / "accounts.ini"
    accounts.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/accounts.db\n"
    )
    env = {
        "MLFLOW_BACKEND_STORE_URI": postgres.url("mlflow"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_AUTH_CONFIG_PATH": str(accounts),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a-test-password",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-test-secret",
    }
    options += ["--app-name=basic-auth", "--allowed-hosts=127.0.0.1:*"]
    server = Server([*command, *options], responds, s3.env | env)
    server.start()
    with pytest.MonkeyPatch.context() as client:
        client.setenv("MLFLOW_TRACKING_USERNAME", env["MLFLOW_AUTH_ADMIN_USERNAME"])
        client.setenv("MLFLOW_TRACKING_PASSWORD", env["MLFLOW_AUTH_ADMIN_PASSWORD"])
        yield RealMlflow(server, address)
    server.kill()
