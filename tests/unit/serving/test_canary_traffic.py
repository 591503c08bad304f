"""A canary answers its share of the instances: sticky, visible, and without a failed request."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count, groupby
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from ontime.errors import PredictionLogUnavailable
from ontime.problem import EXAMPLE_AS_OF, EXAMPLE_INSTANCE
from ontime.storage.decision_log import ChampionChange, DecisionLog
from ontime.storage.prediction_log import PredictionLog
from serving.model_loader import ModelLoader
from serving.shadow import Shadow
from tests.unit.serving.conftest import OpenApi, deployed_version, metric, state_of
from tests.unit.serving.fakes import (
    AS_OF,
    KNOWN,
    FakeModel,
    FakeRegistry,
    load_fake,
    request_body,
)
from tests.unit.serving.page_fakes import AllFeatures, instance_id, prediction_request, small_model

PROBABILITY = {"1": 0.25, "2": 0.75}
HOURS = [24 * day for day in range(60)]  # one instance each
KEY = {"Idempotency-Key": "one"}


class Rollout:
    """Writes changes of the champion as the flows do."""

    def __init__(self, log: PredictionLog, registry: FakeRegistry) -> None:
        log.migrate()
        registry.add("2", PROBABILITY["2"])
        self.decisions, self.registry = DecisionLog(log), registry
        self.change("promotion", "1")

    def change(self, kind: str, version: str, share: float | None = None) -> ChampionChange:
        number = len(self.decisions.changes()) + 1
        row = ChampionChange(number, kind, version, "1", AS_OF, ["why"], share)
        self.decisions.reserve_change(row)
        if share is None:
            self.registry.set_alias("champion", version)
        return row

    def canary(self, share: float) -> ChampionChange:
        return self.change("canary", "2", share)


@pytest.fixture
def rollout(log: PredictionLog, registry: FakeRegistry) -> Rollout:
    return Rollout(log, registry)


def version_of(api: TestClient, hours: int) -> str:
    """The version that answers for an instance; checked against its probability."""
    body = api.post("/predict", json=prediction_request(hours)).raise_for_status().json()
    (prediction,) = body["predictions"]
    assert prediction["probability"] == PROBABILITY[prediction["model_version"]]
    assert body["model_version"] == prediction["model_version"]
    return str(prediction["model_version"])


def versions(api: TestClient) -> list[str]:
    return [version_of(api, hours) for hours in HOURS]


def expected(change: ChampionChange) -> list[str]:
    return ["2" if change.takes(instance_id(hours)) else "1" for hours in HOURS]


def alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary takes every second instance of a batch."""
    numbers = count()
    monkeypatch.setattr(ChampionChange, "takes", lambda *_: next(numbers) % 2 == 1)


def test_two_replicas_and_a_restart_answer_an_instance_by_the_same_version(
    open_api: OpenApi, rollout: Rollout
) -> None:
    change = rollout.canary(0.4)
    replicas = [open_api(), open_api()]
    assert set(expected(change)) == {"1", "2"}
    for api in (*replicas, open_api()):
        assert versions(api) == expected(change)
    assert deployed_version(api) == "1"
    assert api.get("/model").json()["canary"] == {"model_version": "2", "share": 0.4}


def test_without_the_registry_a_restart_keeps_the_canary(
    open_api: OpenApi, rollout: Rollout, registry: FakeRegistry
) -> None:
    change = rollout.canary(0.4)
    open_api()
    registry.down = True
    api = open_api()
    assert versions(api) == expected(change)
    rollout.decisions.reserve_change(ChampionChange(3, "rollback", "1", "2", AS_OF, ["why"]))
    state_of(api).manager.poll()
    assert set(versions(api)) == {"1"}, "a rollback needs the database only"


def test_a_share_is_widened_promoted_and_rolled_back_without_a_restart(
    api: TestClient, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauge = 'ontime_canary_share{model_version="2"}'
    narrow = rollout.canary(0.2)
    assert set(versions(api)) == {"1"}, "until the next poll"
    api.post("/model/reload").raise_for_status()
    assert versions(api) == expected(narrow)
    assert metric(api, gauge) == 0.2

    wide = rollout.canary(0.6)
    api.post("/model/reload").raise_for_status()
    after = versions(api)
    assert after == expected(wide)
    stayed = [new for new, old in zip(after, expected(narrow), strict=True) if old == "2"]
    assert set(stayed) == {"2"}
    answered = metric(api, 'ontime_predictions_total{model_version="2"}')
    assert answered == expected(narrow).count("2") + after.count("2")

    rollout.change("promotion", "2")
    with monkeypatch.context() as patch:  # what is promoted is the model that answered
        patch.setattr(ModelLoader, "load_and_validate", lambda *_: 1 / 0)
        assert api.post("/model/reload").json() == {"model_version": "2", "swapped": True}
    assert set(versions(api)) == {"2"}
    assert (metric(api, gauge), api.get("/model").json()["canary"]) == (0, None)
    assert [row["version"] for row in api.get("/model/history").json()] == ["1", "2"]


def test_between_the_promotion_and_the_alias_no_instance_goes_back(
    api: TestClient, rollout: Rollout
) -> None:
    change = rollout.canary(0.4)
    api.post("/model/reload").raise_for_status()
    rollout.decisions.reserve_change(ChampionChange(3, "promotion", "2", "1", AS_OF, ["why"]))
    state_of(api).manager.poll()
    assert versions(api) == expected(change)


def test_a_request_may_have_two_versions_and_its_repeat_has_the_same(
    open_api: OpenApi, rollout: Rollout, log: PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout.canary(0.5)
    api = open_api()
    alternate(monkeypatch)
    first = api.post("/predict", json=request_body(5), headers=KEY)
    body = first.json()
    assert body["model_version"] is None
    assert [p["model_version"] for p in body["predictions"]] == ["1", "2", "1", "2", "1"]
    assert [p["probability"] for p in body["predictions"]] == [0.25, 0.75, 0.25, 0.75, 0.25]
    assert [p["decision"] for p in body["predictions"]] == [False, True, False, True, False]

    rollout.change("rollback", "1")
    api.post("/model/reload").raise_for_status()
    again = api.post("/predict", json=request_body(5), headers=KEY)
    assert (again.status_code, again.json()) == (200, body)
    logged = log.served(AS_OF, AS_OF + timedelta(hours=1)).sort_values("position")
    assert logged.model_version.tolist() == ["1", "2", "1", "2", "1"]
    assert (logged.model_seconds > 0).all()
    assert logged.signal.tolist() == [0, 1, 2, 3, 4], "each with its own features"


def test_an_instance_is_flagged_by_what_the_version_that_answers_has_seen(
    open_api: OpenApi, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout.canary(0.5)
    canary = FakeModel(PROBABILITY["2"], vocabularies={key: ["another"] for key in KNOWN})
    api = open_api(load_model=lambda path: canary if path.name == "2" else load_fake(path))
    alternate(monkeypatch)
    predictions = api.post("/predict", json=request_body(4)).json()["predictions"]
    assert [p["outside_training"] for p in predictions] == [False, True, False, True]
    assert api.get("/model").json()["vocabularies"] == KNOWN


@pytest.mark.parametrize("failure", ["raises", "is no probability"])
def test_the_champion_answers_where_the_canary_fails(
    open_api: OpenApi, rollout: Rollout, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    rollout.canary(0.5)
    canary = FakeModel(PROBABILITY["2"])
    api = open_api(load_model=lambda path: canary if path.name == "2" else load_fake(path))
    alternate(monkeypatch)
    if failure == "raises":
        canary.before_predict = lambda: 1 / 0
    else:
        canary.probability = np.nan

    response = api.post("/predict", json=request_body(5))

    assert response.status_code == 200
    assert response.json()["model_version"] == "1"
    assert [p["probability"] for p in response.json()["predictions"]] == [0.25] * 5
    assert metric(api, "ontime_canary_fallbacks_total") == 2


def test_a_canary_that_cannot_be_deployed_leaves_all_instances_to_the_champion(
    api: TestClient, rollout: Rollout, registry: FakeRegistry
) -> None:
    (registry.root / "2" / "model.json").write_text('{"probability": 1.5}')
    rollout.canary(0.5)
    for _ in range(3):
        state_of(api).manager.poll()
        assert api.get("/model").json()["last_sync_error"]["model_version"] == "2"
    assert registry.n_downloads == 2, "the champion, and the canary once"
    assert set(versions(api)) == {"1"}

    rollout.change("rollback", "1")
    for _ in range(2):
        state_of(api).manager.poll()
    assert api.get("/model").json()["last_sync_error"] is None


def test_a_canary_ends_when_the_next_one_cannot_be_deployed(
    api: TestClient, rollout: Rollout, registry: FakeRegistry
) -> None:
    rollout.canary(0.9)
    api.post("/model/reload").raise_for_status()
    assert "2" in versions(api)
    registry.add("3", 1.5)
    rollout.change("rollback", "1")
    rollout.change("canary", "3", 0.9)
    for _ in range(2):
        state_of(api).manager.poll()
        assert set(versions(api)) == {"1"}

    (registry.root / "3" / "model.json").write_text(
        (registry.root / "2" / "model.json").read_text()
    )
    api.post("/model/reload").raise_for_status()
    assert api.get("/model").json()["canary"]["model_version"] == "3", "tried again by a reload"


def test_the_page_of_an_instance_explains_the_version_that_answers(
    open_api: OpenApi, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout.canary(0.5)
    model = small_model()
    api = open_api(features=AllFeatures(), load_model=lambda _: model)
    predicted = api.post("/predict", json=prediction_request(0)).json()["predictions"][0]
    change = {"prediction_id": predicted["prediction_id"], "changes": {}}
    for takes, version in ((False, "1"), (True, "2")):
        monkeypatch.setattr(ChampionChange, "takes", lambda *_, takes=takes: takes)
        assert f"version {version}" in api.get(f"/instances/{instance_id(0)}").text
        assert api.post("/what-if", json=change).json()["model_version"] == version


def test_without_the_database_the_canary_stays(
    api: TestClient, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = rollout.canary(0.4)
    api.post("/model/reload").raise_for_status()

    def unavailable(_: Any) -> None:
        raise PredictionLogUnavailable("the prediction log does not work")

    with monkeypatch.context() as patch:
        patch.setattr(DecisionLog, "changes", unavailable)
        state_of(api).manager.poll()
    assert versions(api) == expected(change)
    assert api.get("/model").json()["last_sync_error"] is None


def test_an_explanation_is_of_the_version_that_answers(
    open_api: OpenApi, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout.canary(0.5)
    api = open_api()
    monkeypatch.setattr("serving.predictor.explain_row", lambda model, _: (model.probability, []))
    for takes, version in ((False, "1"), (True, "2")):
        monkeypatch.setattr(ChampionChange, "takes", lambda *_, takes=takes: takes)
        request = {"as_of": EXAMPLE_AS_OF, "instance": EXAMPLE_INSTANCE}
        explained = api.post("/explain", json=request).json()
        assert explained["model_version"] == version
        assert explained["probability"] == PROBABILITY[version]


def test_a_canary_is_not_scored_in_shadow_and_the_next_challenger_scores_both(
    open_api: OpenApi,
    rollout: Rollout,
    registry: FakeRegistry,
    log: PredictionLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rollout.canary(0.5)
    registry.set_alias("challenger", "2")
    api = open_api(settings={"shadow": True})
    shadow = state_of(api).shadow
    assert isinstance(shadow, Shadow)
    alternate(monkeypatch)
    api.post("/predict", json=request_body(4)).raise_for_status()
    shadow.wait_until_idle()
    assert log.shadow_scores("2").empty

    registry.add("3", 0.5)
    registry.set_alias("challenger", "3")
    shadow.poll()
    ids = [
        p["prediction_id"] for p in api.post("/predict", json=request_body(4)).json()["predictions"]
    ]
    shadow.wait_until_idle()
    assert log.shadow_scores("3").to_dict() == dict.fromkeys(ids, 0.5)


def test_a_rollout_under_load_fails_no_request_and_moves_each_instance_once(
    api: TestClient, rollout: Rollout, log: PredictionLog
) -> None:
    hours = HOURS[:24]
    stop = threading.Event()

    def predict_until_stopped(client: int) -> list[tuple[int, Any]]:
        responses = []
        while not stop.is_set():
            for each in hours[client::4]:
                responses.append((each, api.post("/predict", json=prediction_request(each))))
        return responses

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(predict_until_stopped, client) for client in range(4)]
        for share in (0.2, 0.4, 0.8, None):
            rollout.change("canary" if share else "promotion", "2", share)
            api.post("/model/reload").raise_for_status()
        stop.set()
        found = [each for future in running for each in future.result()]

    assert {response.status_code for _, response in found} == {200}
    logged = log.served(AS_OF, AS_OF + timedelta(days=90)).set_index("prediction_id")
    assert len(logged) == len(found)
    by_instance: dict[int, list[str]] = {}
    for each, response in found:
        (prediction,) = response.json()["predictions"]
        assert prediction["probability"] == PROBABILITY[prediction["model_version"]]
        assert logged.model_version[prediction["prediction_id"]] == prediction["model_version"]
        by_instance.setdefault(each, []).append(prediction["model_version"])
    for answered in by_instance.values():
        assert [version for version, _ in groupby(answered)] in (["1"], ["1", "2"], ["2"])
    info = re.findall(r'champion_info\{model_version="(\d)".*\} (\d)', api.get("/metrics").text)
    assert info == [("1", "0"), ("2", "1")]
