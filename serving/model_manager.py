"""The deployed model, and its replacement without a failed request.

The registry's alias `champion` names a version. That version is loaded and validated beside the
deployed one and replaces it by one reference assignment; requests in progress finish with the model
they took. After any failure the old model stays deployed, and GET /model and the metrics report it.

- One sync runs at a time; another caller gets `SyncInProgress` at once, so that a registry that
  hangs holds one thread and never those that serve.
- The swap is the last step: whatever raises before leaves the old model. The serving history is
  written after it, and by a later sync if the prediction log does not respond.
- `current` and the swap read the clock under one lock: every `predicted_at` in the log is within
  the period in the serving history that names the same version.
- At start-up the registry has precedence, so that a promotion while the API was down takes effect;
  if it fails, the version deployed last is loaded from the cache.
- A rejected version is tried again by POST /model/reload only, not by polling.
- A canary answers its share of the instances beside the champion. It is read from the database, so
  that every worker and replica has the same one, and its rollback needs no registry. Champion and
  canary are one reference: its promotion moves no instance back to the old champion.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from ontime.errors import PredictionLogUnavailable, RegistryUnavailable, Unavailable
from ontime.storage.decision_log import ChampionChange, DecisionLog, canary_of
from ontime.storage.serving_history import ServingHistory
from serving.model_loader import Model, ModelLoader, ModelRejected
from serving.observability import Metrics
from serving.schemas import SyncError

ALIAS = "champion"

log = structlog.get_logger()


class NoChampion(RuntimeError):
    """No version has the alias, or none could be loaded yet."""


class SyncInProgress(RuntimeError):
    """Another sync with the registry runs."""


@dataclass(frozen=True)
class Canary:
    version: str
    model: Model
    change: ChampionChange


@dataclass(frozen=True)
class DeployedModel:
    version: str
    model: Model
    since: datetime
    canary: Canary | None = None

    def model_for(self, instance_id: str) -> "DeployedModel | Canary":
        """The champion, or the canary for an instance of its share."""
        canary = self.canary
        return canary if canary is not None and canary.change.takes(instance_id) else self


class ModelManager:
    """`current` is for requests; the other methods are for start-up, polling and reload."""

    def __init__(self, loader: ModelLoader, metrics: Metrics) -> None:
        self.loader = loader
        self.metrics = metrics
        self.deployed: DeployedModel | None = None
        self.last_sync_error: SyncError | None = None
        self._history = ServingHistory(loader.log)
        self._decisions = DecisionLog(loader.log)
        self._swap_lock = threading.Lock()  # orders `current` and swaps; held for a microsecond
        self._sync_lock = threading.Lock()  # one sync at a time
        self._rejected: str | None = None
        self._rejected_canary: str | None = None
        self._unrecorded: list[DeployedModel] = []  # not in the serving history yet

    def current(self) -> tuple[DeployedModel, datetime]:
        """The model for one request, and the time at which it was taken.

        Raises:
            NoChampion: if none is deployed.
        """
        with self._swap_lock:
            deployed, taken_at = self.deployed, datetime.now(UTC)
        if deployed is None:
            cause = f": {self.last_sync_error.detail}" if self.last_sync_error else ""
            raise NoChampion(f"a prediction needs a champion, and none is deployed{cause}")
        return deployed, taken_at

    def start(self) -> None:
        """Deploy the champion; if that fails, the newest usable version of the cache."""
        try:
            self.sync_with_registry(retry_rejected=False)
            return
        except Exception as error:  # recorded
            registry_is_down = isinstance(error, RegistryUnavailable)
        for version in self.loader.cache.deployed():
            if self.deployed is not None:
                return
            try:
                self._deploy(version, registry_is_down)
                self._sync_canary(retry_rejected=False, registry_is_down=registry_is_down)
                self._record_deployments()
            except Exception as error:
                self._record_error(version, error)

    def poll(self) -> None:
        """Sync with the registry; an error is recorded and not raised."""
        with suppress(Exception):
            self.sync_with_registry(retry_rejected=False)

    def sync_with_registry(self, retry_rejected: bool = True) -> bool:
        """Deploy the version that has the alias; True if another one was deployed before.

        Raises:
            SyncInProgress: if another thread syncs.
            RegistryUnavailable, ModelRejected: the old model stays.
            PredictionLogUnavailable: the old model stays, or the history lacks the new one so far.
        """
        if not self._sync_lock.acquire(blocking=False):
            raise SyncInProgress("a sync with the registry runs; its result is in GET /model")
        version = None
        try:
            version = self.loader.registry.resolve(ALIAS)
            known_bad = version is not None and version == self._rejected and not retry_rejected
            before = self.deployed and self.deployed.version
            swapped = version is not None and version != before and not known_bad
            if swapped and version is not None:
                self._deploy(version)
            self._record_deployments()
        except Exception as error:
            if isinstance(error, ModelRejected):
                self._rejected = version
            self._record_error(version, error)
            with suppress(Exception):  # the history does not depend on the registry
                self._record_deployments()
            raise
        else:
            if not known_bad and self._rejected_canary is None:
                self._rejected = self.last_sync_error = None
            return swapped
        finally:
            self._sync_canary(retry_rejected)
            self._sync_lock.release()

    def _sync_canary(self, retry_rejected: bool, registry_is_down: bool = False) -> None:
        """Deploy the canary of the last change with its share; an error is recorded, not raised."""
        if (deployed := self.deployed) is None:
            return
        canary = running = deployed.canary
        version = None
        try:
            changes = self._decisions.changes()
            change, canary = canary_of(changes), None
            if change is None or change.version == deployed.version:
                if running is not None and changes and changes[-1].version == running.version:
                    return  # promoted; the alias follows in a moment
                self._rejected_canary = None
            elif running is not None and running.version == change.version:
                canary = replace(running, change=change)
            elif (version := change.version) != self._rejected_canary or retry_rejected:
                model = self.loader.load_and_validate(version, registry_is_down)
                self._mark_deployed(version)
                self._mark_deployed(deployed.version)  # a restart needs both copies
                canary, self._rejected_canary = Canary(version, model, change), None
        except PredictionLogUnavailable as error:  # what runs stays, in every replica
            log.warning("canary not synced", detail=str(error))
            return
        except Exception as error:
            if isinstance(error, ModelRejected):
                self._rejected_canary = version
            self._record_error(version, error)
        self.metrics.record_canary(canary.change if canary is not None else None)
        with self._swap_lock:
            self.deployed = replace(deployed, canary=canary)

    def _deploy(self, version: str, registry_is_down: bool = False) -> None:
        canary = self.deployed.canary if self.deployed is not None else None
        if canary is not None and canary.version == version:
            model, canary = canary.model, None  # promoted
        else:
            model = self.loader.load_and_validate(version, registry_is_down)
        self._mark_deployed(version)
        self.metrics.record_swap(version, model.metadata.get("trained_through"))
        with self._swap_lock:
            self.deployed = DeployedModel(version, model, datetime.now(UTC), canary)
            self._unrecorded.append(self.deployed)
        log.info("model deployed", model_version=version)

    def _mark_deployed(self, version: str) -> None:
        try:
            self.loader.cache.mark_deployed(version)
        except OSError as error:  # a full disk must not prevent the swap
            log.warning("model cache not updated", detail=str(error))

    def _record_deployments(self) -> None:
        """Write the serving history; what cannot be written now is written by the next sync."""
        while self._unrecorded:
            new = self._unrecorded[0]
            trained_through = new.model.metadata.get("trained_through")
            since = self._history.record(new.version, new.since, trained_through)
            self._unrecorded.pop(0)
            if self.deployed is not None and self.deployed.since == new.since:
                self.deployed = replace(self.deployed, since=since)

    def _record_error(self, version: str | None, error: Exception) -> None:
        detail = "an unexpected error occurred; the API's log has the cause"
        if isinstance(error, Unavailable):
            detail = error.public_detail
        elif isinstance(error, ModelRejected):
            detail = str(error)
        self.last_sync_error = SyncError(at=datetime.now(UTC), model_version=version, detail=detail)
        self.metrics.reload_failures.inc()
        log.warning("sync with registry failed", model_version=version, detail=str(error))
