"""The content of the pages: what the templates show, from the log, the model and the metrics."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from markdown_it import MarkdownIt
from prometheus_client.parser import text_string_to_metric_families
from starlette.exceptions import HTTPException

from ontime.problem import SCENARIOS, VIEWS, Instance
from serving.charts import line_chart, reliability_chart, timeline, waterfall
from serving.dependencies import AppState
from serving.model_manager import Canary, DeployedModel
from serving.predictor import explain_row, instance_columns
from serving.reports import list_reports

EXPLAINED_S = 600.0
CARD_FILE = "model_card.md"
DAY = timedelta(days=1)


def instance_page(state: AppState, instance_id: str) -> dict[str, Any]:
    """One instance: its predictions, its outcome, why, and what may be changed.

    Raises:
        HTTPException: 404 if it was never predicted.
        TooManyRequests: if it must be explained, and too many explanations are computed.
    """
    rows = state.page_data.instance(instance_id)
    if not rows:
        raise HTTPException(404, f"no prediction of {instance_id!r:.80} is in the log")
    newest = rows[0]
    champion = state.manager.deployed
    deployed = champion.model_for(instance_id) if champion is not None else None
    bars = None
    if deployed is not None:
        key = (newest["prediction_id"], deployed.version)
        explanations = state.page_data.explanations
        bars = explanations.fresh(key)
        if bars is None:
            with state.explaining():
                bars = explanations.get(key, EXPLAINED_S, lambda: _why_logged(deployed, newest))
    values = newest["values"]
    return {
        "prediction": newest,
        "earlier": rows[1:],
        "why": bars,
        "deployed": deployed,
        "scenarios": [
            {"label": scenario.label, "changes": json.dumps(scenario.changes(values))}
            for scenario in SCENARIOS
        ],
        "can_change": deployed is not None and set(deployed.model.spec.numeric) <= values.keys(),
    }


def _why_logged(deployed: DeployedModel | Canary, row: Mapping[str, Any]) -> dict[str, Any]:
    return why(deployed, _fields(row["instance"]), row["values"])


def why(
    deployed: DeployedModel | Canary, fields: Mapping[str, np.ndarray], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Bars that add up to the deployed model's prediction, and its decision."""
    numbers = pd.DataFrame({name: [values.get(name)] for name in deployed.model.spec.numeric})
    frame = pd.DataFrame(dict(fields)).join(numbers.astype(np.float32))
    reference, contributions = explain_row(deployed.model, frame)
    chart = waterfall(reference, contributions)
    decision = chart["total"] >= deployed.model.metadata["threshold"]
    return chart | {"version": deployed.version, "decision": decision}


def _fields(instance: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return instance_columns([Instance.model_validate(instance)])


def what_if(state: AppState, prediction_id: str, changes: Mapping[str, float]) -> dict[str, Any]:
    """The deployed model's prediction for a logged row with some inputs changed; not logged.

    Raises:
        HTTPException: 404 for an unknown prediction, 422 for an unknown input.
        NoChampion: if no model is deployed.
    """
    champion, _ = state.manager.current()
    found = state.page_data.prediction(prediction_id)
    if found is None:
        raise HTTPException(404, f"no prediction {prediction_id!r:.80} is in the log")
    deployed = champion.model_for(found["instance_id"])
    names = deployed.model.spec.numeric
    if unknown := sorted(set(changes) - set(names)):
        raise HTTPException(422, f"changes name inputs of the model; these are not: {unknown[:5]}")
    values = found["values"] | dict(changes)
    numeric = np.array([[values.get(name) for name in names]], dtype=np.float32)  # None: NaN
    fields = _fields(found["instance"])
    categories = {name: fields[name].tolist() for name in deployed.model.spec.categorical}
    members = deployed.model.predict_arrays(numeric, categories)[0]
    probability = float(members.mean())
    return {
        "model_version": deployed.version,
        "probability": probability,
        "uncertainty": float(members.std()),
        "decision": probability >= deployed.model.metadata["threshold"],
    }


def loop_page(state: AppState) -> dict[str, Any]:
    """Versions, decisions, and how good the predictions were."""
    history = state.page_data.history()
    clock = state.page_data.clock()
    changes, decisions = history["changes"], history["decisions"]
    bins = state.page_data.calibration(clock) if clock else []
    return {
        "history": history,
        "timeline": timeline(changes, decisions, clock or datetime.now(UTC)),
        "weeks": _weeks(state.settings.reports_dir / "demo.json"),
        "bias": line_chart({"calibration bias": _estimates(decisions, "calibration_bias")}, (0.0,)),
        "bins": bins,
        "reliability": reliability_chart(bins),
        "slices": state.page_data.slices(clock) if clock else [],
        "reports": [r for r in list_reports(state.settings.reports_dir) if _is_page(r.name)][:12],
        "mlflow_url": _page_address(state.settings.mlflow_url),
        "has_card": _card_file(state) is not None,
    }


def _is_page(name: str) -> bool:
    return name.endswith(".html")


def _page_address(url: str) -> str | None:
    """An address that a browser may open: a password in it is nobody's business."""
    return url if url.startswith("http") and "@" not in url else None


def _estimates(decisions: list[dict[str, Any]], score: str) -> list[Any]:
    found = []
    for decision in decisions:
        if estimate := decision["evidence"]["performance"]["scores"].get(score):
            values = (estimate["value"], estimate["low"], estimate["high"])
            found.append((decision["decided_at"], *values))
    return found


def _weeks(report: Path) -> dict[str, Any] | None:
    """Served against frozen, by week: from the report of a finished demo, if there is one."""
    try:
        demo = json.loads(report.read_text())
        weeks = [week for week in demo["weeks"] if week["serving_log_loss"] is not None]
        replay = demo["replay"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    starts = [datetime.fromisoformat(week["start"]) for week in weeks]
    difference = [w["serving_log_loss"] - w["frozen_log_loss"] for w in weeks]
    points = [(at, value, None, None) for at, value in zip(starts, difference, strict=True)]
    chart = line_chart({"served minus frozen": points}, (0.0,))
    return {"chart": chart, "rows": weeks, "replay": replay}


def card_page(state: AppState) -> dict[str, Any]:
    """The model card of the deployed version as HTML. HTML in the card is shown as text.

    Raises:
        HTTPException: 404 if there is none.
    """
    if (path := _card_file(state)) is None:
        raise HTTPException(404, "no deployed version has a model card")
    text = path.read_text()
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return {"card": html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace(
        "</table>", "</table></div>"
    )}  # fmt: skip


def _card_file(state: AppState) -> Path | None:
    if (deployed := state.manager.deployed) is None:
        return None
    path = state.manager.loader.cache.root / deployed.version / CARD_FILE
    return path if path.is_file() else None


def system_figures(state: AppState) -> dict[str, Any]:
    """Latency, throughput, errors, feature age and label delay."""
    samples = _samples(state)
    clock = state.page_data.clock()
    board = state.page_data.board(clock) if clock else None
    delays = [row["known_at"] - row["as_of"] for row in board["outcomes"]] if board else []
    ages = {labels["view"]: v for labels, v in samples.get("ontime_feature_age_seconds", [])}
    handlers: dict[str, dict[str, Any]] = {}
    for labels, n in samples.get("http_requests_total", []):
        row = handlers.setdefault(labels["handler"], {"2xx": 0, "4xx": 0, "5xx": 0})
        row[labels["status"]] = row.get(labels["status"], 0) + n
    for handler, row in handlers.items():
        row["p50"], row["p99"] = (_quantile(samples, handler, q) for q in (0.5, 0.99))
    return {
        "per_second": state.page_data.rate_per_second(datetime.now(UTC)),
        "predictions": _total(samples, "ontime_predictions_total"),
        "failures": {
            "prediction log": _total(samples, "ontime_prediction_log_failures_total"),
            "online store": _total(samples, "ontime_online_store_failures_total"),
            "model registry": _total(samples, "ontime_model_reload_failures_total"),
        },
        "handlers": dict(sorted(handlers.items(), key=lambda item: -item[1]["2xx"])[:12]),
        "ages": [(v.name, ages[v.name], v.ttl.total_seconds()) for v in VIEWS if v.name in ages],
        "label_delay": median(delays) if delays else None,
        "predict": handlers.get("/predict"),
        "deployed": state.manager.deployed,
        "sync_error": state.manager.last_sync_error,
    }


def _samples(state: AppState) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(state.metrics.as_text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, float(sample.value)))
    return found


def _total(samples: Mapping[str, list[tuple[dict[str, str], float]]], name: str) -> float:
    return sum(value for _, value in samples.get(name, []))


def _quantile(samples: Mapping[str, Any], handler: str, quantile: float) -> float | None:
    """Seconds, interpolated in the bucket that holds the quantile; None without a request."""
    buckets: dict[float, float] = {}
    for labels, n in samples.get("http_request_duration_seconds_bucket", []):
        if labels["handler"] == handler:
            buckets[float(labels["le"])] = buckets.get(float(labels["le"]), 0.0) + n
    total = max(buckets.values(), default=0.0)
    before, lower = 0.0, 0.0
    for upper, n in sorted(buckets.items()):
        if n >= quantile * total > 0:
            if upper == float("inf"):
                return lower
            return lower + (upper - lower) * (quantile * total - before) / (n - before)
        before, lower = n, upper
    return None
