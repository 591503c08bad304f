"""The replay's clock waits for a training that takes longer than its simulated time."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from monitoring.retrain_policy import TRAINING_TIME
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog
from simulation import replay as replay_module
from simulation.replay import wait_for_training

DECIDED = datetime(2020, 7, 1, tzinfo=UTC)


class Decisions:
    """A decision whose challenger is registered at the nth look."""

    def __init__(self, registered_at: int) -> None:
        self.registered_at, self.looks = registered_at, 0

    def unfinished(self) -> list[dict[str, Any]]:
        self.looks += 1
        version = "2" if self.looks >= self.registered_at else None
        return [{"decision_id": "d1", "decided_at": DECIDED, "challenger": version}]


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "sleep", lambda _: None)


def test_it_waits_until_the_challenger_is_registered() -> None:
    log = Decisions(registered_at=3)
    wait_for_training(Settings(), cast(DecisionLog, log), DECIDED + TRAINING_TIME)
    assert log.looks == 3


def test_it_does_not_wait_within_the_simulated_time_of_the_training() -> None:
    log = Decisions(registered_at=99)
    wait_for_training(
        Settings(), cast(DecisionLog, log), DECIDED + TRAINING_TIME - timedelta(hours=1)
    )
    assert log.looks == 1


def test_a_training_whose_event_was_lost_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(replay_module, "TRAINING_RESTART_S", -1.0)
    monkeypatch.setattr(replay_module, "start_retrain", lambda *what: started.append(what[1:]))
    wait_for_training(Settings(), cast(DecisionLog, Decisions(3)), DECIDED + TRAINING_TIME)
    assert started == [(DECIDED, "d1")] * 2


def test_a_training_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "TRAINING_TIMEOUT_S", -1.0)
    with pytest.raises(TimeoutError, match="decision d1 did not"):
        wait_for_training(Settings(), cast(DecisionLog, Decisions(99)), DECIDED + TRAINING_TIME)
