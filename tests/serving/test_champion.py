"""Changing the champion: nothing is dropped, nothing broken serves, log and history agree."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from ontime.prediction_log import LogUnavailable, PredictionLog
from serving.champion import Champion
from serving.model_loader import ModelRefused, probe
from tests.serving.conftest import OpenApi
from tests.serving.fakes import AS_OF, FakeModel, FakeRegistry, load_fake, question


def champion_of(api: TestClient) -> Champion:
    champion: Champion = api.app.state.room.champion  # type: ignore[attr-defined]
    return champion


def serving(api: TestClient) -> str | None:
    version: str | None = api.get("/model").json()["model_version"]
    return version


def test_the_model_says_what_it_is_and_since_when(api: TestClient) -> None:
    model = api.get("/model").json()
    (row,) = api.get("/model/history").json()

    assert (model["model_version"], model["threshold"]) == ("1", 0.3)
    assert model["trained_through"] == row["trained_through"] == "2013-05-01T00:00:00+00:00"
    assert model["serving_since"] == row["serving_since"]
    assert (row["reason"], row["until"], model["last_failure"]) == ("start", None, None)
    assert 'ontime_champion_info{model_version="1"' in api.get("/metrics").text


def test_a_promotion_and_a_rollback_are_followed(api: TestClient, registry: FakeRegistry) -> None:
    registry.add("2", answer=0.75)
    for alias_of, answer in (("2", 0.75), ("1", 0.25)):
        registry.point("champion", alias_of)
        assert api.post("/model/reload").json() == {"model_version": alias_of, "swapped": True}
        assert api.post("/model/reload").json() == {"model_version": alias_of, "swapped": False}
        prediction = api.post("/predict", json=question()).json()["predictions"][0]
        assert prediction["probability_late"] == answer

    history = api.get("/model/history").json()
    assert [row["version"] for row in history] == ["1", "2", "1"]
    assert [row["reason"] for row in history] == ["start", "promotion", "rollback"]
    metrics = api.get("/metrics").text
    assert re.findall(r'champion_info\{model_version="(\d)".*\} (\d)', metrics) == [
        ("1", "1"),
        ("2", "0"),
    ]
    assert [row["until"] for row in history[:-1]] == [row["serving_since"] for row in history[1:]]
    assert registry.n_downloads == 2  # the way back needs no download


def test_polling_follows_the_alias_too(api: TestClient, registry: FakeRegistry) -> None:
    registry.add("2", answer=0.75)
    registry.point("champion", "2")

    champion_of(api).poll()

    assert serving(api) == "2"


def test_the_poll_runs_by_itself(open_api: OpenApi, registry: FakeRegistry) -> None:
    api = open_api(settings={"champion_poll_s": 0.001})
    registry.add("2", answer=0.75)
    registry.point("champion", "2")

    deadline = monotonic() + 60
    while serving(api) != "2":
        assert monotonic() < deadline


def test_a_full_disk_does_not_stop_a_swap(
    api: TestClient, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    registry.add("2", answer=0.75)
    registry.point("champion", "2")
    monkeypatch.setattr(champion_of(api).loader.copies, "note_served", full)

    assert api.post("/model/reload").json() == {"model_version": "2", "swapped": True}
    assert [row["version"] for row in api.get("/model/history").json()] == ["1", "2"]


def test_swaps_under_load_fail_no_request_and_history_and_log_agree(
    api: TestClient, registry: FakeRegistry, log: PredictionLog
) -> None:
    registry.add("2", answer=0.75)
    probability = {"1": 0.25, "2": 0.75}
    stop = threading.Event()

    def ask_until_stopped(_: int) -> list[Any]:
        answers = []
        while not stop.is_set():
            answers.append(api.post("/predict", json=question()))
        return answers

    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask_until_stopped, client) for client in range(4)]
        for version in "2121212121":
            registry.point("champion", version)
            assert api.post("/model/reload").json()["swapped"]
        stop.set()
        answers = [answer for future in asking for answer in future.result()]

    assert {answer.status_code for answer in answers} == {200}
    logged = log.served(AS_OF, AS_OF + timedelta(hours=1)).set_index("prediction_id")
    assert len(logged) == len(answers)
    for answer in answers:
        body = answer.json()
        row = logged.loc[body["predictions"][0]["prediction_id"]]
        assert row.model_version == body["model_version"]
        assert row.probability_late == probability[body["model_version"]]
    history = log.history()
    assert [row["version"] for row in history] == list("12121212121")
    for row in logged.itertuples():
        (then,) = [
            stretch["version"]
            for stretch in history
            if stretch["serving_since"] <= row.predicted_at
            and (stretch["until"] is None or row.predicted_at < stretch["until"])
        ]
        assert then == row.model_version


def test_a_request_in_flight_finishes_on_the_model_it_took(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    registry.add("2", answer=0.75)
    began, go_on = threading.Event(), threading.Event()
    old = FakeModel(0.25)
    api = open_api(load_model=lambda path: old if path.name == "1" else load_fake(path))

    def wait() -> None:
        began.set()
        go_on.wait(60)

    old.before_answer = wait

    with ThreadPoolExecutor(1) as client:
        in_flight = client.submit(api.post, "/predict", json=question())
        assert began.wait(60)
        registry.point("champion", "2")
        assert api.post("/model/reload").json()["swapped"]
        assert api.post("/predict", json=question()).json()["model_version"] == "2"
        go_on.set()

    assert in_flight.result().json()["model_version"] == "1"


BROKEN = {
    "not readable": "{",
    "no probability": '{"answer": 1.5, "metadata": {}}',
    "not a number": '{"answer": NaN, "metadata": {}}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_version_never_serves_and_the_old_one_goes_on(
    api: TestClient, registry: FakeRegistry, content: str
) -> None:
    registry.add("2", answer=0.5)
    (registry.root / "2" / "model.json").write_text(content)
    registry.point("champion", "2")

    refused = api.post("/model/reload")

    assert refused.status_code == 503
    assert "version 2 may not serve" in refused.json()["errors"][0]["rule"]
    assert api.post("/predict", json=question()).json()["model_version"] == "1"
    failure = api.get("/model").json()["last_failure"]
    assert failure["model_version"] == "2" and "version 2 may not serve" in failure["rule"]
    assert "ontime_champion_failures_total 1.0" in api.get("/metrics").text
    assert len(api.get("/model/history").json()) == 1


def test_a_refused_version_is_tried_again_by_hand_only(
    api: TestClient, registry: FakeRegistry
) -> None:
    registry.add("2", answer=1.5)
    registry.point("champion", "2")
    for _ in range(3):
        champion_of(api).poll()
    assert registry.n_downloads == 2  # version 1, and version 2 once
    assert api.get("/model").json()["last_failure"]

    (registry.root / "2" / "model.json").write_text('{"answer": 0.75, "metadata": {}}')
    assert api.post("/model/reload").json() == {"model_version": "2", "swapped": True}
    assert api.get("/model").json()["last_failure"] is None


def test_a_model_that_asks_for_features_nobody_serves_is_refused(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    spec = SimpleNamespace(numeric=("tea_leaves",), categorical=())

    api = open_api(load_model=lambda _: FakeModel(0.25, spec=spec))

    assert serving(api) is None
    assert "tea_leaves" in api.get("/model").json()["last_failure"]["rule"]


def test_without_the_registry_the_model_goes_on_and_survives_a_restart(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    since = open_api().get("/model").json()["serving_since"]
    registry.down = True

    api = open_api()

    assert api.post("/model/reload").status_code == 503
    assert api.post("/predict", json=question()).json()["model_version"] == "1"
    model = api.get("/model").json()
    assert model["serving_since"] == since  # a restart continues the row of the history
    assert "registry" in model["last_failure"]["rule"]

    registry.down = False
    champion_of(api).poll()
    assert api.get("/model").json()["last_failure"] is None


def test_a_start_with_a_broken_champion_serves_the_last_good_one(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    assert serving(open_api()) == "1"
    registry.add("2", answer=1.5)
    registry.point("champion", "2")

    assert serving(open_api()) == "1"


def test_a_damaged_copy_is_never_loaded(
    open_api: OpenApi, registry: FakeRegistry, tmp_path: Path
) -> None:
    assert serving(open_api()) == "1"
    copy = tmp_path / "champion" / "1" / "model.json"
    copy.write_text(copy.read_text().replace("0.25", "0.99"))

    registry.down = True
    assert serving(open_api()) is None

    registry.down = False
    api = open_api()
    assert (
        api.post("/predict", json=question()).json()["predictions"][0]["probability_late"] == 0.25
    )
    assert registry.n_downloads == 2


def test_copies_of_versions_long_gone_are_removed(
    api: TestClient, registry: FakeRegistry, tmp_path: Path
) -> None:
    for version in ("2", "3", "4", "5"):
        registry.add(version, answer=0.5)
        registry.point("champion", version)
        api.post("/model/reload")

    assert {p.name for p in (tmp_path / "champion").iterdir() if p.is_dir()} == {"3", "4", "5"}


def test_a_swap_that_the_history_missed_is_written_at_the_next_poll(
    api: TestClient, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: Any) -> None:
        raise LogUnavailable("the prediction log does not work: gone")

    registry.add("2", answer=0.75)
    registry.point("champion", "2")
    with monkeypatch.context() as patch:
        patch.setattr(champion_of(api).loader.log, "began_serving", unavailable)
        assert api.post("/model/reload").status_code == 503
    assert len(api.get("/model/history").json()) == 1

    champion_of(api).poll()

    assert [row["version"] for row in api.get("/model/history").json()] == ["1", "2"]
    assert serving(api) == "2" and api.get("/model").json()["last_failure"] is None


def test_the_probe_asks_recorded_questions_and_invented_ones() -> None:
    asked: list[pd.DataFrame] = []
    model = FakeModel(0.5)
    model.predict = lambda frame: asked.append(frame) or np.full(len(frame), 0.5)  # type: ignore

    probe(model, pd.DataFrame({"wind_speed_mph": [12.0], "carrier": ["UA"], "other": [1]}))

    (frame,) = asked
    assert frame.wind_speed_mph.iloc[0] == 12 and frame.carrier.iloc[0] == "UA"
    assert frame.wind_speed_mph.isna().any() and (frame.carrier == "never seen").any()
    assert list(frame.columns) == ["wind_speed_mph", "carrier"]


def test_the_probe_wants_an_answer_to_every_question() -> None:
    model = FakeModel(0.5)
    model.predict = lambda frame: np.full(len(frame) - 1, 0.5)  # type: ignore[method-assign]

    with pytest.raises(ModelRefused, match="as many answers"):
        probe(model, pd.DataFrame())
