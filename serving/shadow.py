"""Shadow deployment: a challenger scores live traffic; its predictions are logged, never returned.

One thread and a bounded queue: while the challenger is slower than the traffic, batches are dropped
and counted, and responses do not wait. What is queued within `GATHER_S` is scored together: a pass
for each batch took a third of the CPU time. `ONTIME_SHADOW` switches it off.
"""

import queue
import threading
from collections.abc import Mapping, Sequence
from itertools import chain
from time import sleep
from typing import cast

import numpy as np
import structlog

from ontime.errors import PredictionLogUnavailable, RegistryUnavailable
from serving.model_loader import Model, ModelLoader, ModelRejected, predict_members
from serving.model_manager import ModelManager
from serving.observability import Metrics

ALIAS = "challenger"
QUEUE_SIZE = 64  # batches; below 30 MB with 512 instances of 215 features each
GATHER_S = 0.05
MAX_ROWS = 1_024  # scored together; a longer commit would delay the log of the champion

# Ids of logged predictions [n], their request fields [n] each, and their features [n, f].
Served = tuple[list[str], Mapping[str, np.ndarray], np.ndarray]

log = structlog.get_logger()


class Shadow:
    def __init__(self, loader: ModelLoader, manager: ModelManager, metrics: Metrics) -> None:
        self.loader = loader
        self.manager = manager
        self.metrics = metrics
        self._challenger: tuple[str, Model] | None = None
        self._rejected: str | None = None
        self._poll_lock = threading.Lock()
        self._queue: queue.Queue[Served | None] = queue.Queue(QUEUE_SIZE)
        self._worker = threading.Thread(target=self._work, name="shadow", daemon=True)

    def start(self) -> None:
        self.poll()
        self._worker.start()

    def stop(self) -> None:
        self._queue.put(None)
        self._worker.join()

    def poll(self) -> None:
        """Load the version that has the alias, unless it is deployed or was rejected.

        Does nothing while another poll runs: the registry takes few calls at a time, and a sync
        needs one of them.
        """
        if self._poll_lock.acquire(blocking=False):
            try:
                self._poll()
            finally:
                self._poll_lock.release()

    def _poll(self) -> None:
        version = None
        try:
            version = self.loader.registry.resolve(ALIAS)
            champion = self.manager.deployed
            canary = champion and champion.canary
            if version is None or version in {each.version for each in (champion, canary) if each}:
                self._challenger = None
            elif version not in (self._rejected, self._challenger and self._challenger[0]):
                self._challenger = version, self.loader.load_and_validate(version)
        except ModelRejected as error:
            self._challenger, self._rejected = None, version
            log.warning("challenger rejected", model_version=version, detail=str(error))
        except (RegistryUnavailable, PredictionLogUnavailable) as error:
            log.warning("challenger not loaded", model_version=version, detail=str(error))

    def enqueue(
        self, prediction_ids: list[str], fields: Mapping[str, np.ndarray], numeric: np.ndarray
    ) -> None:
        """Score these predictions in the background; drop them if the queue is full."""
        if self._challenger is None:
            return
        try:
            self._queue.put_nowait((prediction_ids, fields, numeric))
        except queue.Full:
            self.metrics.shadow.labels("dropped").inc()

    def wait_until_idle(self) -> None:
        """Return when every enqueued request is scored."""
        self._queue.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            sleep(GATHER_S)
            served, n_rows = [first], len(first[0])
            # Nothing else reads the queue. Its last item, None, is left to the loop.
            while n_rows < MAX_ROWS and not self._queue.empty() and self._queue.queue[0]:
                served.append(cast(Served, self._queue.get()))
                n_rows += len(served[-1][0])
            self.metrics.shadow.labels(self._score(served)).inc(len(served))
            for _ in served:
                self._queue.task_done()

    def _score(self, served: Sequence[Served]) -> str:
        if (challenger := self._challenger) is None:
            return "dropped"
        version, model = challenger
        ids, fields, numeric = zip(*served, strict=True)
        try:
            columns = {name: np.concatenate([each[name] for each in fields]) for name in fields[0]}
            probabilities = predict_members(
                model, self.loader.served_features, columns, np.concatenate(numeric)
            ).mean(axis=1)
            self.loader.log.record_shadow(version, list(chain(*ids)), probabilities)
        except Exception as error:  # a failing challenger is a result, and must not end the thread
            log.warning("shadow scoring failed", model_version=version, detail=str(error))
            return "failed"
        return "scored"
