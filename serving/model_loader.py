"""From a registry version to a model that may serve: copied, verified, loaded, probed, or refused.

The probe asks recorded real questions of the prediction log, and some invented ones (also when the
log is empty): as many answers as questions, each a probability.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from ontime.prediction_log import LogUnavailable, PredictionLog
from serving.model_copies import ModelCopies

if TYPE_CHECKING:  # importing it takes torch with it, which only the start may
    from ontime.model import FeatureSpec

PROBE_QUESTIONS = 256  # recorded requests that a new model is asked before it serves
INVENTED = (np.nan, 0.0, 1.0, -1e4, 1e4)  # and rows in which every number is this


class Model(Protocol):
    """What serving needs of `ontime.model.TrainedModel`."""

    metadata: dict[str, Any]

    @property
    def spec(self) -> "FeatureSpec": ...

    def predict(self, frame: pd.DataFrame) -> np.ndarray: ...

    def predict_members(self, frame: pd.DataFrame) -> np.ndarray: ...


class Registry(Protocol):
    """Where models come from. Both methods raise `RegistryUnavailable`."""

    def resolve(self, alias: str) -> str | None:
        """The version that holds an alias."""

    def download(self, version: str, to: Path) -> Path:
        """The directory below `to` that then holds the version's files."""


class RegistryUnavailable(RuntimeError):
    """The registry did not answer in time."""


class ModelRefused(RuntimeError):
    """A version that does not load, or does not answer the probe as a model must."""


class ModelLoader:
    """Makes a version ready to serve: copied, verified, loaded and probed, or refused."""

    def __init__(
        self,
        registry: Registry,
        copies: ModelCopies,
        log: PredictionLog,
        load: Callable[[Path], Model],
        served_features: Collection[str],
    ) -> None:
        self.registry = registry
        self.copies = copies
        self.log = log
        self.load = load
        self.served_features = frozenset(served_features)

    def stage(self, version: str) -> Model:
        """The model of a version, ready to serve.

        Raises:
            ModelRefused: if it does not load or fails the probe; its copy is removed.
            RegistryUnavailable: if it has to be downloaded and cannot be.
        """
        questions = self.log.recent_questions(PROBE_QUESTIONS)
        try:
            model = self.load(self.copies.fetch(version, self._download(version)))
            self._check_features(model)
            probe(model, questions)
        except (RegistryUnavailable, LogUnavailable):
            raise
        except Exception as error:  # an artifact can be broken in any way, and none may serve
            self.copies.discard(version)
            raise ModelRefused(f"version {version} may not serve: {error}") from error
        return model

    def _download(self, version: str) -> Callable[[Path], Path]:
        return lambda to: self.registry.download(version, to)

    def _check_features(self, model: Model) -> None:
        if unknown := sorted(set(model.spec.numeric) - self.served_features):
            raise ModelRefused(f"a model asks for features that are served; not these: {unknown}")


def probe(model: Model, recorded: pd.DataFrame) -> None:
    """Ask recorded questions and some invented ones; every answer must be a probability.

    A feature that was not recorded yet is missing (NaN) in the recorded questions.
    """
    numeric, categorical = list(model.spec.numeric), list(model.spec.categorical)
    invented = pd.DataFrame(dict.fromkeys(numeric, INVENTED), dtype=np.float32)
    invented[categorical] = "never seen"
    recorded = recorded.reindex(columns=[*numeric, *categorical])
    questions = pd.concat([recorded, invented]) if len(recorded) else invented
    questions = questions.astype(dict.fromkeys(numeric, np.float32))
    answers = np.asarray(model.predict(questions.reset_index(drop=True)), dtype=float)
    if answers.shape != (len(questions),):
        raise ModelRefused(f"{len(questions)} questions have as many answers, not {answers.shape}")
    if not ((answers >= 0) & (answers <= 1)).all():  # NaN is neither
        worst = answers[~((answers >= 0) & (answers <= 1))][0]
        raise ModelRefused(f"an answer is a probability from 0 to 1; the probe got {worst}")
