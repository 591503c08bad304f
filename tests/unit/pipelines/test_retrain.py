"""A training is carried out once, and does not depend on the API."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from pipelines import retrain as retrain_flow
from pipelines.retrain import retrain

AS_OF = datetime(2020, 7, 8, tzinfo=UTC)


class Decisions:
    """One decision to retrain; its challenger is None until it is trained."""

    def __init__(self) -> None:
        self.challenger: str | None = None

    def unfinished(self) -> list[dict[str, Any]]:
        return [{"decision_id": "d1", "challenger": self.challenger}]

    def record_challenger(self, decision_id: str, version: str) -> None:
        assert (decision_id, self.challenger) == ("d1", None)
        self.challenger = version


@pytest.fixture
def decisions(monkeypatch: pytest.MonkeyPatch) -> Decisions:
    log = Decisions()
    monkeypatch.setattr(retrain_flow, "open_decision_log", lambda _: log)
    monkeypatch.setattr(retrain_flow, "train", lambda as_of, baselines: "7")
    return log


def test_the_challenger_of_a_decision_is_recorded_also_if_the_api_is_down(
    decisions: Decisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(_: object) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(retrain_flow, "reload_api", down)
    assert retrain.fn(AS_OF, "d1") == {"version": "7"}
    assert decisions.challenger == "7"


def test_a_decision_is_carried_out_once(
    decisions: Decisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloads: list[object] = []
    monkeypatch.setattr(retrain_flow, "reload_api", reloads.append)
    retrain.fn(AS_OF, "d1")
    assert retrain.fn(AS_OF, "d1") == {"version": None, "reason": "carried out already"}
    assert len(reloads) == 1
