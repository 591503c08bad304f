"""Dynamic batching: requests that arrive together are predicted together.

One thread processes one batch at a time. While it works, requests queue; the next batch takes all
of them, up to a number of instances. A busy service therefore needs one read of the online store,
one forward pass and one commit for many requests. Triton, Ray Serve and BentoML call the same
scheme dynamic or adaptive batching; unlike there, waiting for more requests while nothing else is
to be done (`max_wait_s`) is off by default.

A batch starts when the event loop has passed on every request that has arrived. Responses of one
batch leave together and the next requests of their clients arrive together: a batch that started
with the first of them would hold one request, and the others would wait for its commit.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.keyring import Caller
from serving.problems import TooManyRequests
from serving.schemas import MAX_INSTANCES, PredictRequest, PredictResponse

MAX_BATCH = MAX_INSTANCES  # the largest request is a batch of its own
MAX_QUEUED = 4_096  # instances
MAX_QUEUED_PER_KEY = MAX_QUEUED // 2  # of one client; the rest is for others


class QueueFull(RuntimeError):
    """More requests arrive than are predicted."""


@dataclass(frozen=True)
class Job:
    """A request with what its client sent in headers."""

    request: PredictRequest
    key: str | None  # Idempotency-Key, see `scoped_key`
    trace_id: str
    caller: Caller

    @property
    def size(self) -> int:
        return len(self.request.instances)


def scoped_key(caller: Caller, key: str | None) -> str | None:
    """An Idempotency-Key as the request id in the prediction log: each client has its own keys."""
    return key and f"{caller.client}:{key}"


Result = PredictResponse | Exception
Waiting = tuple[Job, "asyncio.Future[PredictResponse]"]
# A request is read from its socket in one iteration of the event loop and reaches `submit` in the
# next, and a callback runs before what its iteration read: after three, nothing is on its way.
QUIET_ITERATIONS = 3


class Batcher:
    """Jobs that wait, and the thread that processes them in batches.

    All attributes belong to the event loop; the thread receives batches and returns results.

    Args:
        process: returns the result of each job, in order; raises nothing.
        max_wait_s: how long a job may wait for others while the thread is idle.
    """

    def __init__(
        self, process: Callable[[Sequence[Job]], Sequence[Result]], max_wait_s: float = 0.0
    ) -> None:
        self._process, self._max_wait_s = process, max_wait_s
        self._waiting: deque[Waiting] = deque()
        self._queued = 0  # instances that were submitted and have no result
        self._busy = False  # a batch is gathered or processed
        self._batches: queue.SimpleQueue[list[Waiting] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def start(self) -> None:
        """Start the thread; call it where the event loop runs."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Process what waits, then end the thread."""
        while self._waiting:
            self._batches.put(self._next_batch())
        self._batches.put(None)
        self._thread.join()

    async def submit(self, job: Job) -> PredictResponse:
        """The response to one job.

        Raises:
            TooManyRequests: if `MAX_QUEUED_PER_KEY` instances of the key wait.
            QueueFull: if `MAX_QUEUED` instances wait.
            Exception: whatever `process` returned for the job.
        """
        if job.caller.queued + job.size > MAX_QUEUED_PER_KEY:
            raise TooManyRequests(f"at most {MAX_QUEUED_PER_KEY} instances of a key wait")
        if self._queued + job.size > MAX_QUEUED:
            raise QueueFull(
                f"at most {MAX_QUEUED} instances wait for a prediction; {self._queued} do"
            )
        future: asyncio.Future[PredictResponse] = self._loop.create_future()
        self._queued += job.size
        job.caller.queued += job.size
        self._waiting.append((job, future))
        if not self._busy:
            self._busy = True
            if self._max_wait_s > 0:
                self._loop.call_later(self._max_wait_s, self._gather, 0, 0)
            else:
                self._loop.call_soon(self._gather, 0, 0)
        return await future

    def _gather(self, n_before: int, quiet: int) -> None:
        """Start a batch once no job came in `QUIET_ITERATIONS` iterations of the event loop."""
        quiet = quiet + 1 if len(self._waiting) == n_before else 0
        if quiet < QUIET_ITERATIONS and len(self._waiting) < MAX_BATCH:
            self._loop.call_soon(self._gather, len(self._waiting), quiet)
        elif self._waiting:  # not emptied by `stop`
            self._batches.put(self._next_batch())

    def _next_batch(self) -> list[Waiting]:
        batch = [self._waiting.popleft()]
        size = batch[0][0].size
        while self._waiting and size + self._waiting[0][0].size <= MAX_BATCH:
            batch.append(self._waiting.popleft())
            size += batch[-1][0].size
        return batch

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            results = self._process([job for job, _ in batch])
            self._loop.call_soon_threadsafe(self._resolve, batch, results)

    def _resolve(self, batch: Sequence[Waiting], results: Sequence[Result]) -> None:
        for (job, future), result in zip(batch, results, strict=True):
            self._queued -= job.size
            job.caller.queued -= job.size
            if future.cancelled():  # the client is gone
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._busy = bool(self._waiting)
        if self._busy:
            self._loop.call_soon(self._gather, 0, 0)
