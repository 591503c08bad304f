"""From a version in the registry to a model that may be deployed: download, load, smoke test.

The smoke test predicts the newest logged inputs and some synthetic ones (also with an empty log).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import structlog

from ontime.errors import ModelError, PredictionLogUnavailable, RegistryUnavailable
from ontime.features.spec import FeatureSpec
from ontime.models.description import check_metadata
from ontime.storage.prediction_log import PredictionLog
from serving.model_cache import ModelCache

SMOKE_TEST_ROWS = 256  # newest logged inputs
SYNTHETIC_VALUES = (np.nan, 0.0, 1.0, -1e4, 1e4)  # one row each, with every number set to it

log = structlog.get_logger()


class Model(Protocol):
    """The part of `ontime.models.serialization.TrainedModel` that serving uses."""

    metadata: dict[str, Any]
    vocabularies: dict[str, list[str]]

    @property
    def spec(self) -> FeatureSpec: ...

    def predict(self, frame: pd.DataFrame) -> np.ndarray: ...

    def predict_arrays(
        self, numeric: np.ndarray, categories: Mapping[str, Sequence[object]]
    ) -> np.ndarray: ...

    def knows(self, categories: Mapping[str, Sequence[object]]) -> np.ndarray: ...


class Registry(Protocol):
    """The source of models. Every method raises `RegistryUnavailable`."""

    def resolve(self, alias: str) -> str | None:
        """The version that an alias names."""

    def download(self, version: str, to: Path) -> Path:
        """Copy the files of a version into the folder ``to`` and return it."""

    def verify(self, version: str, folder: Path) -> None:
        """Raise `ModelError` if the files in a folder are not those of the version."""


class ModelRejected(RuntimeError):
    """A version does not load, or fails the validation before its deployment."""


@dataclass(frozen=True)
class ModelLoader:
    registry: Registry
    cache: ModelCache
    log: PredictionLog
    load: Callable[[Path], Model]
    served_features: Sequence[str]

    def load_and_validate(self, version: str, registry_is_down: bool = False) -> Model:
        """The model of a version, ready to be deployed.

        A copy in the cache is compared with the registry, unless that does not respond: the copy's
        own checksums are beside it.

        Raises:
            ModelRejected: if it does not load or is invalid; its cached copy is deleted.
            RegistryUnavailable: if it has to be downloaded and cannot be.
        """
        recorded = self.log.recent_inputs(SMOKE_TEST_ROWS)
        try:
            model = self.load(self._fetch(version, registry_is_down))
            self._check_metadata(model)
            smoke_test(model, recorded)
        except (RegistryUnavailable, PredictionLogUnavailable):
            raise
        except Exception as error:  # an artifact can be broken in any way
            self.cache.discard(version)
            log.warning("model rejected", model_version=version, detail=repr(error))
            is_ours = isinstance(error, ModelError | ModelRejected)
            cause = str(error) if is_ours else "it does not load; the API's log has the cause"
            raise ModelRejected(f"version {version} cannot be deployed: {cause}") from error
        return model

    def _fetch(self, version: str, registry_is_down: bool) -> Path:
        folder = self.cache.fetch(version, self.registry.download)
        if registry_is_down:
            return folder
        try:
            self.registry.verify(version, folder)
        except ModelError as error:
            log.warning("cached copy discarded", model_version=version, detail=str(error))
            self.cache.discard(version)
            folder = self.cache.fetch(version, self.registry.download)
        return folder

    def _check_metadata(self, model: Model) -> None:
        if unknown := sorted(set(model.spec.numeric) - set(self.served_features)):
            raise ModelRejected(f"a model uses features that are served; not these: {unknown}")
        check_metadata(model.metadata)
        if model.metadata.get("threshold") is None:
            raise ModelRejected("metadata has a threshold from 0 to 1; this one has none")


def predict_members(
    model: Model,
    served: Sequence[str],
    fields: Mapping[str, np.ndarray],
    numeric: np.ndarray,
) -> np.ndarray:
    """Each ensemble member's probabilities, [n, k], of served features, float32 [n, f]."""
    if tuple(served) != model.spec.numeric:
        position = {name: i for i, name in enumerate(served)}
        numeric = np.take(numeric, [position[name] for name in model.spec.numeric], axis=1)
    categories = {name: fields[name].tolist() for name in model.spec.categorical}
    return model.predict_arrays(numeric, categories)


def smoke_test(model: Model, recorded: pd.DataFrame) -> None:
    """Predict recorded and synthetic rows; each result must be a probability.

    A feature that is not in the recorded rows is missing (NaN).

    Raises:
        ModelRejected: if the number of results differs, or one is not from 0 to 1.
    """
    numeric, categorical = list(model.spec.numeric), list(model.spec.categorical)
    rows = pd.DataFrame(dict.fromkeys(numeric, SYNTHETIC_VALUES), dtype=np.float32)
    rows[categorical] = "unknown category"
    if len(recorded):
        recorded = recorded.reindex(columns=rows.columns)
        recorded = recorded.astype(dict.fromkeys(numeric, np.float32))
        rows = pd.concat([recorded, rows], ignore_index=True)
    predicted = np.asarray(model.predict(rows), dtype=float)
    if predicted.shape != (len(rows),):
        raise ModelRejected(f"{len(rows)} rows have one probability each, not {predicted.shape}")
    invalid = ~((predicted >= 0) & (predicted <= 1))  # NaN included
    if invalid.any():
        raise ModelRejected(f"a probability is from 0 to 1; one was {predicted[invalid][0]}")
