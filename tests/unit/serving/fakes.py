"""Fakes of the feature store, the registry and models, without Feast, MLflow or torch.

As a server: ``uvicorn --factory tests.unit.serving.fakes:app_from_environment``.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from fastapi import FastAPI
from sqlalchemy import make_url

from ontime.data.timestamps import parse_utc
from ontime.errors import ModelError, OnlineStoreUnavailable, RegistryUnavailable
from ontime.features.spec import FeatureSpec
from ontime.problem import EXAMPLE_AS_OF, EXAMPLE_INSTANCE, FEATURE_SPEC, Instance
from ontime.settings import Settings
from ontime.storage.api_keys import SCOPES, ApiKey
from ontime.storage.prediction_log import PredictionLog
from serving import sagemaker
from serving.app import create_app
from serving.keyring import Caller

AS_OF = parse_utc(EXAMPLE_AS_OF)
KEY = os.environ["ONTIME_API_KEY"]  # of the client `local`, with every scope
AUTHENTICATED = {"Authorization": f"Bearer {KEY}"}
INSTANCE_ID = Instance.model_validate(EXAMPLE_INSTANCE).instance_id
SPEC = FeatureSpec(("signal",), FEATURE_SPEC.categorical)
# The values of the example, which is all that a fake model knows.
KNOWN = {name: [str(EXAMPLE_INSTANCE[name])] for name in FEATURE_SPEC.categorical}


def request_body(n: int = 1, **changes: Any) -> dict[str, Any]:
    """The example instance n times."""
    return {"as_of": EXAMPLE_AS_OF, "instances": [EXAMPLE_INSTANCE] * n} | changes


@dataclass
class FakeFeatures:
    """The signal is the position in the request; `missing` and the like hold positions."""

    numeric: Sequence[str] = ("signal", "slack")
    missing: frozenset[int] = frozenset()
    stale: frozenset[int] = frozenset()
    not_yet_known: frozenset[int] = frozenset()
    down: bool = False
    n_reads: int = 0

    def read(self, fields: Mapping[str, np.ndarray], as_of: np.ndarray) -> Any:
        if self.down:
            raise OnlineStoreUnavailable("a prediction needs the online store, which failed")
        self.n_reads += 1
        positions = range(len(as_of))
        unusable = self.missing | self.stale | self.not_yet_known
        signal = np.array([np.nan if i in unusable else i for i in positions], np.float32)
        numeric = np.stack([signal, np.full(len(as_of), 0.1, np.float32)], axis=1)
        return SimpleNamespace(
            frame=pd.DataFrame(dict(fields)).assign(signal=signal, slack=np.float32(0.1)),
            fields=fields,
            numeric=numeric,
            missing=[["signal"] if i in self.missing else [] for i in positions],
            stale=[["signal"] if i in self.stale else [] for i in positions],
            not_yet_known=[["signal"] if i in self.not_yet_known else [] for i in positions],
            age_seconds={"a_view": 1800.0},
        )


@dataclass
class FakeModel:
    """Predicts one probability for everything."""

    probability: float
    metadata: dict[str, Any] = field(default_factory=lambda: {"threshold": 0.3})
    spec: FeatureSpec = SPEC
    vocabularies: dict[str, list[str]] = field(default_factory=lambda: dict(KNOWN))
    before_predict: Callable[[], object] = lambda: None

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        self.before_predict()
        assert set(self.spec.numeric) | set(self.spec.categorical) <= set(frame.columns)
        return np.full(len(frame), self.probability)

    def predict_arrays(
        self, numeric: np.ndarray, categories: Mapping[str, Sequence[object]]
    ) -> np.ndarray:
        """Two members, 0.1 apart."""
        self.before_predict()
        assert numeric.shape[1] == len(self.spec.numeric)
        assert set(categories) == set(self.spec.categorical)
        return np.tile([self.probability - 0.05, self.probability + 0.05], (len(numeric), 1))

    def knows(self, categories: Mapping[str, Sequence[object]]) -> np.ndarray:
        known = [
            [value in values for value in categories[name]]
            for name, values in self.vocabularies.items()
        ]
        return np.logical_and.reduce(known)


def load_fake(folder: Path) -> FakeModel:
    return FakeModel(**json.loads((folder / "model.json").read_text()))


class FakeRegistry:
    """A folder per version and a JSON file of aliases, readable by another process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.down = False
        self.n_downloads = 0

    def add(self, version: str, probability: float) -> None:
        (self.root / version).mkdir(parents=True)
        metadata = {"trained_through": EXAMPLE_AS_OF, "threshold": 0.3}
        model = {"probability": probability, "metadata": metadata}
        (self.root / version / "model.json").write_text(json.dumps(model))

    def set_alias(self, alias: str, version: str) -> None:
        aliases = self._aliases() | {alias: version}
        (self.root / "aliases.json").write_text(json.dumps(aliases))

    def resolve(self, alias: str) -> str | None:
        self._check()
        return self._aliases().get(alias)

    def download(self, version: str, to: Path) -> Path:
        self._check()
        self.n_downloads += 1
        shutil.copytree(self.root / version, to)
        return to

    def verify(self, version: str, folder: Path) -> None:
        self._check()
        if (folder / "model.json").read_text() != (self.root / version / "model.json").read_text():
            raise ModelError("the weights of a version have the SHA-256 of its tag")

    def _aliases(self) -> dict[str, str]:
        path = self.root / "aliases.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _check(self) -> None:
        if self.down:
            raise RegistryUnavailable("the model registry did not respond")


def make_caller(**changes: Any) -> Caller:
    """A caller with every scope."""
    values: dict[str, Any] = {
        "key_id": "k",
        "digest": "",
        "client": "c",
        "scopes": frozenset(SCOPES),
        "production_traffic": True,
        "requests_per_s": 1_000,
        "max_concurrent": 100,
        "created_at": AS_OF,
    }
    return Caller(ApiKey(**(values | changes)))


def fake_settings(data_dir: Path, **changes: Any) -> Settings:
    """Settings of a folder that has an empty prediction log."""
    settings = Settings(data_dir=data_dir, **({"champion_poll_s": 0, "shadow": False} | changes))
    database = make_url(settings.prediction_db_url).database
    if database and Path(database).is_relative_to(data_dir) and not Path(database).exists():
        Path(database).parent.mkdir(parents=True, exist_ok=True)
        Path(database).write_bytes(empty_log())
    return settings


@cache
def empty_log() -> bytes:
    """A migrated database: the migrations took half of the time in which an app starts."""
    with TemporaryDirectory() as folder:
        log = PredictionLog(f"sqlite:///{folder}/log.db")
        log.migrate()
        log.close()
        return Path(folder, "log.db").read_bytes()


def app_from_environment(factory: Callable[..., FastAPI] = create_app) -> FastAPI:
    settings = fake_settings(Path(os.environ["ONTIME_DATA_DIR"]))
    registry = FakeRegistry(settings.data_dir / "registry")
    return factory(settings, features=FakeFeatures(), registry=registry, load_model=load_fake)


def sagemaker_app_from_environment() -> FastAPI:
    return app_from_environment(sagemaker.create_app)
