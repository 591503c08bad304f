"""A challenger scores in the background: logged, never returned, never in the way."""

import threading

from starlette.testclient import TestClient

from ontime.prediction_log import PredictionLog
from serving.shadow import QUEUED, Shadow
from tests.serving.conftest import OpenApi
from tests.serving.fakes import FLIGHT, FakeModel, FakeRegistry, load_fake, question


def shadow_of(api: TestClient) -> Shadow:
    shadow: Shadow = api.app.state.room.shadow  # type: ignore[attr-defined]
    return shadow


def with_challenger(registry: FakeRegistry, answer: float) -> None:
    registry.add("2", answer)
    registry.point("challenger", "2")


def test_the_challenger_is_logged_and_the_champion_answers(
    open_api: OpenApi, registry: FakeRegistry, log: PredictionLog
) -> None:
    with_challenger(registry, answer=0.75)
    api = open_api(settings={"shadow": True})

    answer = api.post("/predict", json=question(FLIGHT, FLIGHT)).json()
    shadow_of(api).settle()

    assert [p["probability_late"] for p in answer["predictions"]] == [0.25, 0.25]
    scores = log.shadow_scores("2")
    assert scores.to_dict() == {p["prediction_id"]: 0.75 for p in answer["predictions"]}
    assert 'ontime_shadow_requests_total{result="scored"} 1.0' in api.get("/metrics").text


def test_a_slow_challenger_loses_requests_and_never_delays_one(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    with_challenger(registry, answer=0.75)
    go_on = threading.Event()
    slow = FakeModel(0.75)
    api = open_api(
        settings={"shadow": True},
        load_model=lambda path: slow if path.name == "2" else load_fake(path),
    )
    slow.before_answer = lambda: go_on.wait(60)
    n = QUEUED + 5

    answers = [api.post("/predict", json=question()) for _ in range(n)]
    go_on.set()
    shadow_of(api).settle()

    assert {answer.status_code for answer in answers} == {200}
    metrics = api.get("/metrics").text
    dropped = next(
        n_dropped
        for n_dropped in (4, 5)  # the worker may or may not have taken the first one in time
        if f'ontime_shadow_requests_total{{result="dropped"}} {n_dropped}.0' in metrics
    )
    assert f'ontime_shadow_requests_total{{result="scored"}} {n - dropped}.0' in metrics


def test_a_failing_challenger_is_counted_and_harms_nobody(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    with_challenger(registry, answer=0.75)
    failing = FakeModel(0.75)
    api = open_api(
        settings={"shadow": True},
        load_model=lambda path: failing if path.name == "2" else load_fake(path),
    )
    failing.before_answer = lambda: 1 / 0

    assert api.post("/predict", json=question()).status_code == 200
    shadow_of(api).settle()

    assert 'ontime_shadow_requests_total{result="failed"} 1.0' in api.get("/metrics").text


def test_a_broken_challenger_is_not_loaded_again_and_again(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    with_challenger(registry, answer=1.5)
    api = open_api(settings={"shadow": True})
    for _ in range(3):
        shadow_of(api).poll()

    assert registry.n_downloads == 2  # the champion, and the challenger once
    assert api.post("/predict", json=question()).status_code == 200


def test_a_challenger_that_became_champion_casts_no_shadow(
    open_api: OpenApi, registry: FakeRegistry, log: PredictionLog
) -> None:
    with_challenger(registry, answer=0.75)
    api = open_api(settings={"shadow": True})
    registry.point("champion", "2")
    api.post("/model/reload")
    shadow_of(api).poll()

    api.post("/predict", json=question())
    shadow_of(api).settle()

    assert log.shadow_scores("2").empty


def test_the_shadow_can_be_switched_off(open_api: OpenApi, registry: FakeRegistry) -> None:
    with_challenger(registry, answer=0.75)

    assert shadow_of(open_api()) is None
    assert registry.n_downloads == 1
