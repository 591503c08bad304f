"""Fakes one can read: a feature store, a registry and models without Feast, MLflow or torch.

Run as a real server with ``uvicorn --factory tests.serving.fakes:app_of_the_environment``.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from fastapi import FastAPI

from ontime.settings import Settings
from serving.app import create_app
from serving.model_loader import RegistryUnavailable
from serving.predictor import FeaturesUnavailable

AS_OF = datetime(2013, 5, 1, 10, tzinfo=UTC)
FLIGHT: dict[str, Any] = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "dest": "IAH",
    "tailnum": "N14228",
    "scheduled_departure": "2013-05-01T08:15:00-04:00",
    "scheduled_arrival": "2013-05-01T11:19:00-04:00",
}


def question(*flights: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A request body: the given flights, or the one above, with changes."""
    chosen = list(flights) or [FLIGHT | changes]
    return {"as_of": AS_OF.isoformat(), "flights": chosen}


SPEC = SimpleNamespace(numeric=("wind_speed_mph",), categorical=("carrier",))


@dataclass
class FakeFeatures:
    """Wind is the flight number; it is missing for flight 13 and stale for flight 14."""

    numeric: Sequence[str] = ("wind_speed_mph", "slack_min")
    down: bool = False
    n_reads: int = 0

    def read(self, flights: pd.DataFrame, as_of: datetime) -> Any:
        if self.down:
            raise FeaturesUnavailable("the online store must answer to predict, and did not")
        self.n_reads += 1
        wind = flights.flight.astype(np.float32).where(~flights.flight.isin([13, 14]))
        return SimpleNamespace(
            frame=flights.assign(wind_speed_mph=wind, slack_min=np.float32(0.1)),
            missing=[["wind_speed_mph"] if n == 13 else [] for n in flights.flight],
            stale=[["wind_speed_mph"] if n == 14 else [] for n in flights.flight],
            age_seconds={"origin_weather": 1800.0},
        )


@dataclass
class FakeModel:
    """Answers the same to everything."""

    answer: float
    metadata: dict[str, Any] = field(default_factory=dict)
    spec: Any = field(default_factory=lambda: SPEC)
    before_answer: Callable[[], object] = lambda: None

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        self.before_answer()
        assert set(self.spec.numeric) | set(self.spec.categorical) <= set(frame.columns)
        return np.full(len(frame), self.answer)

    def predict_members(self, frame: pd.DataFrame) -> np.ndarray:
        """Two members, apart by 0.1."""
        return self.predict(frame)[:, None] + [-0.05, 0.05]


def load_fake(directory: Path) -> FakeModel:
    description = json.loads((directory / "model.json").read_text())
    return FakeModel(description["answer"], description["metadata"])


class FakeRegistry:
    """A folder a version, and a JSON file of aliases: also seen by another process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.down = False
        self.n_downloads = 0

    def add(self, version: str, answer: float) -> None:
        (self.root / version).mkdir(parents=True)
        metadata = {"trained_through": "2013-05-01T00:00:00+00:00", "threshold": 0.3}
        (self.root / version / "model.json").write_text(
            json.dumps({"answer": answer, "metadata": metadata})
        )

    def point(self, alias: str, version: str) -> None:
        aliases = self._aliases() | {alias: version}
        (self.root / "aliases.json").write_text(json.dumps(aliases))

    def resolve(self, alias: str) -> str | None:
        self._answer()
        return self._aliases().get(alias)

    def download(self, version: str, to: Path) -> Path:
        self._answer()
        self.n_downloads += 1
        shutil.copytree(self.root / version, to)
        return to

    def _aliases(self) -> dict[str, str]:
        path = self.root / "aliases.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _answer(self) -> None:
        if self.down:
            raise RegistryUnavailable("the model registry must answer to change models")


def fake_settings(var: Path, **changes: Any) -> Settings:
    return Settings(var=var, **({"champion_poll_s": 0, "shadow": False} | changes))


def app_of_the_environment() -> FastAPI:
    settings = fake_settings(Path(os.environ["ONTIME_VAR"]))
    registry = FakeRegistry(settings.var / "registry")
    return create_app(settings, features=FakeFeatures(), registry=registry, load_model=load_fake)
