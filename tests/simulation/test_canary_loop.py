"""A canary from its first share to its end: API, prediction log, guards and flows, on a fast clock.

The models are formulas, and each simulated day has one instance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from ontime.registry import model_registry
from ontime.registry.champion_history import change_champion
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog
from ontime.storage.prediction_log import PredictionLog
from pipelines import canary as canary_flow
from serving.app import create_app
from tests.unit.serving.conftest import client_of
from tests.unit.serving.fakes import FakeFeatures, FakeModel, FakeRegistry
from tests.unit.serving.page_fakes import instance_id, moment, outcome_report, prediction_request

STEP = 60  # days between two steps of a canary
SHARES = (0.3, 0.6)


class DailyFeatures(FakeFeatures):
    """A signal from 0 to 1 that differs from day to day."""

    def read(self, fields: Mapping[str, np.ndarray], as_of: np.ndarray) -> Any:
        found = super().read(fields, as_of)
        days = as_of.astype("datetime64[D]").astype(np.int64)
        found.numeric[:, 0] = days % 10 / 10
        found.frame["signal"] = found.numeric[:, 0]
        return found


@dataclass
class Formula(FakeModel):
    """Predicts ``scale`` times a line in the signal."""

    scale: float = 1.0
    slope: float = 0.2

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self.scale * (self.probability + self.slope * frame["signal"].to_numpy(np.float64))

    def predict_arrays(
        self, numeric: np.ndarray, categories: Mapping[str, Sequence[object]]
    ) -> np.ndarray:
        one = self.predict(pd.DataFrame({"signal": numeric[:, 0]}))
        return np.stack([one, one], axis=1)


MODELS = {
    "1": Formula(0.50),
    "wrong scale": Formula(0.50, scale=0.1),
    "no probability": Formula(0.50, scale=np.nan),
    "good": Formula(0.51, slope=0.18),
}


@dataclass
class System:
    """The API, the champion's history and the clock, in days."""

    api: TestClient
    settings: Settings
    log: PredictionLog
    decisions: DecisionLog
    day: int = 0
    statuses: frozenset[int] = frozenset()

    def start_canary(self) -> None:
        number = len(self.decisions.changes()) + 1
        change_champion(
            self.settings, self.decisions, "canary", "2", "1", number, moment(24 * self.day),
            ["passed the gate"], SHARES[0],
        )  # fmt: skip
        self.api.post("/model/reload").raise_for_status()

    def play(self) -> str | None:
        """Predictions and outcomes until the next step of the canary, and the step."""
        for _ in range(STEP):
            self.day += 1
            hours = 24 * self.day
            predicted = self.api.post("/predict", json=prediction_request(hours))
            reported = self.api.post("/outcomes", json=outcome_report(hours))
            self.statuses |= {predicted.status_code, reported.status_code}
        now = moment(24 * self.day)
        found = canary_flow.advance_canary(self.settings, self.decisions, now)
        return found.action if found is not None else None

    def versions(self, since_day: int) -> list[str]:
        rows = self.log.served(moment(24 * since_day + 1), moment(24 * self.day + 1))
        return list(rows.model_version)


@pytest.fixture
def system(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[System]:
    """Version 1 is champion; version 2 is the model that the test names."""
    models = {"1": MODELS["1"], "2": MODELS[request.param]}
    registry = FakeRegistry(tmp_path / "registry")
    for version in models:
        registry.add(version, 0.5)
    monkeypatch.setenv("ONTIME_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ONTIME_CANARY_SHARES", ",".join(map(str, SHARES)))
    monkeypatch.setattr(model_registry, "resolve", lambda _, alias: registry.resolve(alias))
    monkeypatch.setattr(
        model_registry, "set_alias", lambda _, alias, version: registry.set_alias(alias, version)
    )
    monkeypatch.setattr(model_registry, "load", lambda _, version: models[version])
    monkeypatch.setattr("monitoring.canary_guards.MIN_ANSWERED", 10)
    monkeypatch.setattr("monitoring.canary_guards.MIN_SLICE_INSTANCES", 40)
    monkeypatch.setattr("serving.model_loader.smoke_test", lambda *_: None)  # a broken one gets in
    settings = Settings(champion_poll_s=0, shadow=False)
    log = PredictionLog(settings.prediction_db_url)
    log.migrate()
    decisions = DecisionLog(log)
    change_champion(settings, decisions, "promotion", "1", None, 1, moment(0), ["the first"])
    app = create_app(
        settings,
        features=DailyFeatures(),
        registry=registry,
        load_model=lambda folder: models[folder.name],
    )
    with client_of(app) as api:
        monkeypatch.setattr(
            canary_flow, "reload_api", lambda _: api.post("/model/reload").raise_for_status()
        )
        yield System(api, settings, log, decisions)
    log.close()


@pytest.mark.parametrize(
    ("system", "reason"),
    [
        ("wrong scale", "probabilities outside the champion's range 1.000"),
        ("no probability", "fallbacks to the champion 1.000"),
    ],
    indirect=["system"],
)
def test_a_broken_canary_is_rolled_back_and_no_request_fails(system: System, reason: str) -> None:
    system.start_canary()
    assert system.play() == "rollback"
    canary, rollback = system.decisions.changes()[1:]
    assert any(reason in each for each in rollback.reasons)
    assert rollback.as_of == moment(24 * STEP)
    taken = [canary.takes(instance_id(24 * day)) for day in range(1, STEP + 1)]
    answered = "2" if reason.startswith("prob") else "1"
    assert system.versions(0) == [answered if own else "1" for own in taken]

    assert system.play() is None
    assert set(system.versions(STEP)) == {"1"}
    assert system.statuses == {200}


@pytest.mark.parametrize("system", ["good"], indirect=True)
def test_a_good_canary_is_widened_and_becomes_champion_and_no_request_fails(
    system: System,
) -> None:
    system.start_canary()
    assert [system.play() for _ in range(3)] == ["widen", "promote", None]
    *_, promotion = changes = system.decisions.changes()
    assert [(c.kind, c.version, c.share) for c in changes[1:]] == [
        ("canary", "2", 0.3),
        ("canary", "2", 0.6),
        ("promotion", "2", None),
    ]
    assert any("log-loss difference" in reason for reason in promotion.reasons)
    for number, change in enumerate(changes[1:3]):
        days = range(number * STEP + 1, (number + 1) * STEP + 1)
        own = [change.takes(instance_id(24 * day)) for day in days]
        versions = system.versions(number * STEP)[:STEP]
        assert versions == ["2" if each else "1" for each in own]
    assert set(system.versions(2 * STEP)) == {"2"}
    assert system.statuses == {200}
    assert system.api.get("/model").json()["model_version"] == "2"
