"""The loop closed on ten real days: serve, report, notice, retrain, prove, swap; kills included.

One system, module-wide: its own folder, the real API in a process of its own, the real registry.
The tests tell one story and stand in its order.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from time import perf_counter
from typing import TYPE_CHECKING

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from prefect.testing.utilities import prefect_test_harness

from monitoring.skew import skew
from ontime import registry
from ontime.dataset import askable, build_examples
from ontime.decision_log import ChampionChange, ChampionChanged, DecisionLog
from ontime.feature_store import open_feature_store
from ontime.features import FEATURE_SPEC
from ontime.prediction_log import PredictionLog
from ontime.settings import ROOT, Settings
from ontime.tables import FLIGHTS, read_tables
from ontime.training import TrainConfig
from pipelines import demo as demo_flow
from pipelines import monitor as monitor_flow
from pipelines.materialize import materialize
from pipelines.promote import promote
from pipelines.replay import Client, Progress, as_request, replay, rows_of
from pipelines.retrain import retrain
from pipelines.rollback import rollback
from pipelines.story import measure
from pipelines.train import train
from pipelines.yardstick import yardstick

if TYPE_CHECKING:
    from tests.conftest import Source

# The first champion has seen a month once, so that there is something to improve on.
TRAINED = datetime(2013, 2, 4, tzinfo=UTC)
START = datetime(2013, 2, 11, tzinfo=UTC)
KILLED_AFTER = datetime(2013, 2, 13, tzinfo=UTC)
END = datetime(2013, 2, 21, tzinfo=UTC)


@dataclass(frozen=True)
class System:
    """The settings that everything in this file runs on, and its two logs."""

    settings: Settings
    log: PredictionLog
    decisions: DecisionLog
    api: demo_flow.Supervised

    def get(self, path: str) -> dict[str, object]:
        answer: dict[str, object] = (
            httpx.get(f"{self.settings.api_url}{path}", timeout=30).raise_for_status().json()
        )
        return answer

    def served(self) -> pd.DataFrame:
        return self.log.served(START, END + pd.Timedelta(hours=1), known_by=END)

    def asked(self) -> pd.DataFrame:
        flights = askable(read_tables(self.settings.tables_dir, (FLIGHTS,))["flights"])
        return flights[(flights.event_timestamp > START) & (flights.event_timestamp <= END)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def system(world: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A first champion as of START, and the API serving it."""
    with pytest.MonkeyPatch.context() as patch, prefect_test_harness():
        patch.setenv("ONTIME_API_URL", f"http://127.0.0.1:{free_port()}")
        settings = Settings()
        demo_flow.start_afresh(settings)
        materialize(START, rebuild=False)
        with patch.context() as weak:
            weak.setattr(
                "ontime.training.TrainConfig", partial(TrainConfig, epochs=1, learning_rate=1e-4)
            )
            train(TRAINED, baselines=("logistic", "base_rate"))
        patch.setattr("pipelines.promote.BASELINES_TO_BEAT", ())
        assert promote(START)["promote"]
        log = PredictionLog(settings.log_url)
        with demo_flow.served_api(settings) as api:
            yield System(settings, log, DecisionLog(log), api)


def test_a_replay_killed_in_the_middle_of_a_tick_goes_on_and_nothing_is_lost_or_doubled(
    system: System,
) -> None:
    arguments = ["--start", START.isoformat(), "--end", KILLED_AFTER.isoformat()]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.replay", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("2013-02-12"):  # the first day is done; it is in the next one now
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # Prefect's temporary server outlives its client
    progress = Progress.load(system.settings.var / "replay" / "progress.json")
    assert progress is not None
    assert not progress.finished

    replay(START, KILLED_AFTER)

    served = system.log.served(START, KILLED_AFTER + pd.Timedelta(hours=1), KILLED_AFTER)
    asked = system.asked()
    expected = asked[asked.event_timestamp <= KILLED_AFTER]
    assert sorted(served.flight_id) == sorted(expected.flight_id)


def test_ten_days_of_served_features_equal_the_historical_join_also_with_the_api_killed(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Client.report
    killed_at = iter((250, 300, 350))  # requests answered so far

    def report_then_kill(client: Client, flights: pd.DataFrame) -> None:
        report(client, flights)
        if client.progress.requests >= next_kill[0]:
            next_kill[0] = next(killed_at, 10**9)
            system.api.process.kill()

    next_kill = [next(killed_at)]
    monkeypatch.setattr(Client, "report", report_then_kill)
    # Ten days are shorter than the two weeks that a decision wants: here one week is enough.
    monkeypatch.setattr("monitoring.decision.MIN_DAYS", 5)
    progress = Progress.load(system.settings.var / "replay" / "progress.json")
    assert progress is not None
    progress.end = END.isoformat()
    progress.save(system.settings.var / "replay" / "progress.json")

    result = replay(START, END)

    assert result["failed"] == 0
    assert system.api.restarts == 3
    served = system.served()
    offline = build_examples(open_feature_store(system.settings), system.asked())
    found = skew(served, offline, FEATURE_SPEC)
    assert found.predictions == len(system.asked()) > 5_000
    assert found.mismatched == {}


def test_every_answer_is_what_the_logged_version_says_of_the_logged_features(
    system: System,
) -> None:
    served = system.served()
    for version, rows in served.groupby("model_version"):
        answers = registry.load(system.settings, str(version)).predict(rows)
        assert np.allclose(answers, rows.probability_late, atol=1e-6)
        # And as anybody loads it who knows MLflow and not this project.
        loaded = mlflow.pyfunc.load_model(f"models:/{registry.NAME}/{version}")
        inputs = loaded.metadata.get_input_schema().input_names()
        assert np.allclose(loaded.predict(rows[inputs]), answers, atol=1e-6)


def test_every_outcome_that_became_known_was_recorded_once(system: System) -> None:
    asked = system.asked()
    known = asked[asked.outcome_known_at <= END]
    served = system.served()
    assert served.is_late.notna().sum() == len(known)
    joined = served.dropna(subset=["is_late"]).merge(known, on="flight_id")
    assert (joined.is_late_x.astype(bool) == joined.is_late_y).all()


def test_the_weekly_monitoring_decided_to_retrain_for_stated_reasons(system: System) -> None:
    (decision, *_rest) = system.decisions.decisions()
    assert decision["action"] == "retrain"
    assert decision["reasons"]
    assert decision["evidence"]["performance"]["n_known"] > 2_000
    names = {path.name for path in system.settings.reports_dir.iterdir()}
    assert "monitoring-2013-02-18.json" in names
    assert "drift-2013-02-18.html" in names


def test_the_better_challenger_was_promoted_in_the_ten_days_and_the_api_serves_it(
    system: System,
) -> None:
    (decision, *_rest) = system.decisions.decisions()
    assert decision["result"] == "promoted", decision["result_reasons"]
    assert system.get("/model")["model_version"] == decision["challenger"]
    history = httpx.get(f"{system.settings.api_url}/model/history", timeout=30).json()
    assert [row["version"] for row in history][-1] == decision["challenger"]
    served = system.served()
    assert served.model_version.nunique() == 2
    after = served[served.as_of > decision["decided_at"]]
    assert set(after.model_version) == {decision["challenger"]}


def test_a_challenger_that_is_no_better_is_refused_and_the_champion_stays(
    system: System,
) -> None:
    (decision, *_rest) = system.decisions.decisions()
    result = retrain(decision["decided_at"])  # the same data and seed: the champion once more
    assert not result["promoted"]
    assert "confidence 0.500" in result["reasons"][0]
    assert system.get("/model")["model_version"] == decision["challenger"]


def test_the_story_of_the_ten_days_is_told_from_the_log(system: System, source: "Source") -> None:
    folder = system.settings.var / "replay"
    progress = json.loads((folder / "progress.json").read_text())
    counts = {f"{name} rows": len(table) for name, table in source.tables.items()} | source.counts
    prepared = {"seconds": {}, "counts": counts, "first_version": "1", "began_at": 0.0}
    (folder / "prepared.json").write_text(json.dumps(prepared))

    report = measure(system.settings, prepared, progress, START)

    told = report["replay"]
    assert told["predictions"] == len(system.asked())
    assert (told["lost"], told["doubled"], told["promotions"], told["refusals"]) == (0, 0, 1, 0)
    assert report["parity"]["mismatched"] == 0
    # The last days were answered by a better model than the frozen one.
    assert told["difference"] < 0
    assert {event["kind"] for event in report["events"]} >= {"drift", "retrain", "promoted"}
    for picture in ("replay.png", "replay.html"):
        assert (system.settings.reports_dir / picture).stat().st_size > 10_000

    one_fit = yardstick(days=28)
    assert one_fit["models"] == 1
    assert one_fit["log_loss"]["served"] == pytest.approx(told["serving_log_loss"])
    assert one_fit["log_loss"]["frozen"] == pytest.approx(told["frozen_log_loss"])


class Traffic(threading.Thread):
    """A client that asks without a pause, each question once, until it is told to stop."""

    def __init__(self, system: System, number: int) -> None:
        super().__init__()
        self.system, self.number, self.ending = system, number, threading.Event()
        self.answers: list[tuple[str, int, str]] = []  # key, status, version
        self.seconds: list[float] = []
        (flight,) = rows_of(system.asked().tail(1))
        self.body = {"as_of": END.isoformat(), "flights": [as_request(flight)]}

    def run(self) -> None:
        with httpx.Client(base_url=self.system.settings.api_url, timeout=30) as http:
            while not self.ending.is_set():
                key, began = f"traffic-{self.number}-{len(self.answers)}", perf_counter()
                answer = http.post("/predict", json=self.body, headers={"Idempotency-Key": key})
                self.seconds.append(perf_counter() - began)
                version = answer.json().get("model_version", "")
                self.answers.append((key, answer.status_code, version))

    def end_after(self, n: int) -> None:
        """Stop once n more questions were answered."""
        enough = len(self.answers) + n
        while len(self.answers) < enough and self.is_alive():
            self.join(0.01)
        self.ending.set()
        self.join()


def test_a_decision_is_carried_out_once(system: System) -> None:
    (decision, *_rest) = system.decisions.decisions()
    again = retrain(decision["decided_at"], decision["decision_id"])
    assert again == {"version": None, "promoted": False, "reasons": ["carried out already"]}
    assert system.decisions.decisions()[0]["result"] == "promoted"


def test_a_rollback_under_load_fails_no_request_and_answers_and_log_agree(system: System) -> None:
    (*_, last) = system.decisions.changes()
    clients = [Traffic(system, number) for number in range(2)]
    for client in clients:
        client.start()
    began = perf_counter()
    assert rollback("tried in a test") == last.replaced
    took = perf_counter() - began
    for client in clients:
        client.end_after(20)

    assert system.get("/model")["model_version"] == last.replaced
    assert system.decisions.changes()[-1].kind == "rollback"
    for client in clients:
        assert {status for _, status, _ in client.answers} == {200}
        versions = [version for *_, version in client.answers]
        assert [version for version, _ in groupby(versions)] == [last.version, last.replaced]
        for key, _, version in client.answers:
            assert {row["model_version"] for row in system.log.answered(key)} == {version}
    seconds = [second for client in clients for second in client.seconds]
    print(f"rollback {took:.2f} s; {len(seconds)} answers, median {np.median(seconds):.3f} s, "
          f"longest {max(seconds):.3f} s")  # fmt: skip


def test_of_two_promotions_at_once_one_is_told_to_judge_again(system: System) -> None:
    changes = system.decisions.changes()
    late = ChampionChange(len(changes), "promotion", "99", changes[-1].replaced, END, ["late"])
    with pytest.raises(ChampionChanged, match="judge it again"):
        system.decisions.claim(late)
    assert system.decisions.changes() == changes


def test_a_promotion_while_the_registry_is_unreachable_changes_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ontime import succession

    changes = system.decisions.changes()

    def unreachable(*_: object) -> None:
        raise registry.RegistryUnavailable("no answer")

    monkeypatch.setattr("ontime.registry.set_alias", unreachable)
    with pytest.raises(registry.RegistryUnavailable):
        succession.change_champion(
            system.settings, system.decisions, "promotion", "99", changes[-1].version,
            len(changes) + 1, END, [],
        )  # fmt: skip
    assert system.decisions.changes() == changes


def test_monitoring_without_a_champion_says_what_to_run(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ontime.registry.resolve", lambda *_: None)
    with pytest.raises(LookupError, match="make train"):
        monitor_flow.look.fn(END)


def test_the_question_in_the_readme_is_answered_and_stale_features_are_named(
    system: System,
) -> None:
    question = re.search(r"curl .*? -d '(\{.*?\})'", (ROOT / "README.md").read_text(), re.S)
    assert question
    answer = httpx.post(
        f"{system.settings.api_url}/predict", json=json.loads(question[1]), timeout=30
    )
    (prediction,) = answer.raise_for_status().json()["predictions"]
    assert 0 < prediction["probability_late"] < 1
    # It asks in August, and this online store ends in February.
    assert "origin_n_departed_1h" in prediction["features_stale"]
