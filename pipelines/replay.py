"""Replay: the real year as production traffic, hour by hour, through the real API.

    python -m pipelines.replay --start 2013-05-01 --end 2013-08-01

The only clock in the project ticks here. At each tick: feature rows that became known go to the
online store, flights whose prediction time has come are asked about over HTTP, and what became
known of earlier flights is reported. Once a week the monitoring looks at what was served.

A replay may be stopped at any moment, ``kill -9`` included. Every step of a tick can be repeated
without effect (upserts, idempotency keys, outcomes by flight), and a tick counts as done once it
is written to the progress file; the next run goes on after it.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import httpx
from prefect import flow
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from ontime.clock import TICK, parse_moment, prediction_time
from ontime.settings import Settings
from pipelines.monitor import WEEK, monitor

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

BATCH = 256  # flights a request; the API takes 512
TIMEOUT_S = 30.0
# A killed API is back in ten seconds; every request can be repeated without effect.
KEEP_TRYING_S = 120.0


@dataclass
class Progress:
    """Where a replay stands; on disk after every tick."""

    run: str
    start: str
    end: str
    last_tick: str
    requests: int = 0
    retried: int = 0
    failed: int = 0
    predictions: int = 0
    outcomes: int = 0
    log_loss_sum: float = 0.0  # over the outcomes of flights that were asked about
    labelled: int = 0
    late: int = 0
    waiting: dict[str, float] = field(default_factory=dict)  # flight -> probability, no outcome yet
    latencies_ms: list[float] = field(default_factory=list)
    champion: str = ""
    first_answer_at: float | None = None  # Unix time
    seconds: float = 0.0

    @classmethod
    def load(cls, path: Path) -> "Progress | None":
        """The progress on disk; None if there is none."""
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self)))
        unfinished.replace(path)

    @property
    def finished(self) -> bool:
        return self.last_tick >= self.end

    def covers(self, start: datetime, end: datetime) -> bool:
        """Is this the progress of the replay from start to end?"""
        return (self.start, self.end) == (start.isoformat(), end.isoformat())

    def label(self, flight_id: str, is_late: bool) -> None:
        """Note an outcome, and what the answer to its flight lost by it."""
        probability = self.waiting.pop(flight_id, None)
        if probability is None:
            return
        self.labelled += 1
        self.late += is_late
        self.log_loss_sum -= math.log(probability if is_late else 1 - probability)


@dataclass(frozen=True)
class World:
    """What really happened, in order of the moment it became known."""

    asked: "pd.DataFrame"  # flights by prediction time (event_timestamp)
    outcomes: "pd.DataFrame"  # flights by outcome_known_at
    features: "dict[str, pd.DataFrame]"  # rows a view by event_timestamp

    @classmethod
    def between(cls, settings: Settings, start: datetime, done: datetime, end: datetime) -> "World":
        """What a replay from ``start`` still has to play after ``done``."""
        import pandas as pd

        from ontime.dataset import askable
        from ontime.features import VIEWS
        from ontime.tables import FLIGHTS, read_tables

        flights = read_tables(settings.tables_dir, (FLIGHTS,))["flights"]
        asked = askable(flights)
        filters = [("event_timestamp", ">", done), ("event_timestamp", "<=", end)]
        features = {
            view.name: pd.read_parquet(
                settings.features_dir / f"{view.name}.parquet", filters=filters
            ).sort_values("event_timestamp", ignore_index=True)
            for view in VIEWS
        }
        # Flights asked about before the start were not served here: nobody waits for their labels.
        reported = flights[prediction_time(flights.scheduled_departure) > pd.Timestamp(start)]
        return cls(
            asked=asked.sort_values(["event_timestamp", "flight_id"]),
            outcomes=reported.sort_values(["outcome_known_at", "flight_id"]),
            features=features,
        )


def known_between(
    rows: "pd.DataFrame", column: str, after: datetime, until: datetime
) -> "pd.DataFrame":
    """Rows with after < column <= until; the rows are sorted by the column."""
    import pandas as pd

    first, last = (
        rows[column].searchsorted(pd.Timestamp(moment), side="right") for moment in (after, until)
    )
    return rows.iloc[first:last]


def ticks(start: datetime, end: datetime) -> Iterator[datetime]:
    """Every hour after start, up to and including end."""
    moment = start + TICK
    while moment <= end:
        yield moment
        moment += TICK


class Client:
    """Asks and reports over HTTP like anybody else, and keeps count."""

    def __init__(self, http: httpx.Client, progress: Progress) -> None:
        self.http, self.progress = http, progress

    def ask(self, flights: "pd.DataFrame", tick: datetime) -> None:
        """Ask about flights in batches; the key makes a repeated batch return its first answer."""
        for number, at in enumerate(range(0, len(flights), BATCH)):
            batch = flights.iloc[at : at + BATCH]
            key = f"{self.progress.run}-{tick:%Y%m%dT%H}-{number}"
            body = {"as_of": tick.isoformat(), "flights": [as_request(f) for f in rows_of(batch)]}
            started = perf_counter()
            answer = self._post("/predict", body, {"Idempotency-Key": key})
            self.progress.latencies_ms.append(round((perf_counter() - started) * 1000, 2))
            self.progress.first_answer_at = self.progress.first_answer_at or time.time()
            self.progress.predictions += len(answer["predictions"])
            self.progress.champion = answer["model_version"]
            for flight_id, prediction in zip(batch.flight_id, answer["predictions"], strict=True):
                self.progress.waiting[flight_id] = prediction["probability_late"]

    def report(self, flights: "pd.DataFrame") -> None:
        """Report what happened to flights."""
        if not len(flights):
            return
        self._post("/outcomes", {"outcomes": [as_outcome(f) for f in rows_of(flights)]})
        self.progress.outcomes += len(flights)
        for flight_id, is_late in zip(flights.flight_id, flights.is_late, strict=True):
            self.progress.label(flight_id, bool(is_late))

    def _post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        self.progress.requests += 1
        try:
            return self._send(path, body, headers)
        except httpx.HTTPError:
            self.progress.failed += 1
            raise

    def _send(self, path: str, body: Any, headers: dict[str, str] | None) -> Any:
        for attempt in Retrying(
            retry=retry_if_exception(is_passing),
            stop=stop_after_delay(KEEP_TRYING_S),
            wait=wait_exponential(multiplier=0.2, max=5),
            reraise=True,
        ):
            with attempt:
                self.progress.retried += attempt.retry_state.attempt_number > 1
                response = self.http.post(path, json=body, headers=headers)
                response.raise_for_status()
        return response.json()


def is_passing(error: BaseException) -> bool:
    """Worth another try: nobody answered, or the answer was that something is down."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == httpx.codes.SERVICE_UNAVAILABLE
    return isinstance(error, httpx.TransportError)


def rows_of(flights: "pd.DataFrame") -> list[dict[str, Any]]:
    return flights.to_dict("records")


def as_request(flight: dict[str, Any]) -> dict[str, Any]:
    """A flight as POST /predict takes it."""
    return {key: flight[key] for key in ("carrier", "flight", "origin", "dest", "tailnum")} | {
        key: flight[key].isoformat() for key in ("scheduled_departure", "scheduled_arrival")
    }


def as_outcome(flight: dict[str, Any]) -> dict[str, Any]:
    """A flight as POST /outcomes takes it."""
    arrived = flight["status"] == "arrived"
    return {key: flight[key] for key in ("carrier", "flight", "origin", "status")} | {
        "scheduled_departure": flight["scheduled_departure"].isoformat(),
        "arrival_delay_min": flight["arr_delay_min"] if arrived else None,
        "known_at": flight["outcome_known_at"].isoformat(),
    }


def write_known_features(
    store: "FeatureStore", world: World, after: datetime, until: datetime
) -> None:
    """Put the feature rows that became known in (after, until] into the online store."""
    from ontime.feature_store import write_online

    for view, rows in world.features.items():
        write_online(store, view, known_between(rows, "event_timestamp", after, until))


@flow(name="replay")
def replay(start: datetime, end: datetime) -> dict[str, Any]:
    """Replay (start, end] hour by hour, going on where an earlier run of it stopped.

    The online store must hold what was known at ``start``, and a champion must serve.
    """
    from ontime.feature_store import open_feature_store

    settings = Settings()
    path = settings.var / "replay" / "progress.json"
    progress = Progress.load(path)
    if progress is None or not progress.covers(start, end):
        run = f"{start:%Y%m%d}-{end:%Y%m%d}"
        progress = Progress(run, start.isoformat(), end.isoformat(), start.isoformat())
    done = datetime.fromisoformat(progress.last_tick)
    world = World.between(settings, start, done, end)
    store = open_feature_store(settings)
    with httpx.Client(base_url=settings.api_url, timeout=TIMEOUT_S) as http:
        client = Client(http, progress)
        for tick in ticks(done, end):
            started = perf_counter()
            write_known_features(store, world, tick - TICK, tick)
            client.ask(known_between(world.asked, "event_timestamp", tick - TICK, tick), tick)
            client.report(known_between(world.outcomes, "outcome_known_at", tick - TICK, tick))
            if (tick - start) % WEEK == timedelta(0):
                monitor(tick)
            progress.last_tick = tick.isoformat()
            progress.seconds += perf_counter() - started
            progress.save(path)
            if tick.hour == 0:
                print_day(progress)
    return asdict(progress)


def print_day(progress: Progress) -> None:
    """One line a simulated day: traffic, late share, log-loss so far, champion."""
    known = max(progress.labelled, 1)
    print(
        f"{progress.last_tick[:10]}  {progress.predictions:>7,} predictions  "
        f"{progress.labelled:>7,} outcomes  late {progress.late / known:.3f}  "
        f"log-loss {progress.log_loss_sum / known:.4f}  champion {progress.champion}  "
        f"{progress.seconds:>5.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=parse_moment, default=parse_moment("2013-05-01"))
    parser.add_argument("--end", type=parse_moment, default=parse_moment("2013-08-01"))
    arguments = parser.parse_args()
    replay(arguments.start, arguments.end)


if __name__ == "__main__":
    main()
