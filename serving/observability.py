"""Prometheus metrics, and JSON log lines: one per request.

Each line of a request has its `trace_id`, which is also in the prediction log. Tracebacks omit
local variables, and passwords in addresses are redacted from every line.
"""

import logging
import os
import random
import re
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.tracebacks import ExceptionDictTransformer

from ontime.storage.decision_log import ChampionChange
from ontime.storage.schema import OutcomeCounts

if TYPE_CHECKING:  # loads Feast
    from ontime.features.online_store import OnlineRead

TRACE_HEADER = "X-Request-ID"
TRACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
PASSWORD = re.compile(r"""(://)[^\s"'<>]+(?=@)|(password=)[^\s,&;"'<>]+""")
QUIET_PATHS = {"/health", "/ready", "/metrics", "/events"}  # requested every few seconds
LATENCY_BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

log = structlog.get_logger()


class Metrics:
    """The metrics of one app; a registry per app allows several apps in one process.

    With `shared`, a folder, the values of all processes that use it are one: counters are summed,
    and of a gauge the value is taken that was set last.
    """

    def __init__(self, shared: Path | None = None) -> None:
        # Chosen here, because importing Feast switches prometheus_client to files that nothing
        # collects.
        values.ValueClass = values.MutexValue
        if shared is not None:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self.shared = shared
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="ontime", registry=self.registry)
        self.predictions = counter("predictions", "Predictions returned", ["model_version"])
        self.missing = counter("features_missing", "Features without a value", ["feature"])
        outside = "Predictions at a time or of a value that no model was trained for"
        self.outside_training = counter("predictions_outside_training", outside)
        self.stale = counter("features_stale", "Features older than their TTL", ["feature"])
        later = "Features whose stored value became known after as_of"
        self.not_yet_known = counter("features_not_yet_known", later, ["feature"])
        self.log_failures = counter("prediction_log_failures", "Requests that were not logged")
        self.store_failures = counter("online_store_failures", "Failed reads of the online store")
        self.outcomes = counter("outcomes", "Outcomes reported", ["result"])
        self.rejected = counter("rejected_requests", "Refused before they were read", ["reason"])
        self.swaps = counter("model_swaps", "Deployments of another model version")
        self.reload_failures = counter("model_reload_failures", "Failed syncs with the registry")
        self.shadow = counter("shadow_requests", "Requests for the challenger", ["result"])
        fallbacks = "Instances of the canary that the champion answered, because the canary failed"
        self.canary_fallbacks = counter("canary_fallbacks", fallbacks)
        labels = ["handler", "method", "status"]
        self.requests = Counter("http_requests", "Requests", labels, registry=self.registry)
        self.request_seconds = Histogram(
            "http_request_duration_seconds",
            "Time to the end of a response",
            labels[:2],
            registry=self.registry,
            buckets=LATENCY_BUCKETS_S,
        )
        gauge = partial(
            Gauge, namespace="ontime", registry=self.registry, multiprocess_mode="mostrecent"
        )
        self.age = gauge("feature_age_seconds", "Oldest row of the last request", ["view"])
        # Both on the clock of as_of; their difference is the label delay.
        self.newest_request = gauge("newest_prediction_request_seconds", "Last as_of requested")
        self.newest_outcome = gauge("newest_outcome_seconds", "Last known_at accepted")
        last_run = "monitoring_last_run_timestamp_seconds"
        self.monitored_at = gauge(last_run, "Time of the last monitoring run")
        self.model_metric = gauge("model_metric", "Value from the last monitoring run", ["metric"])
        labels = ["model_version", "trained_through"]
        self.champion = gauge("champion_info", "1 for the deployed version, else 0", labels)
        share = "Share of the instances that the canary answers; 0 after its end"
        self.canary_share = gauge("canary_share", share, ["model_version"])
        self._deployed: Gauge | None = None
        self._canary: Gauge | None = None
        self._published: set[str] = set()  # label values of `model_metric`

    def record_swap(self, version: str, trained_through: str | None) -> None:
        if self._deployed is not None:
            self._deployed.set(0)
        self._deployed = self.champion.labels(version, trained_through or "")
        self._deployed.set(1)
        self.swaps.inc()

    def record_canary(self, change: ChampionChange | None) -> None:
        if self._canary is not None:
            self._canary.set(0)
        if change is not None and change.share is not None:
            self._canary = self.canary_share.labels(change.version)
            self._canary.set(change.share)

    def record_predictions(self, versions: Iterable[str], read: "OnlineRead") -> None:
        for version, n in Tally(versions).items():
            self.predictions.labels(version).inc(n)
        for counter, rows in (
            (self.missing, read.missing),
            (self.stale, read.stale),
            (self.not_yet_known, read.not_yet_known),
        ):
            for name, n in Tally(chain.from_iterable(rows)).items():
                counter.labels(name).inc(n)
        for view, seconds in read.age_seconds.items():
            self.age.labels(view).set(seconds)

    def record_outcomes(self, counts: OutcomeCounts) -> None:
        for result in ("accepted", "duplicates", "contradictions", "never_predicted"):
            self.outcomes.labels(result).inc(getattr(counts, result))
        if counts.newest_accepted is not None:
            self.newest_outcome.set(counts.newest_accepted.timestamp())

    def update_monitoring_metrics(self, decision: Mapping[str, Any]) -> None:
        """Publish the evidence of a row of the decision log; NaN replaces a value that is gone."""
        self.monitored_at.set(decision["decided_at"].timestamp())
        found = _model_metrics(decision["evidence"])
        for name in self._published - found.keys():
            self.model_metric.labels(name).set(nan)
        for name, value in found.items():
            self.model_metric.labels(name).set(value)
        self._published |= found.keys()

    def as_text(self) -> bytes:
        registry = self.registry
        if self.shared is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, str(self.shared))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _model_metrics(evidence: Mapping[str, Any]) -> dict[str, float]:
    performance, drift = evidence["performance"], evidence["drift"] or {}
    found = {name: estimate["value"] for name, estimate in performance["scores"].items()}
    found |= {n: performance[n] for n in ("label_coverage", "positive_rate", "mean_prediction")}
    found["share_drifted"] = drift.get("share_drifted")
    found["prediction_drift"] = drift.get("prediction")
    found["broken_feeds"] = (evidence.get("inputs") or {}).get("n_broken")
    return {name: value for name, value in found.items() if value is not None}


class RequestMiddleware:
    """ASGI middleware: gives each request a trace id, and measures and logs it when it ends."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get(TRACE_HEADER, "")
        trace_id = given if TRACE_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        scope.setdefault("state", {})["trace_id"] = trace_id
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((TRACE_HEADER.lower().encode(), trace_id.encode()))
            await send(message)

        start = time.perf_counter()
        structlog.contextvars.bind_contextvars(trace_id=trace_id)  # of the task of this request
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            if scope["path"] not in QUIET_PATHS:
                seconds = time.perf_counter() - start
                method, handler = scope["method"], _handler(scope)
                self.metrics.requests.labels(handler, method, f"{status // 100}xx").inc()
                self.metrics.request_seconds.labels(handler, method).observe(seconds)
                what = {"method": method, "path": scope["path"], "status": status}
                if (caller := scope["state"].get("caller")) is not None:
                    what["client"] = caller.client
                log.info("request completed", **what, duration_ms=round(seconds * 1e3, 2))


def _handler(scope: Scope) -> str:
    """The path of the route, like /reports/{name}; "none" if no route matches."""
    route = scope.get("route")
    return str(route.path) if route is not None else "none"


def redact_passwords(_logger: Any, _method: str, line: str) -> str:
    """structlog processor, after the renderer: hides userinfo in URLs and ``password=``."""
    return PASSWORD.sub(r"\1\2***", line)


def _as_json(line: Any, default: Callable[[Any], Any]) -> str:
    return orjson.dumps(line, default).decode()


def configure_logging() -> None:
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
        structlog.processors.JSONRenderer(_as_json),
        redact_passwords,
    ]
    level = structlog.make_filtering_bound_logger(logging.INFO)
    structlog.configure(processors=processors, wrapper_class=level)
