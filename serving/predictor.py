"""From a validated request to a logged response.

    take the model ─▶ read features ─▶ predict ─▶ log (commit) ─▶ respond

An `Idempotency-Key` makes a retry safe: it is the request id in the prediction log, and the
response is what is logged under it, also if two retries run at the same time.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import uuid4

import numpy as np
import pandas as pd

from ontime.errors import DuplicateRequest, OnlineStoreUnavailable, PredictionLogUnavailable
from ontime.problem import EXAMPLE_AS_OF, EXAMPLE_INSTANCE, Instance
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import Prediction
from serving.model_manager import ModelManager
from serving.observability import Metrics
from serving.schemas import (
    Contribution,
    ExplainRequest,
    ExplainResponse,
    PredictedInstance,
    PredictRequest,
    PredictResponse,
)
from serving.shadow import Shadow

if TYPE_CHECKING:  # these load Feast and torch
    from ontime.features.online_store import OnlineRead
    from ontime.models.serialization import TrainedModel

EXAMPLE = ExplainRequest.model_validate({"as_of": EXAMPLE_AS_OF, "instance": EXAMPLE_INSTANCE})


class FeatureReader(Protocol):
    """Reads the features of instances. `numeric`: the features to log with a prediction."""

    numeric: Sequence[str]

    def read(self, instances: pd.DataFrame, as_of: datetime) -> "OnlineRead":
        """Raises `OnlineStoreUnavailable`."""


class IdempotencyKeyConflict(RuntimeError):
    """Two different requests have the same Idempotency-Key."""


@dataclass(frozen=True)
class Predictor:
    manager: ModelManager
    features: FeatureReader
    log: PredictionLog
    metrics: Metrics
    shadow: Shadow | None = None

    def predict(self, request: PredictRequest, key: str | None, trace_id: str) -> PredictResponse:
        """Predict, log and respond; if the key is in the log, respond with what is logged."""
        # Without a default as_of, which differs in a retry.
        sent = request.model_dump_json(exclude_unset=True).encode()
        digest = hashlib.blake2b(sent, digest_size=16).hexdigest()
        if key is not None and (logged := self.log.responses(key)):
            return _logged_response(key, logged, digest)
        try:
            return self._predict(request, key or uuid4().hex, trace_id, digest)
        except DuplicateRequest as error:
            logged = self.log.responses(error.request_id)
            return _logged_response(error.request_id, logged, digest)

    def explain(self, request: ExplainRequest) -> ExplainResponse:
        """Shapley values of each group of inputs. They are not logged."""
        from ontime.models.explanation import contributions  # loads torch

        deployed, _ = self.manager.current()
        read = self._read([request.instance], request.as_of)
        reference, values = contributions(cast("TrainedModel", deployed.model), read.frame)
        spec, row = deployed.model.spec, read.frame.iloc[0]
        groups = dict(spec.groups) | {name: (name,) for name in spec.categorical}
        return ExplainResponse(
            model_version=deployed.version,
            probability=reference + sum(values.values()),
            reference_probability=reference,
            contributions=[
                Contribution(
                    group=group,
                    contribution=values[group],
                    inputs={n: None if pd.isna(row[n]) else row[n] for n in groups[group]},
                )
                for group in sorted(values, key=lambda group: -abs(values[group]))
            ],
            features_missing=read.missing[0],
            features_stale=read.stale[0],
        )

    def check(self) -> str:
        """The deployed version; raises whatever would prevent a prediction."""
        deployed, _ = self.manager.current()
        self._read([EXAMPLE.instance], EXAMPLE.as_of)
        self.log.check()
        return deployed.version

    def _predict(
        self, request: PredictRequest, request_id: str, trace_id: str, digest: str
    ) -> PredictResponse:
        deployed, taken_at = self.manager.current()
        read = self._read(request.instances, request.as_of)
        members = deployed.model.predict_members(read.frame)  # [n, k]
        probabilities, uncertainties = members.mean(axis=1).tolist(), members.std(axis=1).tolist()
        if not all(0 <= probability <= 1 for probability in probabilities):  # NaN is not
            raise ArithmeticError(f"version {deployed.version} predicted a value outside 0 to 1")
        columns = read.frame[list(self.features.numeric)]
        features = np.ascontiguousarray(columns.to_numpy(np.float32))  # [n, f]
        logged = request.model_dump(mode="json")["instances"]
        predictions = [
            Prediction(
                request_id=request_id,
                position=i,
                trace_id=trace_id,
                request_digest=digest,
                instance_id=instance.instance_id,
                model_version=deployed.version,
                probability=probabilities[i],
                uncertainty=uncertainties[i],
                decision=probabilities[i] >= deployed.model.metadata["threshold"],
                features=features[i],
                features_missing=read.missing[i],
                features_stale=read.stale[i],
                as_of=request.as_of,
                due_at=instance.due_at,
                predicted_at=taken_at,
                instance=logged[i],
            )
            for i, instance in enumerate(request.instances)
        ]
        with self.metrics.log_failures.count_exceptions(PredictionLogUnavailable):
            self.log.record(predictions, self.features.numeric)
        self.metrics.record_predictions(deployed.version, read)
        self.metrics.newest_request.set(request.as_of.timestamp())
        if self.shadow is not None:
            self.shadow.enqueue([p.prediction_id for p in predictions], read.frame)
        return PredictResponse(
            model_version=deployed.version,
            predictions=[PredictedInstance.model_validate(p) for p in predictions],
        )

    def _read(self, instances: Sequence[Instance], as_of: datetime) -> "OnlineRead":
        columns = {name: [getattr(i, name) for i in instances] for name in Instance.model_fields}
        with self.metrics.store_failures.count_exceptions(OnlineStoreUnavailable):
            return self.features.read(pd.DataFrame(columns), as_of)


def _logged_response(key: str, logged: list[dict[str, Any]], digest: str) -> PredictResponse:
    if logged[0]["request_digest"] != digest:
        raise IdempotencyKeyConflict(
            f"an Idempotency-Key belongs to one request; {key!r} was used for another"
        )
    return PredictResponse(
        model_version=logged[0]["model_version"],
        predictions=[PredictedInstance.model_validate(row) for row in logged],
    )
