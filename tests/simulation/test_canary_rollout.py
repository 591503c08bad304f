"""Five real days with canaries: a broken one is rolled back, a good one becomes champion.

The gate is told to let every challenger pass: what it does is tested in `test_loop`. The API runs
in its own process and is killed once while a canary runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pandas as pd
import pytest
import torch
from prefect.testing.utilities import prefect_test_harness

from ontime.models.trainer import TrainConfig
from ontime.registry.gate import GateResult
from ontime.registry.run_logger import TrainingResult, log_training
from ontime.settings import Settings
from ontime.storage.decision_log import ChampionChange, DecisionLog, open_decision_log
from ontime.storage.prediction_log import PredictionLog
from pipelines.build_features import fill_online_store
from pipelines.promote import promote
from pipelines.retrain import reload_api
from pipelines.train import train
from simulation.demo import reset_state, running_api
from simulation.progress import Progress
from simulation.replay import Client, replay
from simulation.report import replay_events
from tests.conftest import Dataset
from tests.simulation.test_loop import free_port

DAY = timedelta(days=1)
SHARES = (0.3, 0.6)
N_KILLED_AT = 80  # requests; the third day


@dataclass(frozen=True)
class Rollout:
    """What five days left."""

    settings: Settings
    dataset: Dataset
    start: datetime
    progress: Progress
    log: PredictionLog
    decisions: DecisionLog
    api_restarts: int
    model: dict[str, Any]  # GET /model
    metrics: str

    def served(self) -> pd.DataFrame:
        return self.log.served(self.start, self.start + 6 * DAY)


def register_broken(settings: Settings, result: TrainingResult) -> str:
    """Register the model with a wrong scale: its logits are three too high."""
    with torch.no_grad():
        result.model.network.output.bias.add_(3.0)
    return log_training(settings, result)


@pytest.fixture(scope="module")
def rollout(dataset: Dataset) -> Iterator[Rollout]:
    """Version 1 is champion, version 2 a broken canary; monitoring trains version 3."""
    start = dataset.start + 41 * DAY
    with pytest.MonkeyPatch.context() as patch, prefect_test_harness(server_startup_timeout=120):
        patch.setenv("ONTIME_API_URL", f"http://127.0.0.1:{free_port()}")
        patch.setenv("ONTIME_CANARY_SHARES", ",".join(map(str, SHARES)))
        settings = Settings()
        reset_state(settings)
        fill_online_store.fn(settings, start)
        passed = GateResult(True, ("the gate is told to pass it",), {})
        patch.setattr("pipelines.promote.evaluate", lambda *_: passed)
        train(start - 7 * DAY, baselines=())
        promote(start)
        with patch.context() as broken:
            broken.setattr("pipelines.train.log_training", register_broken)
            broken.setattr("pipelines.train.TrainConfig", partial(TrainConfig, epochs=1))
            train(start, baselines=())
        # Every day instead of every week, and numbers for a problem with little traffic.
        patch.setattr("simulation.replay.MONITORING_INTERVAL", DAY)
        patch.setattr("pipelines.monitor.SHADOW_PERIOD", 2 * DAY)
        patch.setattr("monitoring.canary_guards.MIN_ANSWERED", 10)
        patch.setattr("monitoring.canary_guards.MIN_SLICE_INSTANCES", 30)
        with running_api(settings) as api:
            patch.setattr(Client, "report", killing(api.process.kill))
            promote(start)
            reload_api.fn(settings)
            progress = replay(start, start + 5 * DAY)
            get = partial(httpx.get, headers=settings.client_headers, timeout=30)
            model = get(f"{settings.api_url}/model").raise_for_status().json()
            metrics = get(f"{settings.api_url}/metrics").raise_for_status().text
        log, decisions = PredictionLog(settings.prediction_db_url), open_decision_log(settings)
        restarts = api.restarts
        yield Rollout(settings, dataset, start, progress, log, decisions, restarts, model, metrics)


def killing(kill: Callable[[], None]) -> Callable[[Client, pd.DataFrame], None]:
    """`Client.report` that kills the API once."""
    report, kills = Client.report, [kill]

    def report_and_kill(client: Client, rows: pd.DataFrame) -> None:
        report(client, rows)
        if kills and client.progress.requests >= N_KILLED_AT:
            kills.pop()()

    return report_and_kill


def test_a_broken_canary_is_rolled_back_and_a_good_one_becomes_champion(rollout: Rollout) -> None:
    changes = rollout.decisions.changes()
    assert [(c.kind, c.version, c.replaced, c.share) for c in changes] == [
        ("promotion", "1", None, None),
        ("canary", "2", "1", 0.3),
        ("rollback", "1", "2", None),
        ("canary", "3", "1", 0.3),
        ("canary", "3", "1", 0.6),
        ("promotion", "3", "1", None),
    ]
    days = [(change.as_of - rollout.start) / DAY for change in changes]
    assert days == [0, 0, 1, 2, 3, 4]
    assert any("shift of the mean probability" in reason for reason in changes[2].reasons)
    assert any("log-loss difference" in reason for reason in changes[5].reasons), "outcomes counted"
    assert rollout.model["model_version"] == "3"
    assert rollout.model["canary"] is None


def test_no_request_failed_although_the_api_was_killed_while_a_canary_ran(
    rollout: Rollout,
) -> None:
    assert rollout.progress.failed == 0
    assert rollout.api_restarts == 1
    requests = rollout.dataset.requests
    at = requests.event_timestamp
    asked = requests[requests.eligible & (at > rollout.start) & (at <= rollout.start + 5 * DAY)]
    assert sorted(rollout.served().instance_id) == sorted(asked.instance_id)


def test_every_instance_was_answered_by_the_version_of_its_hash(rollout: Rollout) -> None:
    changes = rollout.decisions.changes()

    def version_of(row: Any) -> str | None:
        last: ChampionChange = [change for change in changes if change.as_of < row.as_of][-1]
        is_champions = last.kind != "canary" or last.takes(row.instance_id)
        return last.version if is_champions else last.replaced

    served = rollout.served()
    assert served.model_version.tolist() == [version_of(row) for row in served.itertuples()]
    for day, share, version in ((1, 0.3, "2"), (3, 0.3, "3"), (4, 0.6, "3")):
        end = rollout.start + day * DAY
        rows = served[(served.as_of > end - DAY) & (served.as_of <= end)]
        n, own = len(rows), (rows.model_version == version).sum()
        assert own / n == pytest.approx(share, abs=4 * (share * (1 - share) / n) ** 0.5)


def test_the_canaries_are_in_the_decisions_the_report_and_the_metrics(rollout: Rollout) -> None:
    (decision, *_) = rollout.decisions.decisions()
    assert (decision["challenger"], decision["result"]) == ("3", "promoted")
    events = replay_events(rollout.decisions)
    found = [(e["kind"], e["label"], e["at"]) for e in events if e["kind"] not in ("alert",)]
    day = [(rollout.start + n * DAY).isoformat() for n in range(5)]
    assert found == [
        ("canary", "v2 30%", day[0]),
        ("retrain", "v3", day[0]),
        ("rollback", "v1", day[1]),
        ("canary", "v3 30%", day[2]),
        ("canary", "v3 60%", day[3]),
        ("promoted", "v3", day[4]),
    ]
    assert "ontime_canary_fallbacks_total 0.0" in rollout.metrics
