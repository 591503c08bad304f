"""Production services: Feast's online store, MLflow's registry, and models on torch.

`build_app_state` imports this module only if it needs it: these libraries load for 3 to 8 s.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from ontime.errors import OnlineStoreUnavailable
from ontime.features.feast_config import open_feature_store
from ontime.features.online_store import OnlineFeatures, OnlineRead
from ontime.models.serialization import TrainedModel
from ontime.problem import FEATURE_SPEC
from ontime.registry import model_registry
from ontime.settings import Settings


class FeastReader:
    """Feast's online store, opened at start-up or, if `make features` comes later, at first use."""

    numeric: Sequence[str] = FEATURE_SPEC.numeric

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open_lock = threading.Lock()
        self._backend: OnlineFeatures | None = None
        with suppress(OnlineStoreUnavailable):
            self._open()

    def read(self, fields: Mapping[str, np.ndarray], as_of: np.ndarray) -> OnlineRead:
        return self._open().read(fields, as_of)

    def _open(self) -> OnlineFeatures:
        with self._open_lock:
            if self._backend is None:
                try:
                    self._backend = OnlineFeatures(open_feature_store(self._settings))
                except Exception as error:  # Feast has a type for each cause
                    raise OnlineStoreUnavailable(
                        f"the feature store cannot be opened: {error!r}"
                    ) from error
            return self._backend


class MlflowRegistry:
    """The registered model's aliases and files."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def resolve(self, alias: str) -> str | None:
        return model_registry.resolve(self._settings, alias)

    def download(self, version: str, to: Path) -> Path:
        return model_registry.download(self._settings, version, to)

    def verify(self, version: str, folder: Path) -> None:
        model_registry.verify(self._settings, version, folder)


def load_trained_model(folder: Path) -> TrainedModel:
    torch.set_num_threads(1)  # requests run in parallel; threads within one would wait for cores
    return TrainedModel.load(folder)
