"""Dynamic batching: requests that arrive together are predicted together.

One thread processes batches. While it works, requests queue; the next batch takes all of them, up
to a number of instances. An idle service therefore starts at once, and a busy one needs one read of
the online store, one forward pass and one commit for many requests. Triton, Ray Serve and BentoML
call the same scheme dynamic or adaptive batching; unlike there, waiting for more requests while the
thread is idle (`max_wait_s`) is off by default.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from serving.keyring import Caller
from serving.problems import TooManyRequests
from serving.schemas import MAX_INSTANCES, PredictRequest, PredictResponse

MAX_BATCH = MAX_INSTANCES  # the largest request is a batch of its own
MAX_QUEUED = 4_096  # instances
MAX_QUEUED_PER_KEY = MAX_QUEUED // 2  # one client leaves room for others


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


Result = PredictResponse | Exception
Waiting = tuple[Job, "asyncio.Future[PredictResponse]"]


class Batcher:
    """A queue of jobs and the thread that processes them in batches.

    Args:
        process: returns the result of each job, in order; raises nothing.
        max_wait_s: how long a job may wait for others while the thread is idle.
    """

    def __init__(
        self, process: Callable[[Sequence[Job]], Sequence[Result]], max_wait_s: float = 0.0
    ) -> None:
        self._process, self._max_wait_s = process, max_wait_s
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._queued = 0  # instances that were submitted and have no result; event loop only
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def start(self) -> None:
        """Start the thread; call it where the event loop runs."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Process what is queued, then end the thread."""
        self._queue.put(None)
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
        self._queue.put((job, future))
        return await future

    def _work(self) -> None:
        ahead: list[Waiting | None] = []  # taken from the queue, and too large for the last batch
        while (first := ahead.pop() if ahead else self._queue.get()) is not None:
            batch, size = [first], first[0].size
            deadline = monotonic() + self._max_wait_s
            while True:
                wait_s = deadline - monotonic()
                try:
                    following = self._queue.get(block=wait_s > 0, timeout=max(wait_s, 0.0))
                except queue.Empty:
                    break
                if following is None or size + following[0].size > MAX_BATCH:
                    ahead.append(following)
                    break
                batch.append(following)
                size += following[0].size
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
