"""The model that answers, and changing it without dropping a request.

The registry's alias `champion` names a version; that version is made ready beside the one that
serves and takes its place by one reference assignment. Requests in flight finish on the model they
took. Whatever goes wrong on the way leaves the old model serving, and shows in GET /model and in
the metrics.

Notable decisions
- `take` and the swap stamp the wall clock under one lock: every `predicted_at` in the log lies in
  the stretch of the serving history that names the same version.
- A start asks the registry first, so that a promotion during the absence counts; without a
  registry, or if the version is broken, the last one that served comes from its verified copy.
- A version that was refused is not tried again by polling, only by POST /model/reload.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from ontime.prediction_log import LogUnavailable
from serving.model_loader import Model, ModelLoader, ModelRefused, RegistryUnavailable
from serving.observability import Metrics
from serving.schemas import Failure

ALIAS = "champion"
EXPECTED = (ModelRefused, RegistryUnavailable, LogUnavailable)  # the old model goes on

log = structlog.get_logger()


class NoChampion(RuntimeError):
    """No version holds the alias, or none could be loaded yet."""


@dataclass(frozen=True)
class Serving:
    version: str
    model: Model
    since: datetime

    @property
    def trained_through(self) -> str | None:
        return self.model.metadata.get("trained_through")


class Champion:
    """The serving model. `take` is for requests; the rest is for start, poll and reload."""

    def __init__(self, loader: ModelLoader, metrics: Metrics) -> None:
        self.loader = loader
        self.metrics = metrics
        self.last_failure: Failure | None = None
        self._serving: Serving | None = None
        self._turn = threading.Lock()  # orders takings and swaps; held for a microsecond
        self._following = threading.Lock()  # one change at a time
        self._refused: str | None = None
        self._unwritten: list[Serving] = []  # swaps that the history does not know yet

    @property
    def serving(self) -> Serving | None:
        return self._serving

    def take(self) -> tuple[Serving, datetime]:
        """The model for one request, and the moment it was taken.

        Raises:
            NoChampion: if there is none.
        """
        with self._turn:
            serving, taken_at = self._serving, datetime.now(UTC)
        if serving is None:
            raise NoChampion("a prediction needs a champion, and none is loaded")
        return serving, taken_at

    def start(self) -> None:
        """Load the champion; if the registry or the version fails, the last one that served."""
        self.poll()
        if self.last_failure is None:
            return
        for version in self.loader.copies.served():
            try:
                self._swap(version, self.loader.stage(version))
                return
            except EXPECTED as error:
                self._note(version, error)

    def poll(self) -> None:
        """Follow the alias; a failure is noted, and nothing else happens."""
        with suppress(*EXPECTED):
            self.follow(retry_refused=False)

    def follow(self, retry_refused: bool = True) -> bool:
        """Serve the version that holds the alias; True if that is another one than before.

        Raises:
            RegistryUnavailable, ModelRefused, LogUnavailable: the old model goes on.
        """
        version = None
        with self._following:
            try:
                self._write_history()
                version = self.loader.registry.resolve(ALIAS)
                if version and version == self._refused and not retry_refused:
                    return False
                swapped = self._serve(version)
            except Exception as error:
                self._note(version, error)
                raise
            self._refused = self.last_failure = None
            return swapped

    def _serve(self, version: str | None) -> bool:
        if version is None or (self._serving and self._serving.version == version):
            return False
        try:
            model = self.loader.stage(version)
        except ModelRefused:
            self._refused = version
            raise
        self._swap(version, model)
        return True

    def _swap(self, version: str, model: Model) -> None:
        with self._turn:
            self._serving = Serving(version, model, since=datetime.now(UTC))
        self._unwritten.append(self._serving)
        self.metrics.serves(version, self._serving.trained_through)
        log.info("champion", model_version=version)
        try:
            self.loader.copies.note_served(version)
        except OSError as error:  # a full disk costs the next start its shortcut, nothing more
            log.warning("copies not kept", rule=str(error))
        self._write_history()

    def _write_history(self) -> None:
        """Catch up with the history; what cannot be written now is written at the next poll."""
        while self._unwritten:
            new = self._unwritten[0]
            since = self.loader.log.began_serving(new.version, new.since, new.trained_through)
            self._unwritten.pop(0)
            if self._serving is new:
                self._serving = replace(new, since=since)

    def _note(self, version: str | None, error: Exception) -> None:
        self.last_failure = Failure(at=datetime.now(UTC), model_version=version, rule=str(error))
        self.metrics.swap_failures.inc()
        log.warning("champion not followed", model_version=version, rule=str(error))
