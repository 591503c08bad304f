"""Replay: a period of the real data as production traffic, through the real API.

    python -m simulation.replay [--start DATE] [--end DATE]

The only clock of the project is here; it ticks every `PREDICTION_INTERVAL`. In each tick, feature
rows that became known are written to the online store, instances whose prediction time has come
are predicted over HTTP, and outcomes that became known are reported. Monitoring runs at the start
and once a week (in a drill, once a day). A training takes `TRAINING_TIME` on this clock, however
long it takes on the machine: the clock waits for it, so that a replay makes the same decisions in
one process and through Prefect.

A replay can be stopped at any moment, ``kill -9`` included. Each step of a tick is idempotent
(upserts, idempotency keys, outcomes by instance); a run continues after the last saved tick.
"""

import argparse
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic, perf_counter, sleep
from typing import Any

import httpx
import pandas as pd
from prefect import flow
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from monitoring.retrain_policy import MAX_AGE, TRAINING_TIME
from ontime.data.memory import release_freed_memory
from ontime.data.timestamps import parse_utc
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import load_requests
from ontime.features.online_store import OnlineWriter
from ontime.features.spec import View
from ontime.problem import (
    DEMO_END,
    DEMO_START,
    PREDICTION_INTERVAL,
    VIEWS,
    outcome_of,
    request_of,
)
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog, open_decision_log
from pipelines.canary import CANARY_INTERVAL, advance_canary
from pipelines.monitor import MONITORING_INTERVAL, monitor, start_retrain
from simulation.progress import Progress, progress_file

DAY = timedelta(days=1)
BATCH = 256  # instances per request; the API's limit is 512
TIMEOUT_S = 30.0
RETRY_TIMEOUT_S = 120.0  # a killed API is ready again after about ten seconds
TRAINING_TIMEOUT_S, TRAINING_RESTART_S = 1800.0, 300.0


@dataclass(frozen=True)
class ReplayData:
    """What the source holds of the replayed period, by the time at which it became known."""

    requests: pd.DataFrame  # eligible rows of `problem.examples`, by event_timestamp
    outcomes: pd.DataFrame  # rows predicted after the start, by outcome_known_at
    features: list[tuple[View, pd.DataFrame]]  # rows by event_timestamp

    @classmethod
    def load(
        cls, settings: Settings, start: datetime, done: datetime, end: datetime
    ) -> "ReplayData":
        """Everything that a replay from ``start`` still needs after ``done``."""
        rows = load_requests(settings)
        filters = [("event_timestamp", ">", done), ("event_timestamp", "<=", end)]
        tables = [
            pd.read_parquet(f"{settings.features_dir}/{view.name}.parquet", filters=filters)
            for view in VIEWS
        ]
        at, known_at = rows.event_timestamp, rows.outcome_known_at
        requests = rows[rows.eligible & (at > done) & (at <= end)]
        outcomes = rows[(at > start) & (known_at > done) & (known_at <= end)]
        return cls(
            requests=requests.sort_values(["event_timestamp", "instance_id"]),
            outcomes=outcomes.sort_values(["outcome_known_at", "instance_id"]),
            features=[
                (view, table.sort_values("event_timestamp", ignore_index=True))
                for view, table in zip(VIEWS, tables, strict=True)
            ],
        )


def between(rows: pd.DataFrame, column: str, after: datetime, until: datetime) -> pd.DataFrame:
    """Rows with after < column <= until, of rows sorted by the column."""
    first, last = (
        rows[column].searchsorted(pd.Timestamp(moment), side="right") for moment in (after, until)
    )
    return rows.iloc[first:last]


class Client:
    """A client of the HTTP API that counts what it sends and receives."""

    def __init__(self, http: httpx.Client, progress: Progress) -> None:
        self.http, self.progress = http, progress

    def predict(self, rows: pd.DataFrame, tick: datetime) -> None:
        """Predict in batches. The idempotency key of a batch is the same in every run."""
        for number, start in enumerate(range(0, len(rows), BATCH)):
            batch = rows.iloc[start : start + BATCH]
            key = f"{self.progress.run}-{tick:%Y%m%dT%H%M}-{number}"
            instances = [request_of(row) for row in batch.to_dict("records")]
            body = {"as_of": tick.isoformat(), "instances": instances}
            started = perf_counter()
            response = self._post("/predict", body, {"Idempotency-Key": key})
            self.progress.add_latency(perf_counter() - started)
            self.progress.first_prediction_at = self.progress.first_prediction_at or time.time()
            self.progress.predictions += len(response["predictions"])
            self.progress.champion = response["model_version"] or self.progress.champion
            probabilities = [prediction["probability"] for prediction in response["predictions"]]
            self.progress.pending_labels |= zip(batch.instance_id, probabilities, strict=True)

    def report(self, rows: pd.DataFrame) -> None:
        """Report the outcomes of rows."""
        if rows.empty:
            return
        self._post("/outcomes", {"outcomes": [outcome_of(row) for row in rows.to_dict("records")]})
        self.progress.outcomes += len(rows)
        for instance_id, label in zip(rows.instance_id, rows.label, strict=True):
            self.progress.add_label(instance_id, bool(label))

    def _post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        self.progress.requests += 1
        try:
            for attempt in Retrying(
                retry=retry_if_exception(is_transient),
                stop=stop_after_delay(RETRY_TIMEOUT_S),
                wait=wait_exponential(multiplier=0.2, max=5),
                reraise=True,
            ):
                with attempt:
                    self.progress.retried += attempt.retry_state.attempt_number > 1
                    response = self.http.post(path, json=body, headers=headers).raise_for_status()
        except httpx.HTTPError:
            self.progress.failed += 1
            raise
        return response.json()


def is_transient(error: BaseException) -> bool:
    """True if the API cannot be reached or is busy; every request can be repeated."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in (429, 503)
    return isinstance(error, httpx.TransportError)


def ticks(start: datetime, end: datetime) -> Iterator[datetime]:
    """The times after start, up to and including end."""
    while (start := start + PREDICTION_INTERVAL) <= end:
        yield start


def play_tick(writer: OnlineWriter, data: ReplayData, client: Client, tick: datetime) -> None:
    """Write the features, predict the instances and report the outcomes of one tick."""
    before = tick - PREDICTION_INTERVAL
    writer.write(
        (view, between(rows, "event_timestamp", before, tick)) for view, rows in data.features
    )
    client.predict(between(data.requests, "event_timestamp", before, tick), tick)
    client.report(between(data.outcomes, "outcome_known_at", before, tick))


def wait_for_training(settings: Settings, log: DecisionLog, tick: datetime) -> None:
    """Return when every training that ends before ``tick`` has registered its challenger.

    It is started again now and then, in case that its event or its run was lost; one that was
    carried out already does nothing.

    Raises:
        TimeoutError: if the worker does not finish one.
    """
    began_at = started_at = monotonic()
    while True:
        pending = [
            row
            for row in log.unfinished()
            if row["challenger"] is None and row["decided_at"] + TRAINING_TIME <= tick
        ]
        if not pending:
            return
        if monotonic() - began_at > TRAINING_TIMEOUT_S:
            raise TimeoutError(
                f"a training must end within {TRAINING_TIMEOUT_S:.0f} s; that of decision "
                f"{pending[0]['decision_id']} did not: see the runs of retrain/ontime in Prefect"
            )
        if monotonic() - started_at > TRAINING_RESTART_S:
            started_at = monotonic()
            for row in pending:
                start_retrain(settings, row["decided_at"], row["decision_id"])
        sleep(1)


@flow(name="replay")
def replay(
    start: datetime = DEMO_START,
    end: datetime = DEMO_END,
    monitoring_interval: timedelta = MONITORING_INTERVAL,
    max_age: timedelta = MAX_AGE,
) -> Progress:
    """Replay (start, end]; continues after the last tick of an earlier run of the same period.

    The online store must be materialized as of ``start``, and the API must have a champion.

    Args:
        monitoring_interval: simulated time from one monitoring run to the next.
        max_age: of the newest training, see `pipelines.monitor.monitor`.
    """
    settings = Settings()
    path = progress_file(settings)
    progress = Progress.load(path)
    if progress is None or not progress.covers(start, end):
        progress = Progress.begin(start, end)
        progress.save(path)  # its keys, before the first request under them
    done = datetime.fromisoformat(progress.last_tick)
    if done > start:
        print(f"continues after {progress.last_tick}")
    data = ReplayData.load(settings, start, done, end)
    release_freed_memory()
    gc.freeze()  # the data stay until the end; no collection has to look through them
    writer = OnlineWriter(open_feature_store(settings))
    decisions = open_decision_log(settings)
    url, headers = settings.api_url, settings.client_headers
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S) as http:
        client = Client(http, progress)
        for tick in ticks(done, end):
            started = perf_counter()
            wait_for_training(settings, decisions, tick)
            play_tick(writer, data, client, tick)
            if tick - start == PREDICTION_INTERVAL:
                monitor(start, max_age)  # after the first predictions, which wait for no training
            if (tick - start) % CANARY_INTERVAL == timedelta(0):
                advance_canary(settings, decisions, tick)
            if (tick - start) % monitoring_interval == timedelta(0):
                weekly = (tick - start) % MONITORING_INTERVAL == timedelta(0)
                monitor(tick, max_age, with_drift=weekly)
            progress.last_tick = tick.isoformat()
            progress.seconds += perf_counter() - started
            progress.save(path)
            if (tick - start) % DAY == timedelta(0):
                print_day(progress)
    return progress


def print_day(progress: Progress) -> None:
    """One line per simulated day: traffic, positive rate, log-loss so far, champion."""
    n = max(progress.labelled, 1)
    print(
        f"{progress.last_tick[:10]}  {progress.predictions:>7,} predictions  "
        f"{progress.labelled:>7,} labels  positive rate {progress.positives / n:.3f}  "
        f"log-loss {progress.log_loss_sum / n:.4f}  champion {progress.champion}  "
        f"{progress.seconds:>5.0f} s"
    )


def parse_period(description: str | None) -> tuple[datetime, datetime]:
    """The period of the command line; by default the demo's."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--start", type=parse_utc, default=DEMO_START, help="UTC, exclusive")
    parser.add_argument("--end", type=parse_utc, default=DEMO_END, help="UTC, inclusive")
    arguments = parser.parse_args()
    return arguments.start, arguments.end


if __name__ == "__main__":
    replay(*parse_period(__doc__))
