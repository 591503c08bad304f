"""The compact online store in Redis."""

from contextlib import suppress
from typing import Any, Literal

import orjson
from feast import RepoConfig
from feast.repo_config import FeastConfigBaseModel
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ontime.features.compact_store import CompactOnlineStore

REDIS_TIMEOUT_S = 2.0


class CompactRedisOnlineStoreConfig(FeastConfigBaseModel):
    """connection_string: ``host:port``, then keyword arguments of `redis.Redis` after commas."""

    type: Literal["ontime.features.redis_store.CompactRedisOnlineStore"]
    connection_string: str


class CompactRedisOnlineStore(CompactOnlineStore):
    """One string per row in one Redis server; a read is one MGET, a write is one script."""

    # KEYS and ARGV: a row per key. A row starts with its event timestamp, a little-endian double.
    PUT = """
    for i, key in ipairs(KEYS) do
        local held = redis.call('GETRANGE', key, 0, 7)
        if #held < 8 or struct.unpack('<d', held) <= struct.unpack('<d', ARGV[i]) then
            redis.call('SET', key, ARGV[i])
        end
    end
    """
    ROWS_PER_CALL = 1_000  # a script blocks the server, and Lua takes at most about 8,000 values

    def __init__(self) -> None:
        super().__init__()
        self._client: Redis | None = None

    def fetch(self, config: RepoConfig, keys: list[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = self._redis(config).mget(keys)  # type: ignore[assignment]
        return found

    def put(self, config: RepoConfig, keys: list[bytes], rows: list[bytes]) -> None:
        with self._redis(config).pipeline(transaction=False) as pipeline:
            for start in range(0, len(keys), self.ROWS_PER_CALL):
                part = slice(start, start + self.ROWS_PER_CALL)
                pipeline.eval(self.PUT, len(keys[part]), *keys[part], *rows[part])
            pipeline.execute()

    def delete(self, config: RepoConfig, prefix: bytes) -> None:
        client = self._redis(config)
        found = list(client.scan_iter(prefix + b"*", count=1_000))
        for start in range(0, len(found), self.ROWS_PER_CALL):
            client.unlink(*found[start : start + self.ROWS_PER_CALL])

    def _redis(self, config: RepoConfig) -> Redis:
        if self._client is None:
            address, *options = config.online_store.connection_string.split(",")
            host, _, port = address.rpartition(":")
            arguments: dict[str, Any] = {}
            for name, _, value in (option.partition("=") for option in options):
                arguments[name] = value
                with suppress(orjson.JSONDecodeError):  # ssl=true, db=1
                    arguments[name] = orjson.loads(value) if name != "password" else value
            # Without timeouts a request waits for as long as Redis hangs; with the retries that the
            # client makes by default it waits several times as long.
            self._client = Redis(
                host=host,
                port=int(port),
                socket_timeout=REDIS_TIMEOUT_S,
                socket_connect_timeout=REDIS_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
                **arguments,
            )
        return self._client
