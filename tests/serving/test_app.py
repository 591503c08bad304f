"""The API over a fake store, registry and model: answers, retries, refusals, a killed process."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from ontime.encoder import Encoder
from ontime.model import DelayNetwork, FeatureSpec, ModelConfig, TrainedModel
from ontime.prediction_log import LogUnavailable, PredictionLog
from tests.serving.conftest import OpenApi
from tests.serving.fakes import (
    AS_OF,
    FLIGHT,
    FakeFeatures,
    FakeModel,
    FakeRegistry,
    fake_settings,
    question,
)

ROOT = Path(__file__).resolve().parents[2]
KEY = {"Idempotency-Key": "replay-2013-05-01T10"}


def metric(api: TestClient, line: str) -> float:
    """The value of the metric whose line begins so; 0 if there is none."""
    found = re.search(rf"^{re.escape(line)} (\S+)$", api.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


class LogThatCannotWrite(PredictionLog):
    def record(self, predictions: Any, feature_names: Any) -> None:
        raise LogUnavailable("the prediction log does not work: database or disk is full")


def test_importing_the_app_is_light() -> None:
    heavy = "{'feast', 'mlflow', 'torch', 'evidently', 'prefect'} & set(sys.modules)"
    program = f"import sys, serving.app; sys.exit(str({heavy}) if {heavy} else 0)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_an_answer_keeps_the_order_and_says_what_was_not_known(api: TestClient) -> None:
    flights = [FLIGHT | {"flight": number} for number in (13, 1545, 14)]

    answer = api.post("/predict", json=question(*flights))

    assert answer.status_code == 200
    body = answer.json()
    assert body["model_version"] == "1"
    assert [p["probability_late"] for p in body["predictions"]] == [0.25] * 3
    assert [p["uncertainty"] for p in body["predictions"]] == [pytest.approx(0.05)] * 3
    assert [p["features_missing"] for p in body["predictions"]] == [["wind_speed_mph"], [], []]
    assert [p["features_stale"] for p in body["predictions"]] == [[], [], ["wind_speed_mph"]]
    assert metric(api, 'ontime_features_missing_total{feature="wind_speed_mph"}') == 1
    assert metric(api, 'ontime_features_stale_total{feature="wind_speed_mph"}') == 1
    assert metric(api, 'ontime_predictions_total{model_version="1"}') == 3
    assert metric(api, 'ontime_feature_age_seconds{view="origin_weather"}') == 1800


def test_the_log_has_every_prediction_with_its_features(
    api: TestClient, log: PredictionLog
) -> None:
    answer = api.post("/predict", json=question(FLIGHT, FLIGHT), headers={"X-Request-ID": "abc"})

    frame = log.served(AS_OF, AS_OF + timedelta(hours=1))

    answered = [p["prediction_id"] for p in answer.json()["predictions"]]
    assert frame.prediction_id.tolist() == answered
    assert frame.flight_id.tolist() == ["2013-05-01-UA-1545-EWR"] * 2
    assert frame.trace_id.tolist() == ["abc"] * 2 and answer.headers["X-Request-ID"] == "abc"
    assert frame.wind_speed_mph.tolist() == [1545.0] * 2
    assert frame.model_version.tolist() == ["1"] * 2


@pytest.mark.parametrize("unusable", ["", "two words", "x" * 101, "<script>"])
def test_an_unusable_request_id_is_replaced(api: TestClient, unusable: str) -> None:
    answer = api.get("/model", headers={"X-Request-ID": unusable})

    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_a_retry_gets_the_logged_answer_without_predicting(
    api: TestClient, features: FakeFeatures, registry: FakeRegistry
) -> None:
    first = api.post("/predict", json=question(flight=13), headers=KEY)
    registry.add("2", answer=0.75)
    registry.point("champion", "2")
    api.post("/model/reload")

    again = api.post("/predict", json=question(flight=13), headers=KEY)

    assert again.status_code == 200 and again.json() == first.json()
    assert first.json()["predictions"][0]["prediction_id"] == "replay-2013-05-01T10-0"
    assert features.n_reads == 1


def test_a_retry_is_answered_also_when_nothing_else_works(
    open_api: OpenApi, features: FakeFeatures, registry: FakeRegistry
) -> None:
    first = open_api().post("/predict", json=question(), headers=KEY)
    registry.point("champion", "none such")
    features.down = True

    assert open_api().post("/predict", json=question(), headers=KEY).json() == first.json()


def test_a_key_belongs_to_one_request(api: TestClient) -> None:
    assert api.post("/predict", json=question(), headers=KEY).status_code == 200

    other = api.post("/predict", json=question(flight=2), headers=KEY)

    assert other.status_code == 409
    assert "Idempotency-Key" in other.json()["errors"][0]["rule"]
    assert other.json()["errors"][0]["remedy"]


def test_an_unusable_key_is_refused(api: TestClient) -> None:
    answer = api.post("/predict", json=question(), headers={"Idempotency-Key": "two words"})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "idempotency-key"


def test_retries_that_race_get_one_answer(api: TestClient, log: PredictionLog) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(
            clients.map(lambda _: api.post("/predict", json=question(), headers=KEY), range(16))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert log.counts()["predictions"] == 1


def test_nothing_is_answered_that_is_not_logged(open_api: OpenApi, tmp_path: Path) -> None:
    api = open_api(log=LogThatCannotWrite(fake_settings(tmp_path).log_url))

    answer = api.post("/predict", json=question())

    assert answer.status_code == 503
    (error,) = answer.json()["errors"]
    assert "disk is full" in error["rule"] and "free its disk" in error["remedy"]
    assert metric(api, "ontime_log_failures_total") == 1
    assert metric(api, 'ontime_predictions_total{model_version="1"}') == 0


def test_without_the_online_store_there_is_no_answer_until_it_is_back(
    api: TestClient, features: FakeFeatures
) -> None:
    features.down = True
    refused = api.post("/predict", json=question())
    assert (refused.status_code, api.get("/ready").status_code) == (503, 503)
    assert "online store" in refused.json()["errors"][0]["rule"]
    assert api.get("/health").status_code == 200
    assert metric(api, "ontime_online_store_failures_total") == 2

    features.down = False
    assert api.post("/predict", json=question()).status_code == 200
    assert api.get("/ready").json() == {"status": "ready", "model_version": "1"}


def test_without_a_champion_the_api_lives_and_says_what_to_run(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    (registry.root / "aliases.json").unlink()
    api = open_api()

    refused = api.post("/predict", json=question())

    assert (refused.status_code, api.get("/ready").status_code) == (503, 503)
    assert "make" in refused.json()["errors"][0]["remedy"]
    assert api.get("/health").json() == {"status": "alive"}
    assert api.get("/model").json()["model_version"] is None

    registry.point("champion", "1")
    assert api.post("/model/reload").json() == {"model_version": "1", "swapped": True}
    assert api.post("/predict", json=question()).status_code == 200


def test_a_probability_that_is_none_is_no_answer(open_api: OpenApi, log: PredictionLog) -> None:
    model = FakeModel(0.25)
    api = open_api(load_model=lambda _: model)
    model.answer = float("nan")

    answer = api.post("/predict", json=question(), headers={"X-Request-ID": "nan"})

    assert answer.status_code == 500
    assert "trace_id nan" in answer.json()["errors"][0]["remedy"]
    assert log.counts()["predictions"] == 0


def outcome(**changes: Any) -> dict[str, Any]:
    known = {"status": "arrived", "arrival_delay_min": 12, "known_at": "2013-05-01T16:00Z"}
    flight = {name: FLIGHT[name] for name in ("carrier", "flight", "origin", "scheduled_departure")}
    return flight | known | changes


def test_outcomes_are_idempotent_and_a_contradiction_is_named(api: TestClient) -> None:
    api.post("/predict", json=question())
    reports = [outcome(), outcome(flight=7), outcome(), outcome(arrival_delay_min=90)]

    answer = api.post("/outcomes", json={"outcomes": reports})

    assert answer.json() == {
        "accepted": 2,
        "duplicates": 1,
        "contradictions": 1,
        "never_predicted": 1,
        "contradicting": ["2013-05-01-UA-1545-EWR"],
    }
    again = api.post("/outcomes", json={"outcomes": reports}).json()
    assert (again["accepted"], again["duplicates"], again["contradictions"]) == (0, 3, 1)
    assert metric(api, 'ontime_outcomes_total{result="contradictions"}') == 2


def test_reports_are_listed_and_served(api: TestClient, tmp_path: Path) -> None:
    assert api.get("/reports").json() == []
    folder = tmp_path / "reports" / "drift"
    folder.mkdir(parents=True)
    (folder / "2013-05-08.html").write_text("<h1>drift</h1>")
    (folder / "notes.txt").write_text("not a report")

    assert [report["name"] for report in api.get("/reports").json()] == ["drift/2013-05-08.html"]
    page = api.get("/reports/drift/2013-05-08.html")
    assert (page.text, page.headers["content-type"]) == (
        "<h1>drift</h1>",
        "text/html; charset=utf-8",
    )


@pytest.mark.parametrize(
    "name",
    [
        "../secret.json",
        "..%2Fsecret.json",
        "drift/..%2f..%2fsecret.json",
        "%2Fetc%2Fpasswd",
        "link.json",
        "notes.txt",
        "nothing.html",
        "a%00b.html",
        "x" * 5_000,
        "",
    ],
)
def test_nothing_but_reports_is_served(api: TestClient, tmp_path: Path, name: str) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "reports" / "notes.txt").write_text("no")
    (tmp_path / "reports" / "link.json").symlink_to(tmp_path / "secret.json")

    answer = api.get(f"/reports/{name}")

    assert answer.status_code in {200, 404} if name == "" else answer.status_code == 404
    assert "no" != answer.text != "{}"


def test_every_error_has_the_same_shape(api: TestClient) -> None:
    for answer in (api.get("/nowhere"), api.get("/predict"), api.get("/reports/x.html")):
        assert answer.json()["errors"][0]["rule"]


def test_an_explanation_adds_up_to_what_is_answered(open_api: OpenApi) -> None:
    torch.manual_seed(0)
    model = TrainedModel(
        DelayNetwork(ModelConfig(hidden=8), Encoder.fit(np.array([[5.0], [2000.0]])), [2]).eval(),
        FeatureSpec(("wind_speed_mph",), ("carrier",), {"weather": ("wind_speed_mph",)}),
        {"carrier": ["B6", "UA"]},
    )
    api = open_api(load_model=lambda _: model)
    request = {"as_of": AS_OF.isoformat(), "flight": FLIGHT}

    explained = api.post("/explain", json=request).json()

    (answered,) = api.post("/predict", json=question()).json()["predictions"]
    parts = {part["group"]: part["contribution"] for part in explained["contributions"]}
    assert explained["model_version"] == "1"
    assert explained["probability_late"] == pytest.approx(answered["probability_late"], abs=1e-6)
    total = explained["reference_probability"] + sum(parts.values())
    assert total == pytest.approx(explained["probability_late"], abs=1e-12)
    inputs = {part["group"]: part["inputs"] for part in explained["contributions"]}
    assert inputs == {"weather": {"wind_speed_mph": 1545.0}, "carrier": {"carrier": "UA"}}
    unknown = request | {"flight": FLIGHT | {"flight": 13}}
    of_unknown = api.post("/explain", json=unknown).json()
    assert of_unknown["features_missing"] == ["wind_speed_mph"]
    weather = next(p for p in of_unknown["contributions"] if p["group"] == "weather")
    assert weather["inputs"] == {"wind_speed_mph": None}
    assert weather["contribution"] == pytest.approx(0.0, abs=1e-9)


def test_a_flight_that_left_is_not_explained(api: TestClient) -> None:
    late = {"as_of": "2013-05-01T13:00:00Z", "flight": FLIGHT}

    refused = api.post("/explain", json=late)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["rule"].startswith("scheduled_departure is after as_of")
