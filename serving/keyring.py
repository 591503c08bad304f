"""The API keys in memory, and the limits of each.

The keys are read again every `REFRESH_S`, so that a request costs one SHA-256 and one lookup, and a
revoked key is valid for that much longer. A key is found by a part of its digest and compared in
constant time. Limits are those of one process of the API.
"""

import hmac
from collections.abc import Iterable
from datetime import UTC, datetime
from time import monotonic

from ontime.errors import PredictionLogUnavailable
from ontime.storage.api_keys import KEY_ID_LENGTH, ApiKey, ApiKeys, digest_of
from serving.problems import NotAllowed, NotAuthenticated, TooManyRequests

REFRESH_S = 3.0
ANONYMOUS_PER_S, ANONYMOUS_CONCURRENT = 200, 64  # all requests without a key together


class Caller:
    """A client with its limits: a token bucket of one second, and concurrent requests.

    It is used on the event loop only, and needs no lock.
    """

    __slots__ = ("_at", "_tokens", "client", "in_progress", "key", "production_traffic", "queued")

    def __init__(self, key: ApiKey) -> None:
        self.key = key
        self.client, self.production_traffic = key.client, key.production_traffic
        self._tokens, self._at = float(key.requests_per_s), monotonic()
        self.in_progress = 0
        self.queued = 0  # instances that wait for a prediction, see `Batcher`

    def admit(self, scope: str) -> None:
        """Count a request in.

        Raises:
            NotAllowed: if the key does not have the scope.
            TooManyRequests: if a limit is reached.
        """
        key, now = self.key, monotonic()
        if scope not in key.scopes:
            raise NotAllowed(f"the request needs a key with the scope {scope!r}")
        if self.in_progress >= key.max_concurrent:
            raise TooManyRequests(f"a key has at most {key.max_concurrent} requests in progress")
        rate = key.requests_per_s
        self._tokens = min(self._tokens + (now - self._at) * rate, rate)
        self._at = now
        if self._tokens < 1:
            raise TooManyRequests(
                f"a key sends at most {rate} requests per second", (1 - self._tokens) / rate
            )
        self._tokens -= 1
        self.in_progress += 1


class KeyRing:
    """The valid keys, in memory.

    Args:
        anonymous: the scopes of a request without a key.
    """

    def __init__(self, keys: ApiKeys, anonymous: Iterable[str] = ()) -> None:
        self.keys = keys
        self._callers: dict[str, Caller] | None = None  # by key id; None: never read
        limits = ANONYMOUS_PER_S, ANONYMOUS_CONCURRENT, datetime.now(UTC)
        self._anonymous = Caller(ApiKey("", "", "anonymous", frozenset(anonymous), False, *limits))

    def refresh(self) -> int:
        """Read the keys; the number of valid ones. A key that did not change keeps its counts."""
        old = self._callers or {}
        valid = {key.key_id: key for key in self.keys.all() if key.revoked_at is None}
        self._callers = {
            key_id: old[key_id] if key_id in old and old[key_id].key == key else Caller(key)
            for key_id, key in valid.items()
        }
        return len(valid)

    def admit(self, authorization: bytes | None, scope: str) -> Caller:
        """The caller of a request, counted in.

        Raises:
            NotAuthenticated: if the key is not valid, or absent where one is needed.
            PredictionLogUnavailable: if the keys could never be read.
        """
        if authorization is None:
            if scope not in self._anonymous.key.scopes:
                raise NotAuthenticated("the request needs an API key")
            self._anonymous.admit(scope)
            return self._anonymous
        if self._callers is None:
            raise PredictionLogUnavailable("the API keys have not been read yet")
        kind, _, key = authorization.partition(b" ")
        digest = digest_of(key.strip())
        caller = self._callers.get(digest[:KEY_ID_LENGTH])
        if (
            kind.lower() != b"bearer"
            or caller is None
            or not hmac.compare_digest(digest, caller.key.digest)
        ):
            raise NotAuthenticated("the API key is not valid")
        caller.admit(scope)
        return caller
