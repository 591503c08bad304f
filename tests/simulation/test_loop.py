"""The closed loop on ten real days: serve, report, retrain, shadow, promote; processes are killed.

One system for the module: its own data folder, the API in its own process, the real registry. The
tests depend on each other and run in their order.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from time import perf_counter
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from prefect.settings import PREFECT_API_URL

from monitoring.retrain_policy import SHADOW_PERIOD, TRAINING_TIME
from monitoring.skew import skew
from ontime.errors import ChampionChanged, RegistryUnavailable
from ontime.features.historical import build_examples
from ontime.models.trainer import TrainConfig
from ontime.problem import (
    EXAMPLE_AS_OF,
    EXAMPLE_INSTANCE,
    FEATURE_SPEC,
    PREDICTION_INTERVAL,
    request_of,
)
from ontime.registry import model_registry
from ontime.registry.champion_history import change_champion
from ontime.settings import ROOT, Settings
from ontime.storage.decision_log import ChampionChange, DecisionLog, open_decision_log
from ontime.storage.prediction_log import PredictionLog
from pipelines.build_features import fill_online_store
from pipelines.monitor import MONITORING_INTERVAL, collect_signals
from pipelines.promote import promote
from pipelines.retrain import retrain
from pipelines.rollback import rollback
from pipelines.train import train
from simulation.demo import ApiProcess, api_process, reset_state
from simulation.progress import Progress, prepared_file, progress_file
from simulation.replay import Client, replay
from simulation.report import measure
from tests.conftest import Dataset, Source

DAY = timedelta(days=1)
MIN_LABELS = 300  # in one week, of a problem with little traffic


@dataclass(frozen=True)
class System:
    """Settings, logs and API of the system, and the times of its replay."""

    settings: Settings
    dataset: Dataset
    log: PredictionLog
    decisions: DecisionLog
    api: ApiProcess

    @property
    def start(self) -> datetime:
        return self.dataset.start + 41 * DAY

    @property
    def end(self) -> datetime:
        return self.start + 10 * DAY

    def get(self, path: str) -> Any:
        response = httpx.get(
            f"{self.settings.api_url}{path}", headers=self.settings.client_headers, timeout=30
        )
        return response.raise_for_status().json()

    def served(self) -> pd.DataFrame:
        until = self.end + PREDICTION_INTERVAL
        return self.log.served(self.start, until, known_by=self.end)

    def requests(self) -> pd.DataFrame:
        """The prediction requests of the replay."""
        rows = self.dataset.requests
        at = rows.event_timestamp
        return rows[rows.eligible & (at > self.start) & (at <= self.end)]

    def progress(self) -> Progress:
        progress = Progress.load(progress_file(self.settings))
        assert progress is not None
        return progress

    def decision(self) -> dict[str, Any]:
        """The first decision of the weekly monitoring."""
        return self.decisions.decisions()[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def system(dataset: Dataset, prefect_server: None) -> Iterator[System]:
    """A first champion as of the start, and the API that serves it.

    The champion is trained for one epoch, a week before the start, so that it can be improved. Only
    the challenger of the first retrain, which another process trains, gets all rounds and epochs.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONTIME_API_URL", f"http://127.0.0.1:{free_port()}")
        patch.setattr("ontime.models.distillation.LIGHTGBM_ROUNDS", 5)
        settings = Settings()
        reset_state(settings)
        start = dataset.start + 41 * DAY
        fill_online_store.fn(settings, start)
        with api_process(settings) as api:
            api.start()  # as in the demo, before there is a model
            with patch.context() as weak:
                weak.setattr(
                    "pipelines.train.TrainConfig",
                    partial(TrainConfig, epochs=1, learning_rate=1e-4),
                )
                train(start - 7 * DAY, baselines=("logistic", "base_rate"))
            patch.setattr("pipelines.promote.FIRST_GATE_BASELINES", ())
            patch.setattr("pipelines.promote.TREES", ())
            patch.setattr("pipelines.train.TrainConfig", partial(TrainConfig, epochs=2))
            assert promote(start)["promote"]
            api.wait_until_ready()
            decisions = open_decision_log(settings)
            log = PredictionLog(settings.prediction_db_url)
            yield System(settings, dataset, log, decisions, api)


def test_a_replay_killed_within_a_tick_continues_and_nothing_is_lost_or_doubled(
    system: System,
) -> None:
    killed_after = system.start + 2 * DAY
    arguments = ["--start", system.start.isoformat(), "--end", killed_after.isoformat()]
    process = subprocess.Popen(
        [sys.executable, "-m", "simulation.replay", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PREFECT_API_URL": PREFECT_API_URL.value()},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{system.start + DAY:%Y-%m-%d}"):  # it is in the next day now
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    process.wait()
    assert not system.progress().finished

    replay(system.start, killed_after)

    served = system.log.served(system.start, killed_after + PREDICTION_INTERVAL, killed_after)
    requests = system.requests()
    expected = requests[requests.event_timestamp <= killed_after]
    assert sorted(served.instance_id) == sorted(expected.instance_id)


def test_served_features_equal_the_historical_join_also_if_the_api_is_killed(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = system.progress()
    kill_at = [progress.requests + n for n in (150, 250)]
    progress.end = system.end.isoformat()
    progress.save(progress_file(system.settings))
    report = Client.report

    def report_and_kill(client: Client, rows: pd.DataFrame) -> None:
        report(client, rows)
        if kill_at and client.progress.requests >= kill_at[0]:
            kill_at.pop(0)
            assert system.api.process is not None
            system.api.process.kill()

    monkeypatch.setattr(Client, "report", report_and_kill)
    # The gate and the policy need more labels than the replay's first week of February brings.
    monkeypatch.setattr("monitoring.retrain_policy.MIN_MONITORING_DAYS", 5)
    monkeypatch.setattr("monitoring.retrain_policy.MIN_MONITORING_LABELS", MIN_LABELS)

    result = replay(system.start, system.end)

    assert result.failed == 0
    assert system.api.restarts == 2
    offline = build_examples(system.dataset.store, system.requests())
    found = skew(system.served(), offline, FEATURE_SPEC)
    assert found.predictions == len(system.requests()) > 500
    assert found.mismatched == {}


def test_every_logged_probability_is_that_of_its_version_for_the_logged_features(
    system: System,
) -> None:
    for version, rows in system.served().groupby("model_version"):
        probabilities = model_registry.load(system.settings, str(version)).predict(rows)
        assert np.allclose(probabilities, rows.probability, atol=1e-6)
        # The same through MLflow alone, without this project's loader.
        loaded = mlflow.pyfunc.load_model(f"models:/{model_registry.MODEL_NAME}/{version}")
        inputs = loaded.metadata.get_input_schema().input_names()
        assert np.allclose(loaded.predict(rows[inputs]), probabilities, atol=1e-6)


def test_every_outcome_that_became_known_is_recorded_once(system: System) -> None:
    requests = system.requests()
    known = requests[requests.outcome_known_at <= system.end]
    served = system.served()
    assert served.label.notna().sum() == len(known)
    joined = served.dropna(subset=["label"]).merge(known, on="instance_id")
    assert (joined.label_x.astype(bool) == joined.label_y).all()


def test_monitoring_decides_to_retrain_with_reasons(system: System) -> None:
    decision, day = system.decision(), system.start + MONITORING_INTERVAL
    assert decision["decided_at"] == system.start
    assert decision["action"] == "retrain"
    assert [reason["code"] for reason in decision["reasons"]] == ["scheduled"]
    assert all(reason["text"] for reason in decision["reasons"])
    (second,) = (row for row in system.decisions.decisions() if row["decided_at"] == day)
    assert second["evidence"]["champion"] == decision["challenger"], "the gate comes first"
    # The champion was promoted a moment ago: what was served before it is measured.
    assert second["evidence"]["drift"]
    served = system.log.monitored(system.start, day, known_by=day)
    assert second["evidence"]["performance"]["n_served"] == len(served) > 0
    assert "log_loss" in second["evidence"]["performance"]["scores"]
    names = {path.name for path in system.settings.reports_dir.iterdir()}
    assert {f"monitoring-{system.start:%Y-%m-%d}.json", f"monitoring-{day:%Y-%m-%d}.json"} <= names
    assert f"drift-{day:%Y-%m-%d}.html" in names


def test_the_challenger_was_trained_on_every_outcome_known_at_the_decision(system: System) -> None:
    rows = system.dataset.requests
    known = rows[rows.eligible & (rows.outcome_known_at <= system.start)]
    challenger = system.decision()["challenger"]
    parameters = model_registry.metadata(system.settings, challenger)
    assert parameters["trained_through"] == system.start.isoformat()
    assert parameters["scores"]["n"] == len(known)


def test_the_gate_read_shadow_predictions_of_the_same_requests(system: System) -> None:
    """What the API logged in the background is what the challenger predicts for the features."""
    challenger, until = system.decision()["challenger"], system.start + SHADOW_PERIOD
    served = system.log.served(system.start + TRAINING_TIME, until, known_by=until)
    logged = system.log.shadow_scores(challenger).reindex(served.prediction_id)
    scored = logged.notna().to_numpy()
    assert scored.mean() > 0.5, "the shadow deployment scored most of its period"
    expected = model_registry.load(system.settings, challenger).predict(served[scored])
    assert np.allclose(logged[scored], expected, atol=1e-6)


def test_the_better_challenger_is_promoted_within_the_ten_days_and_served(system: System) -> None:
    decision = system.decision()
    assert decision["result"] == "promoted", decision["result_reasons"]
    (_, promotion) = system.decisions.changes()
    assert promotion.as_of == decision["decided_at"] + SHADOW_PERIOD
    assert promotion.version == decision["challenger"], "the very model that was evaluated"
    assert system.get("/model")["model_version"] == decision["challenger"]
    assert system.get("/model/history")[-1]["version"] == decision["challenger"]
    served = system.served()
    assert served.model_version.nunique() == 2
    after = served[served.as_of > promotion.as_of]
    assert set(after.model_version) == {decision["challenger"]}


def test_a_challenger_that_is_worse_is_rejected_and_the_champion_stays(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first version, which was trained for one epoch, against the champion."""
    # Three days since the promotion; a problem with little traffic asks for more.
    monkeypatch.setattr("ontime.registry.gate.MIN_GATE_INSTANCES", 100)
    champion = system.decision()["challenger"]
    result = promote(system.end, system.decisions.changes()[0].version)
    assert not result["promote"]
    assert "log-loss difference" in result["reasons"][0]
    assert result["evidence"]["shadow"]["computed_from_logged_features"] == result["evidence"]["n"]
    assert system.get("/model")["model_version"] == champion


def test_the_report_of_the_ten_days_is_made_from_the_log(system: System, source: Source) -> None:
    counts = {f"{name} rows": len(table) for name, table in source.tables.items()} | source.counts
    prepared = {"seconds": {}, "counts": counts, "first_version": "1", "began_at": 0.0}
    prepared_file(system.settings).write_text(json.dumps(prepared))

    report = measure(system.settings, prepared, system.progress())

    found = report["replay"]
    assert found["predictions"] == len(system.requests())
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert (found["promotions"], found["rejections"]) == (1, 0)
    assert report["parity"]["mismatched"] == 0
    challenger = system.decision()["challenger"]
    assert found["frozen_version"] == challenger, "trained on everything known at the start"
    better = "the last days were predicted by the better model"
    assert found["frozen_log_loss"] < found["serving_log_loss"], better
    assert found["serving_log_loss"] < found["first_version_log_loss"], better
    (result,) = report["gate_results"]
    assert (result["version"], result["champion"]) == (challenger, "1")
    assert result["difference"] < 0 and result["right"]
    by_kind = {event["kind"]: event for event in report["events"] if event["label"]}
    assert by_kind["promoted"]["at"] == (system.start + SHADOW_PERIOD).isoformat()
    assert {event["kind"] for event in report["events"]} >= {"retrain", "promoted"}
    assert 0 < report["serving"]["p50_ms"] <= report["serving"]["p99_ms"]
    for picture in ("replay.png", "replay.html"):
        assert (system.settings.reports_dir / picture).stat().st_size > 10_000


class Traffic(threading.Thread):
    """A client that predicts without a pause, with a new idempotency key each time."""

    def __init__(self, system: System, number: int) -> None:
        super().__init__()
        self.system, self.number, self.stopping = system, number, threading.Event()
        self.responses: list[tuple[str, int, str]] = []  # key, status, version
        self.seconds: list[float] = []
        (row,) = system.requests().tail(1).to_dict("records")
        as_of = row["event_timestamp"].isoformat()
        self.body = {"as_of": as_of, "instances": [request_of(row)]}

    def run(self) -> None:
        settings = self.system.settings
        url, headers = settings.api_url, settings.client_headers
        with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
            while not self.stopping.is_set():
                key, started = f"traffic-{self.number}-{len(self.responses)}", perf_counter()
                response = http.post("/predict", json=self.body, headers={"Idempotency-Key": key})
                self.seconds.append(perf_counter() - started)
                version = response.json().get("model_version", "")
                self.responses.append((key, response.status_code, version))

    def stop_after(self, n: int) -> None:
        """Stop after n more responses."""
        enough = len(self.responses) + n
        while len(self.responses) < enough and self.is_alive():
            self.join(0.01)
        self.stopping.set()
        self.join()


def test_a_decision_is_carried_out_once(system: System) -> None:
    decision = system.decision()
    again = retrain(decision["decided_at"], decision["decision_id"])
    assert again == {"version": None, "reason": "carried out already"}
    assert system.decision()["result"] == "promoted"


def test_a_rollback_under_load_fails_no_request_and_the_log_agrees(system: System) -> None:
    (*_, last) = system.decisions.changes()
    clients = [Traffic(system, number) for number in range(2)]
    for client in clients:
        client.start()
    started = perf_counter()
    assert rollback("tried in a test") == last.replaced
    took = perf_counter() - started
    for client in clients:
        client.stop_after(20)

    assert system.get("/model")["model_version"] == last.replaced
    assert system.decisions.changes()[-1].kind == "rollback"
    for client in clients:
        assert {status for _, status, _ in client.responses} == {200}
        versions = [version for *_, version in client.responses]
        assert [version for version, _ in groupby(versions)] == [last.version, last.replaced]
        for key, _, version in client.responses:
            assert {
                row["model_version"]
                for row in system.log.responses([f"local:{key}"])[f"local:{key}"]
            } == {version}
    seconds = [second for client in clients for second in client.seconds]
    print(f"rollback {took:.2f} s; {len(seconds)} responses, median {np.median(seconds):.3f} s, "
          f"longest {max(seconds):.3f} s")  # fmt: skip


def test_of_two_concurrent_promotions_one_has_to_evaluate_again(system: System) -> None:
    changes = system.decisions.changes()
    second = ChampionChange(
        len(changes), "promotion", "99", changes[-1].replaced, system.end, ["second"]
    )
    with pytest.raises(ChampionChanged, match="evaluate it again"):
        system.decisions.reserve_change(second)
    assert system.decisions.changes() == changes


def test_a_promotion_while_the_registry_is_unreachable_changes_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = system.decisions.changes()

    def unreachable(*_: object) -> None:
        raise RegistryUnavailable("no response")

    monkeypatch.setattr("ontime.registry.model_registry.set_alias", unreachable)
    with pytest.raises(RegistryUnavailable):
        change_champion(
            system.settings, system.decisions, "promotion", "99", changes[-1].version,
            len(changes) + 1, system.end, [],
        )  # fmt: skip
    assert system.decisions.changes() == changes


def test_monitoring_without_a_champion_says_what_to_run(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ontime.registry.model_registry.resolve", lambda *_: None)
    with pytest.raises(LookupError, match="make train"):
        collect_signals.fn(system.settings, system.end)


def test_the_documented_example_is_predicted_and_its_stale_features_are_named(
    system: System,
) -> None:
    body = {"as_of": EXAMPLE_AS_OF, "instances": [EXAMPLE_INSTANCE]}
    url, headers = f"{system.settings.api_url}/predict", system.settings.client_headers
    response = httpx.post(url, json=body, headers=headers, timeout=30)
    (prediction,) = response.raise_for_status().json()["predictions"]
    assert 0 < prediction["probability"] < 1
    assert prediction["features_stale"], "the online store ends long before the example"
