"""Trace ids, log lines and metrics."""

import re
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from ontime.problem import EXAMPLE_OUTCOME, Outcome
from ontime.storage.decision_log import DecisionLog
from ontime.storage.prediction_log import PredictionLog
from serving.dependencies import publish_monitoring_metrics
from tests.unit.serving.conftest import metric, state_of
from tests.unit.serving.fakes import AS_OF, request_body
from tests.unit.serving.page_fakes import known_at, outcome_report, prediction_request

LAST_RUN = AS_OF + timedelta(days=14)


def decision(decision_id: str, log_loss: float, drift: Any = None) -> dict[str, Any]:
    performance = {"label_coverage": 0.98, "positive_rate": 0.3, "mean_prediction": None}
    scores = {"log_loss": {"value": log_loss, "low": 0.4, "high": 0.6}}
    return {
        "decision_id": decision_id,
        "action": "keep",
        "reasons": [],
        "evidence": {"performance": performance | {"scores": scores}, "drift": drift},
    }


@pytest.mark.parametrize("invalid", ["", "two words", "x" * 101, "<script>"])
def test_an_invalid_request_id_is_replaced(api: TestClient, invalid: str) -> None:
    response = api.get("/model", headers={"X-Request-ID": invalid})

    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-ID"])


def test_each_request_is_logged_but_not_those_of_machines(api: TestClient) -> None:
    with capture_logs() as lines:
        api.get("/model")
        api.get("/metrics")

    (line,) = [line for line in lines if line["event"] == "request completed"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/model", 200)
    assert line["duration_ms"] > 0


def test_requests_are_counted_and_timed_by_route(api: TestClient) -> None:
    api.post("/predict", json=request_body())
    api.post("/predict", json={})
    api.get("/reports/no/such/report.html")
    api.get("/unknown")
    api.get("/health")

    name = "http_requests_total"
    assert metric(api, name + '{handler="/predict",method="POST",status="2xx"}') == 1
    assert metric(api, name + '{handler="/predict",method="POST",status="4xx"}') == 1
    report = '{handler="/reports/{name:path}",method="GET",status="4xx"}'
    assert metric(api, name + report) == 1
    assert metric(api, name + '{handler="none",method="GET",status="4xx"}') == 1
    assert 'handler="/health"' not in api.get("/metrics").text
    name = "http_request_duration_seconds"
    assert metric(api, name + '_count{handler="/predict",method="POST"}') == 2
    bucket = '_bucket{handler="/predict",le="+Inf",method="POST"}'
    assert metric(api, name + bucket) == 2


def test_the_evidence_of_the_newest_decision_becomes_metrics(
    api: TestClient, log: PredictionLog
) -> None:
    drift = {"share_drifted": 0.5, "prediction": 0.2}
    first = decision("d1", 0.7, drift) | {"decided_at": AS_OF}
    first["evidence"]["inputs"] = {"n_broken": 2}
    DecisionLog(log).record(first)
    publish_monitoring_metrics(state_of(api))
    assert metric(api, 'ontime_model_metric{metric="share_drifted"}') == 0.5
    assert metric(api, 'ontime_model_metric{metric="broken_feeds"}') == 2

    DecisionLog(log).record(decision("d2", 0.5) | {"decided_at": LAST_RUN})
    publish_monitoring_metrics(state_of(api))
    assert metric(api, "ontime_monitoring_last_run_timestamp_seconds") == LAST_RUN.timestamp()
    assert metric(api, 'ontime_model_metric{metric="log_loss"}') == 0.5
    assert metric(api, 'ontime_model_metric{metric="positive_rate"}') == 0.3
    # A value that is unknown now is neither zero nor the earlier one.
    assert metric(api, 'ontime_model_metric{metric="mean_prediction"}') is None
    assert str(metric(api, 'ontime_model_metric{metric="share_drifted"}')) == "nan"


def test_before_the_first_decision_there_is_no_model_metric(api: TestClient) -> None:
    publish_monitoring_metrics(state_of(api))

    assert "ontime_model_metric{" not in api.get("/metrics").text


def test_the_label_delay_is_between_newest_request_and_newest_outcome(api: TestClient) -> None:
    api.post("/predict", json=request_body())
    api.post("/outcomes", json={"outcomes": [EXAMPLE_OUTCOME]})

    newest = Outcome.model_validate(EXAMPLE_OUTCOME).known_at
    assert metric(api, "ontime_newest_prediction_request_seconds") == AS_OF.timestamp()
    assert metric(api, "ontime_newest_outcome_seconds") == newest.timestamp()


def test_an_outcome_that_is_not_accepted_does_not_shorten_the_label_delay(api: TestClient) -> None:
    for hours in (0, 24):
        api.post("/predict", json=prediction_request(hours)).raise_for_status()
    first, second, never_predicted = (outcome_report(hours) for hours in (0, 24, 48))
    api.post("/outcomes", json=first)

    for report in (never_predicted, first):
        api.post("/outcomes", json=report).raise_for_status()
    assert metric(api, "ontime_newest_outcome_seconds") == known_at(0).timestamp()
    together = {"outcomes": second["outcomes"] + never_predicted["outcomes"]}
    assert api.post("/outcomes", json=together).json()["accepted"] == 1
    assert metric(api, "ontime_newest_outcome_seconds") == known_at(24).timestamp()
