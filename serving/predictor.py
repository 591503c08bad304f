"""From a checked request to a logged answer.

    champion taken ─▶ online features read ─▶ probabilities ─▶ logged (commit) ─▶ answered

An `Idempotency-Key` makes a retry safe: it is the request id in the log, and what is logged under
it is the answer, also when two retries race.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import uuid4

import numpy as np
import pandas as pd

from ontime.log_tables import Prediction
from ontime.prediction_log import AlreadyAnswered, LogUnavailable, PredictionLog
from serving.champion import Champion, Serving
from serving.observability import Metrics
from serving.schemas import (
    Contribution,
    ExplainAnswer,
    ExplainRequest,
    Flight,
    PredictAnswer,
    PredictedFlight,
    PredictRequest,
)
from serving.shadow import Shadow

if TYPE_CHECKING:  # importing it takes torch with it
    from ontime.model import TrainedModel

# Asked to see whether the store answers, not what.
ANY_REQUEST = PredictRequest.model_validate(
    {
        "as_of": "2013-05-01T10:00Z",
        "flights": [
            {
                "carrier": "UA",
                "flight": 1545,
                "origin": "EWR",
                "dest": "IAH",
                "tailnum": None,
                "scheduled_departure": "2013-05-01T12:00Z",
                "scheduled_arrival": "2013-05-01T15:30Z",
            }
        ],
    }
)


class OnlineRead(Protocol):
    """What serving needs of `ontime.feature_store.OnlineRead`."""

    @property
    def frame(self) -> pd.DataFrame: ...
    @property
    def missing(self) -> list[list[str]]: ...
    @property
    def stale(self) -> list[list[str]]: ...
    @property
    def age_seconds(self) -> Mapping[str, float]: ...


class FeatureReader(Protocol):
    """Reads features of flights; `numeric` names those that are logged with a prediction."""

    numeric: Sequence[str]

    def read(self, flights: pd.DataFrame, as_of: datetime) -> OnlineRead: ...


class FeaturesUnavailable(RuntimeError):
    """The online store did not answer in time, or there is none yet."""


class KeyReused(RuntimeError):
    """One Idempotency-Key, two different requests."""


@dataclass(frozen=True)
class Predictor:
    champion: Champion
    features: FeatureReader
    log: PredictionLog
    metrics: Metrics
    shadow: Shadow | None = None

    def answer(self, request: PredictRequest, key: str | None, trace_id: str) -> PredictAnswer:
        """Predict, log, answer; or give the logged answer if the key was used before."""
        digest = _digest(request)
        if key is not None and (logged := self.log.answered(key)):
            return _logged_answer(key, logged, digest)
        try:
            return self._predict(request, key or uuid4().hex, trace_id, digest)
        except AlreadyAnswered as error:
            request_id = str(error)
            return _logged_answer(request_id, self.log.answered(request_id), digest)

    def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """What each group of inputs adds to the answer. A view, not an answer: it is not logged."""
        from ontime.explanation import contributions  # takes torch with it

        serving, _ = self.champion.take()
        read = self._read([request.flight], request.as_of)
        reference, parts = contributions(cast("TrainedModel", serving.model), read.frame)
        spec, inputs = serving.model.spec, read.frame.iloc[0]
        groups = dict(spec.groups) | {name: (name,) for name in spec.categorical}
        return ExplainAnswer(
            model_version=serving.version,
            probability_late=reference + sum(parts.values()),
            reference_probability=reference,
            contributions=[
                Contribution(
                    group=group, contribution=parts[group], inputs=_inputs(inputs, groups[group])
                )
                for group in sorted(parts, key=lambda group: -abs(parts[group]))
            ],
            features_missing=read.missing[0],
            features_stale=read.stale[0],
        )

    def check(self) -> str:
        """The version that would answer now; raises what would keep it from answering."""
        serving, _ = self.champion.take()
        self._read(ANY_REQUEST.flights, ANY_REQUEST.as_of)
        self.log.check()
        return serving.version

    def _predict(
        self, request: PredictRequest, request_id: str, trace_id: str, digest: str
    ) -> PredictAnswer:
        serving, taken_at = self.champion.take()
        read = self._read(request.flights, request.as_of)
        same = {
            "request_id": request_id,
            "trace_id": trace_id,
            "request_digest": digest,
            "model_version": serving.version,
            "as_of": request.as_of,
            "predicted_at": taken_at,
        }
        predictions = list(self._predictions(request.flights, read, serving, same))
        self._record(predictions)
        self._count(serving.version, read)
        self.metrics.newest_question.set(request.as_of.timestamp())
        if self.shadow is not None:
            self.shadow.offer([p.prediction_id for p in predictions], read.frame)
        return PredictAnswer(
            model_version=serving.version,
            predictions=[PredictedFlight.model_validate(p) for p in predictions],
        )

    def _predictions(
        self, flights: list[Flight], read: OnlineRead, serving: Serving, same: dict[str, Any]
    ) -> Iterator[Prediction]:
        columns = read.frame[list(self.features.numeric)]
        features = np.ascontiguousarray(columns.to_numpy(np.float32))
        probabilities, uncertainties = _probabilities(serving, read.frame)
        for i, flight in enumerate(flights):
            yield Prediction(
                **same,
                **vars(flight),
                position=i,
                flight_id=flight.flight_id,
                probability_late=probabilities[i],
                uncertainty=uncertainties[i],
                features=features[i],
                features_missing=read.missing[i],
                features_stale=read.stale[i],
            )

    def _read(self, flights: list[Flight], as_of: datetime) -> OnlineRead:
        try:
            return self.features.read(_frame(flights), as_of)
        except FeaturesUnavailable:
            self.metrics.store_failures.inc()
            raise

    def _record(self, predictions: list[Prediction]) -> None:
        try:
            self.log.record(predictions, self.features.numeric)
        except LogUnavailable:
            self.metrics.log_failures.inc()
            raise

    def _count(self, version: str, read: OnlineRead) -> None:
        self.metrics.predictions.labels(version).inc(len(read.frame))
        for counter, rows in (
            (self.metrics.missing, read.missing),
            (self.metrics.stale, read.stale),
        ):
            for name, n in Counter(chain.from_iterable(rows)).items():
                counter.labels(name).inc(n)
        for view, seconds in read.age_seconds.items():
            self.metrics.age.labels(view).set(seconds)


def _digest(request: PredictRequest) -> str:
    """Of what the client sent: a default `as_of` is another moment in the retry, and left out."""
    sent = request.model_dump_json(exclude_unset=True).encode()
    return hashlib.blake2b(sent, digest_size=16).hexdigest()


def _logged_answer(key: str, logged: list[dict[str, Any]], digest: str) -> PredictAnswer:
    if logged[0]["request_digest"] != digest:
        raise KeyReused(f"an Idempotency-Key belongs to one request; {key!r} was used for another")
    return PredictAnswer(
        model_version=logged[0]["model_version"],
        predictions=[PredictedFlight.model_validate(row) for row in logged],
    )


def _frame(flights: list[Flight]) -> pd.DataFrame:
    columns = {name: [getattr(f, name) for f in flights] for name in Flight.model_fields}
    return pd.DataFrame(columns)


def _inputs(row: pd.Series, names: Sequence[str]) -> dict[str, float | str | None]:
    values = row[list(names)]
    return values.astype(object).where(values.notna(), None).to_dict()


def _probabilities(serving: Serving, frame: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Probabilities and uncertainties of the flights.

    The model was probed, but never with these rows: what is no probability is no answer.
    """
    members = serving.model.predict_members(frame)
    probabilities = members.mean(axis=1)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ArithmeticError(f"version {serving.version} gave a probability outside 0 to 1")
    return probabilities.tolist(), members.std(axis=1).tolist()
