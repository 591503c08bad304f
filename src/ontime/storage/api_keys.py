"""API keys: who may call the API, for what, and how often.

A key is 256 random bits, shown once. The table `api_keys` has its SHA-256, which needs no salt and
no slow hash: nobody guesses such a key. A client may have several keys, so that a new one is in use
before the old one is revoked.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from ontime.settings import Settings
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import API_KEYS

SCOPES = ("predict", "outcomes", "operate", "read")
CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")  # no colon, which ends it in a request id
LOCAL = "local"  # the client with the key that a development API creates
KEY_ID_LENGTH = 12


@dataclass(frozen=True)
class ApiKey:
    """One row of `api_keys`; the limits are per process of the API."""

    key_id: str
    digest: str
    client: str
    scopes: frozenset[str]
    production_traffic: bool
    requests_per_s: int
    max_concurrent: int
    created_at: datetime
    revoked_at: datetime | None = None


def digest_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


class ApiKeys:
    """The table `api_keys`, in the database of a prediction log."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log

    def create(self, client: str, scopes: Iterable[str], **limits: Any) -> str:
        """A new key, which is stored nowhere; `limits` as for `add`."""
        key = f"ontime_{secrets.token_urlsafe(32)}"
        self.add(key, client, scopes, **limits)
        return key

    def add(
        self,
        key: str,
        client: str,
        scopes: Iterable[str],
        production_traffic: bool = False,
        requests_per_s: int = 100,
        max_concurrent: int = 32,
    ) -> None:
        """Store the digest of a key, unless it is stored.

        Raises:
            ValueError: if the name or a scope is invalid, or a limit is not positive.
        """
        scopes = sorted(set(scopes))
        if not scopes or not set(scopes) <= set(SCOPES):
            raise ValueError(f"the scopes of a key are some of {', '.join(SCOPES)}, not {scopes}")
        if CLIENT_NAME.fullmatch(client) is None:
            raise ValueError(f"a client has lower-case letters, digits and hyphens, not {client!r}")
        if min(requests_per_s, max_concurrent) < 1:
            raise ValueError(f"a limit is at least 1, not {requests_per_s} and {max_concurrent}")
        digest = digest_of(key.encode())
        row = {
            "key_id": digest[:KEY_ID_LENGTH],
            "digest": digest,
            "client": client,
            "scopes": scopes,
            "production_traffic": production_traffic,
            "requests_per_s": requests_per_s,
            "max_concurrent": max_concurrent,
            "created_at": datetime.now(UTC),
        }
        with suppress(IntegrityError):  # stored already
            self._log.write(insert(API_KEYS).values(**row))

    def revoke(self, key_id: str) -> None:
        """Make a key invalid; the API notices within seconds.

        Raises:
            LookupError: if no valid key has this id.
        """
        if key_id not in {key.key_id for key in self.all() if key.revoked_at is None}:
            raise LookupError(f"no valid key has the id {key_id!r}")
        where = API_KEYS.c.key_id == key_id
        self._log.write(update(API_KEYS).where(where).values(revoked_at=datetime.now(UTC)))

    def all(self) -> list[ApiKey]:
        """Every key, oldest first, also revoked ones."""
        rows = self._log.rows(select(API_KEYS).order_by(API_KEYS.c.created_at))
        return [ApiKey(**row | {"scopes": frozenset(row["scopes"])}) for row in rows]


def local_key(settings: Settings) -> str:
    """The key of a development system: ONTIME_API_KEY, or the one in `api_key_file`.

    The file is created, with its content and readable by its owner only, if it does not exist.
    """
    if settings.api_key:
        return settings.api_key
    path = settings.api_key_file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, prefix="api-key-") as file:
            file.write(f"ontime_{secrets.token_urlsafe(32)}\n")
            file.flush()
            with suppress(FileExistsError):  # another worker was first
                os.link(file.name, path)
    return Path(path).read_text().strip()


def add_local_key(settings: Settings, keys: ApiKeys) -> None:
    """Store the local key with every scope, as production traffic and in effect without limits."""
    limits = {"requests_per_s": 1_000_000, "max_concurrent": 1_000}
    keys.add(local_key(settings), LOCAL, SCOPES, production_traffic=True, **limits)
