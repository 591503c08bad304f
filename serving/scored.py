"""A batch of instances with its features and predictions, on the way to the prediction log."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from time import thread_time
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import structlog

from ontime.problem import Instance
from ontime.storage.schema import Prediction
from serving.batching import Job
from serving.model_loader import predict_members
from serving.model_manager import Canary, DeployedModel
from serving.observability import Metrics
from serving.schemas import PredictRequest

if TYPE_CHECKING:  # loads Feast
    from ontime.features.online_store import OnlineRead

log = structlog.get_logger()


@dataclass(frozen=True)
class Scored:
    """A batch of n instances with its features and predictions."""

    model: np.ndarray  # DeployedModel or Canary [n]
    taken_at: datetime  # when the models were taken
    read: "OnlineRead"
    probability: np.ndarray  # [n]
    uncertainty: np.ndarray  # [n]
    seconds: np.ndarray  # CPU time of the forward pass [n]
    known: np.ndarray  # the model has seen every categorical value [n]

    @classmethod
    def empty(cls, deployed: DeployedModel, taken_at: datetime, read: "OnlineRead") -> "Scored":
        n = len(read.numeric)
        models, known = np.full(n, deployed, dtype=object), np.empty(n, dtype=bool)
        probability, uncertainty, seconds = np.empty((3, n))
        return cls(models, taken_at, read, probability, uncertainty, seconds, known)

    def predict_all(
        self,
        deployed: DeployedModel,
        instances: Sequence[Instance],
        names: Sequence[str],
        metrics: Metrics,
    ) -> None:
        """One forward pass of the champion and, if a canary runs, one of the canary."""
        if (canary := deployed.canary) is None:
            return self.predict(deployed, names, slice(None))
        takes = np.array([canary.change.takes(each.instance_id) for each in instances])
        if takes.any():
            try:
                self.predict(canary, names, takes)
                self.check(takes)
            except Exception as error:  # whatever it is, no request fails for it
                log.warning("canary failed", model_version=canary.version, detail=repr(error))
                metrics.canary_fallbacks.inc(int(takes.sum()))
                takes[:] = False
        if not takes.all():
            self.predict(deployed, names, ~takes)

    def predict(
        self, by: DeployedModel | Canary, names: Sequence[str], rows: slice | np.ndarray
    ) -> None:
        """Predict rows, given as a slice or a mask, from the features of these names."""
        fields = {name: values[rows] for name, values in self.read.fields.items()}
        started = thread_time()
        members = predict_members(by.model, names, fields, self.read.numeric[rows])
        self.seconds[rows] = thread_time() - started
        self.probability[rows], self.uncertainty[rows] = members.mean(axis=1), members.std(axis=1)
        categories = {name: fields[name].tolist() for name in by.model.spec.categorical}
        self.known[rows] = by.model.knows(categories)
        self.model[rows] = by

    def check(self, rows: slice | np.ndarray) -> None:
        """Raise ArithmeticError if a probability is not from 0 to 1."""
        if not all(0 <= own <= 1 for own in self.probability[rows].tolist()):  # NaN is not
            version = self.model[rows][0].version
            raise ArithmeticError(f"version {version} predicted a value outside 0 to 1")

    def predictions(self, request_id: str, job: Job, first: int) -> list[Prediction]:
        """The log's rows of one job, whose first instance is the batch's `first`.

        Raises:
            ArithmeticError: if a probability of the job is not from 0 to 1.
        """
        self.check(slice(first, first + job.size))
        digest, fields = digest_and_fields(job.request)
        return [
            Prediction(
                request_id=request_id,
                position=position,
                trace_id=job.trace_id,
                request_digest=digest,
                client=job.caller.client,
                production_traffic=job.caller.production_traffic,
                instance_id=instance.instance_id,
                model_version=self.model[i].version,
                probability=float(self.probability[i]),
                uncertainty=float(self.uncertainty[i]),
                decision=bool(self.probability[i] >= self.model[i].model.metadata["threshold"]),
                features=self.read.numeric[i],
                features_missing=self.read.missing[i],
                features_stale=self.read.stale[i],
                features_not_yet_known=self.read.not_yet_known[i],
                as_of=job.request.as_of,
                due_at=instance.due_at,
                predicted_at=self.taken_at,
                model_seconds=float(self.seconds[i]),
                outside_training=not (self.known[i] and instance.is_trained_for(job.request.as_of)),
                instance=fields[position],
            )
            for position, (i, instance) in enumerate(enumerate(job.request.instances, first))
        ]


def digest_and_fields(request: PredictRequest) -> tuple[str, list[dict[str, Any]]]:
    """A digest by which a retry is recognised, and the fields of each instance as JSON values."""
    body = request.model_dump(mode="json", exclude_unset=True)  # a default as_of differs in a retry
    return hashlib.blake2b(orjson.dumps(body), digest_size=16).hexdigest(), body["instances"]
