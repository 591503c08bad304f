"""What the monitoring wrote into the log, and how far the labels lag, as metrics of the API."""

import re
from datetime import UTC, datetime
from typing import Any

from starlette.testclient import TestClient

from ontime.decision_log import DecisionLog
from ontime.prediction_log import PredictionLog
from serving.room import show_last_look
from tests.serving.fakes import AS_OF, FLIGHT, question

LOOKED_AT = datetime(2013, 5, 15, tzinfo=UTC)


def decision(decision_id: str, at: datetime, log_loss: float, drift: Any = None) -> dict[str, Any]:
    seen = {"label_coverage": 0.98, "late_share": 0.3, "mean_prediction": None}
    scores = {"log_loss": {"value": log_loss, "low": 0.4, "high": 0.6}}
    evidence = {"performance": seen | {"scores": scores}, "drift": drift}
    return {
        "decision_id": decision_id,
        "decided_at": at,
        "action": "keep",
        "reasons": [],
        "evidence": evidence,
    }


def value(api: TestClient, line: str) -> float | None:
    found = re.search(rf"^{re.escape(line)} (\S+)$", api.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else None


def test_the_last_look_of_the_monitoring_is_shown(api: TestClient, log: PredictionLog) -> None:
    drift = {"share_drifted": 0.5, "prediction": 0.2}
    DecisionLog(log).record(decision("d1", AS_OF, 0.7, drift))
    show_last_look(api.app.state.room)  # type: ignore[attr-defined]
    assert value(api, 'ontime_monitored{figure="share_drifted"}') == 0.5
    DecisionLog(log).record(decision("d2", LOOKED_AT, 0.5))
    show_last_look(api.app.state.room)  # type: ignore[attr-defined]
    assert value(api, "ontime_monitoring_seconds") == LOOKED_AT.timestamp()
    assert value(api, 'ontime_monitored{figure="log_loss"}') == 0.5
    assert value(api, 'ontime_monitored{figure="late_share"}') == 0.3
    # What was not seen is no zero, and no figure of an earlier look.
    assert value(api, 'ontime_monitored{figure="mean_prediction"}') is None
    assert str(value(api, 'ontime_monitored{figure="share_drifted"}')) == "nan"


def test_before_the_first_look_there_is_no_figure(api: TestClient) -> None:
    show_last_look(api.app.state.room)  # type: ignore[attr-defined]
    assert "ontime_monitored{" not in api.get("/metrics").text


def test_the_lag_of_the_labels_is_between_the_newest_question_and_outcome(api: TestClient) -> None:
    api.post("/predict", json=question())
    known_at = "2013-05-01T08:00:00+00:00"
    flight = {k: FLIGHT[k] for k in ("carrier", "flight", "origin", "scheduled_departure")}
    outcome = {"status": "arrived", "arrival_delay_min": 3.0, "known_at": known_at}
    assert api.post("/outcomes", json={"outcomes": [flight | outcome]}).status_code == 200
    asked = value(api, "ontime_newest_question_seconds")
    told = value(api, "ontime_newest_outcome_seconds")
    assert asked is not None
    assert told is not None
    assert asked - told == 2 * 3600
