"""Dynamic batching: what arrives together is predicted together, and each client gets its own."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ontime.storage.prediction_log import PredictionLog
from serving import batching
from serving.batching import Batcher, Job, QueueFull, Result
from serving.problems import TooManyRequests
from serving.schemas import PredictRequest, PredictResponse
from tests.unit.serving.conftest import OpenApi, metric, state_of
from tests.unit.serving.fakes import (
    AS_OF,
    FakeFeatures,
    FakeModel,
    FakeRegistry,
    make_caller,
    request_body,
)

CALLER = make_caller()


def job(name: str, n: int = 1) -> Job:
    return Job(PredictRequest.model_validate(request_body(n)), None, name, CALLER)


class Recorder:
    """Processes a batch once it is allowed to; the response to a job names its trace id."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started, self.allowed = threading.Event(), threading.Event()

    def __call__(self, jobs: Sequence[Job]) -> list[Result]:
        self.batches.append([job.trace_id for job in jobs])
        self.started.set()
        assert self.allowed.wait(60)
        return [
            ValueError(job.trace_id)
            if job.trace_id.startswith("bad")
            else PredictResponse(model_version=job.trace_id, predictions=[])
            for job in jobs
        ]


async def submit_behind_the_first(recorder: Recorder, jobs: Sequence[Job]) -> list[Any]:
    """The results of a first job and of jobs that arrive while it is processed."""
    batcher = Batcher(recorder)
    batcher.start()
    first = asyncio.create_task(batcher.submit(job("first")))
    while not recorder.started.is_set():
        await asyncio.sleep(0.001)
    tasks = [asyncio.create_task(batcher.submit(each)) for each in jobs]
    await asyncio.sleep(0.01)
    recorder.allowed.set()
    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    batcher.stop()
    return results


def test_what_arrives_during_a_batch_is_the_next_batch() -> None:
    recorder = Recorder()

    results = asyncio.run(
        submit_behind_the_first(recorder, [job("a"), job("bad"), job("b"), job("c")])
    )

    assert recorder.batches == [["first"], ["a", "bad", "b", "c"]]
    assert [getattr(each, "model_version", str(each)) for each in results] == [
        "first",
        "a",
        "bad",
        "b",
        "c",
    ]


def test_what_arrives_within_a_few_iterations_of_the_event_loop_is_one_batch() -> None:
    recorder = Recorder()
    recorder.allowed.set()

    async def main() -> None:
        batcher = Batcher(recorder)
        batcher.start()
        tasks = []
        for name in "abcd":
            tasks.append(asyncio.create_task(batcher.submit(job(name))))
            for _ in range(batching.QUIET_ITERATIONS):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        batcher.stop()

    asyncio.run(main())
    assert recorder.batches == [["a", "b", "c", "d"]]


def test_a_batch_is_at_most_the_maximum_and_keeps_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH", 4)
    recorder = Recorder()

    jobs = [job("two", 2), job("three", 3), job("one"), job("four", 4), job("last")]
    asyncio.run(submit_behind_the_first(recorder, jobs))

    assert recorder.batches == [["first"], ["two"], ["three", "one"], ["four"], ["last"]]


def test_a_full_queue_refuses_and_accepts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED", 3)
    recorder = Recorder()

    results = asyncio.run(submit_behind_the_first(recorder, [job("two", 2), job("over"), job("x")]))

    assert [type(each) for each in results[1:]] == [PredictResponse, QueueFull, QueueFull]
    assert "at most 3 instances wait" in str(results[2])
    asyncio.run(submit_behind_the_first(recorder, [job("again", 2)]))
    assert "again" in [name for batch in recorder.batches for name in batch]


def test_one_key_cannot_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED_PER_KEY", 3)
    recorder = Recorder()
    other = Job(PredictRequest.model_validate(request_body()), None, "other", make_caller())

    results = asyncio.run(submit_behind_the_first(recorder, [job("two", 2), job("over"), other]))

    assert [type(each) for each in results[1:]] == [
        PredictResponse,
        TooManyRequests,
        PredictResponse,
    ]
    assert CALLER.queued == 0
    asyncio.run(submit_behind_the_first(recorder, [job("again", 2)]))


def test_stopping_processes_what_is_queued() -> None:
    recorder = Recorder()
    recorder.allowed.set()

    async def main() -> PredictResponse:
        batcher = Batcher(recorder)
        batcher.start()
        task = asyncio.create_task(batcher.submit(job("queued")))
        await asyncio.sleep(0)
        await asyncio.to_thread(batcher.stop)
        return await task

    assert asyncio.run(main()).model_version == "queued"


# In the app.


class Blocked:
    """A running app whose first prediction waits; what is sent meanwhile is one batch."""

    def __init__(self, open_api: OpenApi, **services: Any) -> None:
        self.entered, self.released = threading.Event(), threading.Event()
        self.models: list[FakeModel] = []
        self.api = open_api(load_model=self._load, **services)
        self.clients = ThreadPoolExecutor(16)
        self.first = self.send(headers={"X-Request-ID": "first"})
        assert self.entered.wait(60)

    def _load(self, folder: Any) -> FakeModel:
        model = FakeModel(0.25 if folder.name == "1" else 0.75)
        self.models.append(model)
        if len(self.models) == 1:
            steps = iter([self._wait])
            model.before_predict = lambda: next(steps, int)()
            model.predict = lambda frame: np.full(len(frame), 0.5)  # type: ignore[method-assign]
        return model

    def _wait(self) -> None:
        self.entered.set()
        assert self.released.wait(60)

    def send(self, n: int = 1, headers: dict[str, str] | None = None) -> "Future[Any]":
        return self.clients.submit(self.api.post, "/predict", json=request_body(n), headers=headers)

    def queue_is(self, n: int) -> None:
        """Wait until n instances have no result."""
        while state_of(self.api).batcher._queued != n:
            threading.Event().wait(0.001)


def test_concurrent_requests_need_one_read_and_one_commit(
    open_api: OpenApi, features: FakeFeatures, log: PredictionLog
) -> None:
    blocked = Blocked(open_api)
    keys = [{"Idempotency-Key": f"k{i}", "X-Request-ID": f"t{i}"} for i in range(4)]
    waiting = [blocked.send(n=2, headers=headers) for headers in keys]
    blocked.queue_is(1 + 8)
    blocked.released.set()

    responses = [each.result() for each in waiting]

    assert {each.status_code for each in responses} == {200}
    assert features.n_reads == 2  # of the first request, and of the four others
    for i, response in enumerate(responses):
        ids = [p["prediction_id"] for p in response.json()["predictions"]]
        assert (
            ids == [f"local:k{i}-0", f"local:k{i}-1"]
            and response.headers["X-Request-ID"] == f"t{i}"
        )
        rows = log.responses([f"local:k{i}"])[f"local:k{i}"]
        assert [row["prediction_id"] for row in rows] == ids
    logged = log.served(AS_OF, AS_OF.replace(year=AS_OF.year + 1))
    assert logged.predicted_at.nunique() == 2


def test_one_key_twice_in_a_batch_is_predicted_once(open_api: OpenApi, log: PredictionLog) -> None:
    blocked = Blocked(open_api)
    key = {"Idempotency-Key": "same"}
    waiting = [blocked.send(headers=key), blocked.send(headers=key), blocked.send(2, headers=key)]
    blocked.queue_is(1 + 4)
    blocked.released.set()

    responses = [each.result() for each in waiting]

    assert sorted(each.status_code for each in responses) in ([200, 200, 409], [200, 409, 409])
    assert log.counts()["predictions"] == 1 + len(log.responses(["local:same"])["local:same"])
    assert len({each.text for each in responses if each.status_code == 200}) == 1


def test_a_failing_request_of_a_batch_fails_alone(open_api: OpenApi, log: PredictionLog) -> None:
    blocked = Blocked(open_api)
    model = blocked.models[0]
    good = model.predict_arrays

    def fails_on_three(numeric: np.ndarray, categories: Any) -> np.ndarray:
        if len(numeric) >= 3:
            raise ArithmeticError("three instances at once")
        return good(numeric, categories)

    model.predict_arrays = fails_on_three  # type: ignore[method-assign]
    waiting = [blocked.send(n=n) for n in (1, 3, 2)]
    blocked.queue_is(1 + 6)
    blocked.released.set()

    assert [each.result().status_code for each in waiting] == [200, 500, 200]
    assert log.counts()["predictions"] == 1 + 1 + 2


def test_a_value_that_is_no_probability_fails_its_own_request(
    open_api: OpenApi, log: PredictionLog
) -> None:
    blocked = Blocked(open_api)

    def nan_in_the_second_row(numeric: np.ndarray, categories: Any) -> np.ndarray:
        members = np.full((len(numeric), 2), 0.25)
        members[1:2] = np.nan
        return members

    blocked.models[0].predict_arrays = nan_in_the_second_row  # type: ignore[method-assign]
    waiting = []
    for i in range(3):  # in this order
        waiting.append(blocked.send())
        blocked.queue_is(2 + i)
    blocked.released.set()

    assert [each.result().status_code for each in waiting] == [200, 500, 200]
    assert log.counts()["predictions"] == 3


def test_a_swap_is_between_batches(open_api: OpenApi, registry: FakeRegistry) -> None:
    blocked = Blocked(open_api)
    registry.add("2", probability=0.75)
    registry.set_alias("champion", "2")
    assert blocked.api.post("/model/reload").json()["swapped"]
    waiting = [blocked.send(n=2) for _ in range(3)]
    blocked.queue_is(1 + 6)
    blocked.released.set()

    assert blocked.first.result().json()["model_version"] == "1"
    assert {each.result().json()["model_version"] for each in waiting} == {"2"}


def test_a_full_queue_is_a_503_with_a_time_to_retry_after(
    open_api: OpenApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED", 1)
    blocked = Blocked(open_api)

    response = blocked.send().result()

    blocked.released.set()
    assert response.status_code == 503 and response.headers["Retry-After"] == "1"
    assert response.json()["type"] == "/problems/queue-full"
    assert blocked.first.result().status_code == 200
    assert blocked.send().result().status_code == 200


def test_a_store_that_is_down_is_asked_once_for_a_batch(
    open_api: OpenApi, features: FakeFeatures
) -> None:
    blocked = Blocked(open_api)
    waiting = [blocked.send() for _ in range(4)]
    blocked.queue_is(1 + 4)
    features.down = True
    blocked.released.set()

    assert {each.result().status_code for each in waiting} == {503}
    assert metric(blocked.api, "ontime_online_store_failures_total") == 1
