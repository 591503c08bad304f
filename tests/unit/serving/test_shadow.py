"""A challenger scores in the background: logged, never returned, never delaying a response."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from ontime.storage.prediction_log import PredictionLog
from serving import shadow
from serving.shadow import QUEUE_SIZE, Shadow
from tests.unit.serving.conftest import OpenApi, metric, state_of
from tests.unit.serving.fakes import FakeModel, FakeRegistry, load_fake, request_body


def shadow_of(api: TestClient) -> Shadow:
    shadow = state_of(api).shadow
    assert shadow is not None
    return shadow


def add_challenger(registry: FakeRegistry, probability: float) -> None:
    registry.add("2", probability)
    registry.set_alias("challenger", "2")


def open_with(open_api: OpenApi, challenger: FakeModel) -> TestClient:
    """An app on which version 2 is the given model."""
    return open_api(
        settings={"shadow": True},
        load_model=lambda path: challenger if path.name == "2" else load_fake(path),
    )


def test_the_challengers_predictions_are_logged_and_the_champions_returned(
    open_api: OpenApi, registry: FakeRegistry, log: PredictionLog
) -> None:
    add_challenger(registry, probability=0.75)
    api = open_api(settings={"shadow": True})

    predictions = api.post("/predict", json=request_body(2)).json()["predictions"]
    shadow_of(api).wait_until_idle()

    assert [p["probability"] for p in predictions] == [0.25, 0.25]
    assert log.shadow_scores("2").to_dict() == {p["prediction_id"]: 0.75 for p in predictions}
    assert metric(api, 'ontime_shadow_requests_total{result="scored"}') == 1


def test_a_slow_challenger_drops_requests_and_delays_none(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    add_challenger(registry, probability=0.75)
    began, resume = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        resume.wait(60)

    slow = FakeModel(0.75)
    api = open_with(open_api, slow)
    slow.before_predict = wait
    responses = [api.post("/predict", json=request_body())]
    assert began.wait(60)  # the worker is busy

    responses += [api.post("/predict", json=request_body()) for _ in range(QUEUE_SIZE + 5)]
    resume.set()
    shadow_of(api).wait_until_idle()

    assert {response.status_code for response in responses} == {200}
    assert metric(api, 'ontime_shadow_requests_total{result="dropped"}') == 5
    assert metric(api, 'ontime_shadow_requests_total{result="scored"}') == QUEUE_SIZE + 1


def test_what_is_queued_is_scored_together(
    open_api: OpenApi, registry: FakeRegistry, log: PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_challenger(registry, probability=0.75)
    began, resume = threading.Event(), threading.Event()
    passes: list[None] = []

    def wait() -> None:
        passes.append(None)
        began.set()
        resume.wait(60)

    monkeypatch.setattr(shadow, "MAX_ROWS", 4)
    challenger = FakeModel(0.75)
    api = open_with(open_api, challenger)
    challenger.before_predict = wait
    names = [p["prediction_id"] for p in post(api, 1)]
    assert began.wait(60)  # the worker is busy, and the following are queued

    for n in (1, 2, 1, 3):  # the first three have 4 rows
        names += [p["prediction_id"] for p in post(api, n)]
    resume.set()
    shadow_of(api).wait_until_idle()

    assert len(passes) == 3
    assert log.shadow_scores("2").to_dict() == dict.fromkeys(names, 0.75)


def post(api: TestClient, n: int) -> list[dict[str, Any]]:
    body = api.post("/predict", json=request_body(n)).json()
    predictions: list[dict[str, Any]] = body["predictions"]
    return predictions


def test_a_failing_challenger_is_counted(open_api: OpenApi, registry: FakeRegistry) -> None:
    add_challenger(registry, probability=0.75)
    failing = FakeModel(0.75)
    api = open_with(open_api, failing)
    failing.before_predict = lambda: 1 / 0

    assert api.post("/predict", json=request_body()).status_code == 200
    shadow_of(api).wait_until_idle()

    assert metric(api, 'ontime_shadow_requests_total{result="failed"}') == 1


def test_a_broken_challenger_is_loaded_once(open_api: OpenApi, registry: FakeRegistry) -> None:
    add_challenger(registry, probability=1.5)
    api = open_api(settings={"shadow": True})
    for _ in range(3):
        shadow_of(api).poll()

    assert registry.n_downloads == 2  # the champion, and the challenger once
    assert api.post("/predict", json=request_body()).status_code == 200


def test_a_challenger_that_became_champion_is_not_scored_in_the_background(
    open_api: OpenApi, registry: FakeRegistry, log: PredictionLog
) -> None:
    add_challenger(registry, probability=0.75)
    api = open_api(settings={"shadow": True})
    registry.set_alias("champion", "2")
    api.post("/model/reload")
    shadow_of(api).poll()

    api.post("/predict", json=request_body())
    shadow_of(api).wait_until_idle()

    assert log.shadow_scores("2").empty


def test_the_shadow_can_be_switched_off(open_api: OpenApi, registry: FakeRegistry) -> None:
    add_challenger(registry, probability=0.75)

    assert state_of(open_api()).shadow is None
    assert registry.n_downloads == 1


def test_one_poll_at_a_time_calls_the_registry(
    open_api: OpenApi, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many reloads at once would otherwise take all of its calls, and a sync would fail."""
    shadow = shadow_of(open_api(settings={"shadow": True}))
    called, resume = threading.Event(), threading.Event()
    calls: list[str] = []

    def resolve(alias: str) -> None:
        calls.append(alias)
        called.set()
        resume.wait(60)

    monkeypatch.setattr(registry, "resolve", resolve)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shadow.poll)
        assert called.wait(60)
        shadow.poll()  # returns at once
        assert not first.done()
        resume.set()
    first.result()
    assert calls == ["challenger"]
    shadow.poll()
    assert len(calls) == 2
