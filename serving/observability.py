"""What is counted (Prometheus) and what is written down (one JSON line a request).

Every line carries the request's `trace_id`, which also stands in the prediction log. Tracebacks
come without local variables: those would hold addresses and passwords.
"""

import re
import time
import uuid
from collections.abc import Iterator, Mapping
from math import nan
from typing import Any

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, values
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.tracebacks import ExceptionDictTransformer

from ontime.log_tables import OutcomeCounts

TRACE_HEADER = "X-Request-ID"
TRACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
QUIET = {"/health", "/ready", "/metrics"}  # asked every few seconds by machines
LATENCY_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# Importing Feast switches prometheus_client to files shared between processes, which nobody here
# collects. One process answers, so its numbers stay in its memory.
values.ValueClass = values.MutexValue

log = structlog.get_logger()


class Metrics:
    """The numbers of one app; a registry of its own lets several apps live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.predictions = self._counter("predictions", "Predictions answered", "model_version")
        self.missing = self._counter("features_missing", "Features never stored", "feature")
        self.stale = self._counter("features_stale", "Features older than their TTL", "feature")
        self.log_failures = self._counter("log_failures", "Requests the log refused")
        self.store_failures = self._counter("online_store_failures", "Reads without an answer")
        self.outcomes = self._counter("outcomes", "Outcomes reported", "result")
        self.swaps = self._counter("champion_swaps", "Times another version began to serve")
        self.swap_failures = self._counter("champion_failures", "Failures to follow the alias")
        self.shadow = self._counter("shadow_requests", "Requests for the challenger", "result")
        self.age = self._gauge("feature_age_seconds", "Oldest row of the last request", "view")
        # On the clock of the questions. Their difference is how far the labels lag behind.
        self.newest_question = self._gauge("newest_question_seconds", "Latest as_of asked about")
        self.newest_outcome = self._gauge("newest_outcome_seconds", "Latest known_at reported")
        self.looked_at = self._gauge("monitoring_seconds", "When the monitoring last looked")
        self.monitored = self._gauge("monitored", "What the monitoring last saw", "figure")
        self.champion = self._gauge(
            "champion_info",
            "1 for the version that serves, 0 for those before",
            "model_version",
            "trained_through",
        )
        self._serving: Gauge | None = None
        self._shown: set[str] = set()  # figures of the monitoring

    def serves(self, version: str, trained_through: str | None) -> None:
        if self._serving is not None:
            self._serving.set(0)
        self._serving = self.champion.labels(version, trained_through or "")
        self._serving.set(1)
        self.swaps.inc()

    def reported(self, counts: OutcomeCounts) -> None:
        for result in ("accepted", "duplicates", "contradictions", "never_predicted"):
            self.outcomes.labels(result).inc(getattr(counts, result))

    def looked(self, decision: Mapping[str, Any]) -> None:
        """The figures of a row of the decision log."""
        self.looked_at.set(decision["decided_at"].timestamp())
        seen = {name: v for name, v in _figures(decision["evidence"]) if v is not None}
        for name in self._shown - seen.keys():
            self.monitored.labels(name).set(nan)  # no figure, and no old one
        for name, value in seen.items():
            self.monitored.labels(name).set(value)
        self._shown |= seen.keys()

    def install(self, app: FastAPI) -> None:
        instrumentator = Instrumentator(excluded_handlers=sorted(QUIET), registry=self.registry)
        instrumentator.instrument(app, latency_lowr_buckets=LATENCY_S)

    def as_text(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ontime_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"ontime_{name}", text, labels, registry=self.registry)


def _figures(evidence: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    seen, drift = evidence["performance"], evidence["drift"] or {}
    for name, estimate in seen["scores"].items():
        yield name, estimate["value"]
    for name in ("label_coverage", "late_share", "mean_prediction"):
        yield name, seen[name]
    yield "share_drifted", drift.get("share_drifted")
    yield "prediction_drift", drift.get("prediction")


class RequestLog:
    """ASGI middleware: gives a request its trace id and writes one line when it is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get(TRACE_HEADER, "")
        trace_id = given if TRACE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["trace_id"] = trace_id
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[TRACE_HEADER] = trace_id
            await send(message)

        began = time.perf_counter()
        with structlog.contextvars.bound_contextvars(trace_id=trace_id):
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                if scope["path"] not in QUIET:
                    ms = round((time.perf_counter() - began) * 1e3, 2)
                    what = {"method": scope["method"], "path": scope["path"]}
                    log.info("answered", **what, status=status, ms=ms)


def configure_logging() -> None:
    steps: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(processors=steps)
