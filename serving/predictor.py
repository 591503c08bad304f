"""From validated requests to logged responses.

    take the model ─▶ read features ─▶ predict ─▶ log (commit) ─▶ respond

Each arrow carries a batch (`serving.batching`) as arrays: a data frame of one row costs more. While
a canary runs, a batch is split by the hash of the instance: one prediction is of one version, and
two predictions of a request may be of two. If the canary fails, the champion answers.

An `Idempotency-Key` makes a retry safe: it is the request id in the prediction log, and the
response is what is logged under it, also if two retries run at the same time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import getrandbits
from time import time_ns
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pandas as pd

from ontime.data.timestamps import utc_times
from ontime.errors import DuplicateRequest, OnlineStoreUnavailable, PredictionLogUnavailable
from ontime.problem import EXAMPLE_AS_OF, EXAMPLE_INSTANCE, Instance
from ontime.storage.prediction_log import TIME_FIELDS, PredictionLog
from ontime.storage.schema import Prediction
from serving.batching import Job, Result
from serving.model_loader import Model
from serving.model_manager import ModelManager, NoChampion
from serving.observability import Metrics
from serving.schemas import (
    Contribution,
    ExplainRequest,
    ExplainResponse,
    PredictResponse,
)
from serving.scored import Scored, digest_and_fields
from serving.shadow import Shadow

if TYPE_CHECKING:  # these load Feast and torch
    from ontime.features.online_store import OnlineRead
    from ontime.models.serialization import TrainedModel

# Errors of a service, not of a job: the whole batch gets them.
UNAVAILABLE = (NoChampion, OnlineStoreUnavailable, PredictionLogUnavailable)
EXAMPLE = ExplainRequest.model_validate({"as_of": EXAMPLE_AS_OF, "instance": EXAMPLE_INSTANCE})


class FeatureReader(Protocol):
    """Reads the features of instances. `numeric`: their names, in the order of the arrays."""

    numeric: Sequence[str]

    def read(self, fields: Mapping[str, np.ndarray], as_of: np.ndarray) -> "OnlineRead":
        """See `OnlineFeatures.read`. Raises `OnlineStoreUnavailable`."""


class IdempotencyKeyConflict(RuntimeError):
    """Two different requests have the same Idempotency-Key."""


@dataclass(frozen=True)
class Predictor:
    manager: ModelManager
    features: FeatureReader
    log: PredictionLog
    metrics: Metrics
    shadow: Shadow | None = None

    def predict(self, jobs: Sequence[Job], again: bool = False) -> list[Result]:
        """The response to each job, or the error that its client gets. Raises nothing.

        All jobs need one read of the features, one forward pass and one commit. If the batch fails
        for a reason that may lie in one of them, each is processed alone.
        """
        try:
            return self._predict(jobs)
        except UNAVAILABLE as error:
            return [error] * len(jobs)
        except Exception as error:
            if len(jobs) > 1:
                return self._predict_each(jobs)
            if isinstance(error, DuplicateRequest) and not again:  # logged by another process
                return self.predict(jobs, again=True)
            return [error]

    def explain(self, request: ExplainRequest) -> ExplainResponse:
        """Shapley values of each group of inputs. They are not logged."""
        deployed, _ = self.manager.current()
        answering = deployed.model_for(request.instance.instance_id)
        read = self.read([request.instance], [request.as_of])
        reference, contributions = explain_row(answering.model, read.frame)
        return ExplainResponse(
            model_version=answering.version,
            probability=reference + sum(each.contribution for each in contributions),
            reference_probability=reference,
            contributions=contributions,
            features_missing=read.missing[0],
            features_stale=read.stale[0],
            features_not_yet_known=read.not_yet_known[0],
        )

    def check(self) -> str:
        """The deployed version; raises whatever would prevent a prediction."""
        deployed, _ = self.manager.current()
        self.read([EXAMPLE.instance], [EXAMPLE.as_of])
        self.log.check()
        return deployed.version

    def _predict_each(self, jobs: Sequence[Job]) -> list[Result]:
        return [result for job in jobs for result in self.predict([job])]

    def _predict(self, jobs: Sequence[Job]) -> list[Result]:
        results: dict[int, Result] = {}
        logged = self.log.responses([job.key for job in jobs if job.key is not None])
        new: dict[str, int] = {}  # request id -> index of its job
        for i, job in enumerate(jobs):
            if job.key in logged:
                results[i] = _logged_response(job, logged[job.key])
            else:
                new.setdefault(job.key or new_request_id(), i)
        if new:
            responses = self._predict_new([(name, jobs[i]) for name, i in new.items()])
            results.update(zip(new.values(), responses, strict=True))
        repeated = [i for i in range(len(jobs)) if i not in results]  # a key twice in one batch
        results.update(zip(repeated, self._predict_each([jobs[i] for i in repeated]), strict=True))
        return [results[i] for i in range(len(jobs))]

    def _predict_new(self, jobs: Sequence[tuple[str, Job]]) -> list[Result]:
        """The result of each job, by request id; it is logged if it is a response."""
        deployed, taken_at = self.manager.current()
        requests = [job.request for _, job in jobs]
        instances = [instance for request in requests for instance in request.instances]
        as_of = [request.as_of for request in requests for _ in request.instances]
        scored = Scored.empty(deployed, taken_at, self.read(instances, as_of))
        scored.predict_all(deployed, instances, self.features.numeric, self.metrics)
        results: list[Result] = []
        rows: list[Prediction] = []
        first = 0
        for request_id, job in jobs:
            try:
                predictions = scored.predictions(request_id, job, first)
            except ArithmeticError as error:
                results.append(error)
            else:
                rows += predictions
                results.append(PredictResponse.of(predictions))
            first += job.size
        if rows:
            self._log(rows, scored)
            self.metrics.newest_request.set(max(r.as_of for r in requests).timestamp())
        return results

    def _log(self, rows: Sequence[Prediction], scored: Scored) -> None:
        with self.metrics.log_failures.count_exceptions(PredictionLogUnavailable):
            self.log.record(rows, self.features.numeric)
        self.metrics.outside_training.inc(sum(row.outside_training for row in rows))
        read = scored.read
        self.metrics.record_predictions((row.model_version for row in rows), read)
        if self.shadow is not None and len(rows) == len(read.numeric):
            self.shadow.enqueue([p.prediction_id for p in rows], read.fields, read.numeric)
        elif self.shadow is not None:  # the champion failed for a request of the batch
            self.metrics.shadow.labels("dropped").inc()

    def read(self, instances: Sequence[Instance], as_of: Sequence[datetime]) -> "OnlineRead":
        """The features of instances at their prediction times, as the model sees them."""
        with self.metrics.store_failures.count_exceptions(OnlineStoreUnavailable):
            return self.features.read(instance_columns(instances), utc_times(as_of))


def new_request_id() -> str:
    """Unique, and ordered by time, so that new rows are neighbours in every index of the log.

    With random ids a commit changed two pages of the database for each row.
    """
    return f"{time_ns():016x}{getrandbits(64):016x}"


def explain_row(model: Model, frame: pd.DataFrame) -> tuple[float, list[Contribution]]:
    """The reference probability, and what each group of inputs of one row contributes to it."""
    from ontime.models.explanation import contributions  # loads torch

    trained = cast("TrainedModel", model)
    reference, values = contributions(trained, frame)
    attention = trained.attention(frame)
    spec, row = model.spec, frame.iloc[0]
    groups = dict(spec.groups) | {name: (name,) for name in spec.categorical}
    return reference, [
        Contribution(
            group=group,
            contribution=values[group],
            inputs={n: None if pd.isna(row[n]) else row[n] for n in groups[group]},
            attention=attention[group][0].tolist() if group in attention else [],
        )
        for group in sorted(values, key=lambda group: -abs(values[group]))
    ]


def instance_columns(instances: Sequence[Instance]) -> dict[str, np.ndarray]:
    """The request fields, [n] each: times as datetime64[us] in UTC, all others as objects."""
    columns: dict[str, np.ndarray] = {}
    for name in Instance.model_fields:
        values = [getattr(instance, name) for instance in instances]
        columns[name] = utc_times(values) if name in TIME_FIELDS else np.array(values, dtype=object)
    return columns


def _logged_response(job: Job, logged: Sequence[Mapping[str, Any]]) -> Result:
    if logged[0]["request_digest"] != digest_and_fields(job.request)[0]:
        return IdempotencyKeyConflict(
            f"an Idempotency-Key belongs to one request; {job.key!r} was used for another"
        )
    return PredictResponse.of(logged)
