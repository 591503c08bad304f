"""A challenger scores live traffic in the background; its answers are logged, never returned.

One thread, one bounded queue: when the challenger is slower than the traffic, requests are dropped
and counted, and the champion's answers do not wait. `ONTIME_SHADOW` switches it off.
"""

import queue
import threading

import pandas as pd
import structlog

from ontime.prediction_log import LogUnavailable
from serving.champion import Champion
from serving.model_loader import Model, ModelLoader, ModelRefused, RegistryUnavailable
from serving.observability import Metrics

ALIAS = "challenger"
QUEUED = 64  # requests; at 512 flights of 70 features that is below 10 MB

log = structlog.get_logger()


class Shadow:
    def __init__(self, loader: ModelLoader, champion: Champion, metrics: Metrics) -> None:
        self.loader = loader
        self.champion = champion
        self.metrics = metrics
        self._challenger: tuple[str, Model] | None = None
        self._refused: str | None = None
        self._waiting: queue.Queue[tuple[list[str], pd.DataFrame] | None] = queue.Queue(QUEUED)
        self._worker = threading.Thread(target=self._work, name="shadow", daemon=True)

    def start(self) -> None:
        self.poll()
        self._worker.start()

    def stop(self) -> None:
        self._waiting.put(None)
        self._worker.join()

    def poll(self) -> None:
        """Follow the alias; a challenger that is the champion has nothing to show."""
        try:
            version = self.loader.registry.resolve(ALIAS)
            serving = self.champion.serving
            if version is None or (serving and serving.version == version):
                self._challenger = None
            elif version not in (self._refused, self._challenger and self._challenger[0]):
                self._challenger = version, self.loader.stage(version)
        except ModelRefused as error:
            self._challenger, self._refused = None, version
            log.warning("challenger refused", rule=str(error))
        except (RegistryUnavailable, LogUnavailable) as error:
            log.warning("challenger not followed", rule=str(error))

    def offer(self, prediction_ids: list[str], features: pd.DataFrame) -> None:
        if self._challenger is None:
            return
        try:
            self._waiting.put_nowait((prediction_ids, features))
        except queue.Full:
            self.metrics.shadow.labels("dropped").inc()

    def settle(self) -> None:
        """Return when everything offered so far is scored."""
        self._waiting.join()

    def _work(self) -> None:
        while (request := self._waiting.get()) is not None:
            self.metrics.shadow.labels(self._score(*request)).inc()
            self._waiting.task_done()

    def _score(self, prediction_ids: list[str], features: pd.DataFrame) -> str:
        if (challenger := self._challenger) is None:
            return "dropped"
        version, model = challenger
        try:
            self.loader.log.record_shadow(version, prediction_ids, model.predict(features))
        except Exception as error:  # a challenger's failure is a result, not an accident of serving
            log.warning("shadow failed", model_version=version, rule=str(error))
            return "failed"
        return "scored"
