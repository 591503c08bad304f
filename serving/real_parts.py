"""What the API is made of outside of tests: Feast, MLflow and torch, imported only when made.

Each speaks the errors of the serving room, so that no other module needs those imports (3 to 8 s).
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ontime.settings import Settings
from serving.model_loader import Model, RegistryUnavailable
from serving.predictor import FeaturesUnavailable, OnlineRead

if TYPE_CHECKING:
    from ontime.feature_store import OnlineFeatures


class FeastReader:
    """Feast's online features: opened at the start if possible, else at the first need.

    Before `make features` there is nothing to open; the API lives and says what to run.
    """

    def __init__(self, settings: Settings) -> None:
        from ontime import feature_store
        from ontime.features import FEATURE_SPEC

        self.numeric: Sequence[str] = FEATURE_SPEC.numeric
        self._room = feature_store
        self._settings = settings
        self._opening = threading.Lock()
        self._features: OnlineFeatures | None = None
        with suppress(FeaturesUnavailable):
            self._open()

    def read(self, flights: pd.DataFrame, as_of: datetime) -> OnlineRead:
        try:
            return self._open().read(flights, as_of)
        except self._room.OnlineStoreUnavailable as error:
            raise FeaturesUnavailable(str(error)) from error

    def _open(self) -> "OnlineFeatures":
        with self._opening:
            if self._features is None:
                self._features = self._opened()
            return self._features

    def _opened(self) -> "OnlineFeatures":
        try:
            store = self._room.open_feature_store(self._settings)
            return self._room.OnlineFeatures(store)
        except (
            Exception
        ) as error:  # no registry yet, no such service, no server: Feast has a type each
            raise FeaturesUnavailable(f"the feature store cannot be opened: {error!r}") from error


class MlflowRegistry:
    """Aliases and files of the registered model."""

    def __init__(self, settings: Settings) -> None:
        from ontime import registry

        self._room = registry
        self._settings = settings

    def resolve(self, alias: str) -> str | None:
        try:
            return self._room.resolve(self._settings, alias)
        except self._room.RegistryUnavailable as error:
            raise RegistryUnavailable(str(error)) from error

    def download(self, version: str, to: Path) -> Path:
        try:
            return self._room.download(self._settings, version, to)
        except self._room.RegistryUnavailable as error:
            raise RegistryUnavailable(str(error)) from error


def load_trained_model(directory: Path) -> Model:
    import torch

    from ontime.model import TrainedModel

    torch.set_num_threads(1)  # requests run beside each other; threads within one would only wait
    return TrainedModel.load(directory)
