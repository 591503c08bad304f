"""The report of a replay: the values of ``demo.json``, the picture and a printed summary."""

from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from monitoring.performance import cost_per_1000, costs_per_1000
from monitoring.retrain_policy import SHADOW_PERIOD
from monitoring.sequential import LIMITS
from monitoring.skew import skew
from ontime.evaluation.bootstrap import compare
from ontime.evaluation.metrics import log_losses, scores
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.models.baselines import Boosting, fit_lightgbm
from ontime.problem import FEATURE_SPEC, PREDICTION_INTERVAL, SOURCE_TABLES
from ontime.registry import model_registry
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog
from ontime.storage.prediction_log import PredictionLog
from pipelines.train import load_split
from simulation.hindsight import hindsight
from simulation.progress import Progress
from simulation.replay_plot import Event, ReplayResult, write_report
from simulation.weekly_comparison import weekly_comparison

SCORES = ("auc", "pr_auc", "log_loss", "brier", "ece")
# Codes of the retrain policy's reasons that are performance alerts, also if a guard held them back.
ALERTS = {prefix + name for name in LIMITS for prefix in ("", "held_back_")}


def measure(settings: Settings, prepared: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The report of a replay as JSON values; writes the picture to the reports.

    "Frozen" is the model that was trained on everything known at the start, which is the first
    challenger: the first version is held back by its own test split.

    Args:
        prepared: what `simulation.demo.prepare` returned: seconds, counts, first_version, began_at.
    """
    log = PredictionLog(settings.prediction_db_url)
    start, end = datetime.fromisoformat(progress.start), datetime.fromisoformat(progress.end)
    served = log.served(start, end + PREDICTION_INTERVAL, known_by=end)
    decisions = DecisionLog(log)
    first_version = prepared["first_version"]
    frozen_version = trained_at_start(decisions, start) or first_version
    frozen = model_registry.load(settings, frozen_version).predict(served)
    kept = model_registry.load(settings, first_version).predict(served)
    lightgbm = lightgbm_at_start(settings, start).predict(served)
    known = served.label.notna().to_numpy()
    labelled = served.assign(frozen=frozen, lightgbm=lightgbm)[known]
    labels = labelled.label.to_numpy(dtype=bool)
    comparison = compare(labelled, labelled.probability.to_numpy(), frozen[known])
    serving_scores = scores(labels, labelled.probability.to_numpy())
    frozen_scores = scores(labels, frozen[known])
    weeks = weekly_comparison(served, frozen, lightgbm, pd.Timestamp(start))
    events = replay_events(decisions)
    gate_results = hindsight(settings, decisions, served)
    write_report(ReplayResult(weeks, events, comparison), settings.reports_dir)
    models = model_registry.table(settings, first_version, "models")
    training = model_registry.metrics(settings, first_version)
    kinds = [event["kind"] for event in events]
    return {
        "seconds": prepared["seconds"]
        | {
            "history": round(training["history_seconds"], 2),
            "replay": round(progress.seconds, 2),
            "to_first_prediction": round(
                (progress.first_prediction_at or 0.0) - prepared["began_at"], 2
            ),
        },
        "rows": ingested_rows(prepared["counts"])
        | {
            "history_in": int(training["history_rows_in"]),
            "history_out": int(training["history_rows_out"]),
        },
        "models": {row.pop("model"): row for row in models.to_dict("records")},
        "serving": {
            "requests": progress.requests,
            "failed": progress.failed,
            "retried": progress.retried,
            "predictions": progress.predictions,
            "p50_ms": progress.latency_ms(0.5),
            "p99_ms": progress.latency_ms(0.99),
        },
        "parity": parity(settings, served),
        "replay": {
            "start": progress.start,
            "end": progress.end,
            "predictions": len(served),
            "outcomes": int(known.sum()),
            "lost": progress.predictions - served.instance_id.nunique(),
            "doubled": int(served.duplicated(["instance_id", "as_of"]).sum()),
            "retrains": kinds.count("retrain"),
            "promotions": kinds.count("promoted"),
            "rejections": kinds.count("rejected"),
            "gate_results": len(gate_results),
            "right_gate_results": sum(result["right"] for result in gate_results),
            "first_version_log_loss": float(log_losses(labels, kept[known]).mean()),
            "frozen_version": frozen_version,
            "frozen_log_loss": frozen_scores["log_loss"],
            "serving_log_loss": serving_scores["log_loss"],
            "frozen_ece": frozen_scores["ece"],
            "serving_ece": serving_scores["ece"],
            "cost_per_1000": costs_per_1000(labelled, training["positive_rate"])
            | {
                name: cost_per_1000(labelled.label, labelled[name])
                for name in ("frozen", "lightgbm")
            },
            "difference": comparison.difference,
            "interval": [comparison.low, comparison.high],
        },
        "weeks": weeks,
        "events": events,
        "gate_results": gate_results,
    }


def lightgbm_at_start(settings: Settings, start: datetime) -> Boosting:
    """LightGBM fitted on everything known at the start, as the frozen network is."""
    split, _ = load_split.fn(settings, start, holdout=False)
    return fit_lightgbm(split.train, split.validation, FEATURE_SPEC)


def trained_at_start(log: DecisionLog, start: datetime) -> str | None:
    """The challenger that was trained on everything known at the start; None if there is none."""
    first = next(iter(log.decisions()), None)
    return first["challenger"] if first and first["decided_at"] == start else None


def ingested_rows(counts: dict[str, int]) -> dict[str, Any]:
    """Rows of each source table, and the rows that were repaired or left out, by reason."""
    ingested = {table.name: counts[f"{table.name} rows"] for table in SOURCE_TABLES}
    dropped = {reason: n for reason, n in counts.items() if not reason.endswith(" rows")}
    return {"ingested": ingested, "dropped": dropped}


def parity(settings: Settings, served: pd.DataFrame) -> dict[str, Any]:
    """Served features compared with the historical join of the same requests, value by value."""
    requests = load_requests(settings)
    requests = requests[requests.instance_id.isin(served.instance_id)]
    found = skew(served, build_examples(open_feature_store(settings), requests), FEATURE_SPEC)
    return {
        "predictions": found.predictions,
        "checked": found.checked,
        "mismatched": sum(found.mismatched.values()),
        "mismatched_features": found.mismatched,
    }


def replay_events(log: DecisionLog) -> list[Event]:
    """Performance alerts, retrains with their results, canaries and rollbacks."""
    events: list[Event] = []
    changes = log.changes()
    ended = {  # the promotion of a canary, or its rollback
        c.version if c.kind == "promotion" else c.replaced: c.as_of.isoformat()
        for before, c in pairwise(changes)
        if before.kind == "canary" and c.kind != "canary"
    }
    for decision in log.decisions():
        at, reasons = decision["decided_at"].isoformat(), decision["reasons"]
        if alerts := [reason["text"] for reason in reasons if reason["code"] in ALERTS]:
            events.append({"at": at, "kind": "alert", "label": "", "reason": "; ".join(alerts)})
        if decision["action"] != "retrain":
            continue
        version = f"v{decision['challenger']}" if decision["challenger"] else ""
        why = "; ".join(reason["text"] for reason in reasons)
        events.append({"at": at, "kind": "retrain", "label": version, "reason": why})
        if result := decision["result"]:
            why = "; ".join(decision["result_reasons"])
            evaluated = (decision["decided_at"] + SHADOW_PERIOD).isoformat()
            at = ended.get(decision["challenger"], evaluated)
            events.append({"at": at, "kind": result, "label": version, "reason": why})
    events += [
        {
            "at": change.as_of.isoformat(),
            "kind": "canary" if change.kind == "canary" else "rollback",
            "label": f"v{change.version}" + (f" {change.share:.0%}" if change.share else ""),
            "reason": "; ".join(change.reasons),
        }
        for change in changes
        if change.kind != "promotion"
    ]
    return sorted(events, key=lambda event: event["at"])


def print_summary(report: dict[str, Any], folder: Path) -> None:
    """Print the report's main values and where its files are."""
    replay, serving, parity = report["replay"], report["serving"], report["parity"]
    seconds, (low, high) = report["seconds"], replay["interval"]
    print(f"\n{replay['start'][:10]} to {replay['end'][:10]}")
    print("  first test split" + "".join(f"{name:>10}" for name in SCORES))
    for name, model in report["models"].items():
        print(f"  {name:<16}" + "".join(f"{model[score]:>10.4f}" for score in SCORES))
    print(
        f"  {replay['predictions']:,} predictions over HTTP, {replay['outcomes']:,} labels; "
        f"lost {replay['lost']}, doubled {replay['doubled']}\n"
        f"  {serving['requests']:,} requests, {serving['failed']} failed; "
        f"p50 {serving['p50_ms']:.0f} ms, p99 {serving['p99_ms']:.0f} ms per batch\n"
        f"  served features: {parity['checked']:,} compared with the historical join, "
        f"{parity['mismatched']} mismatched"
    )
    for event in report["events"]:
        what = f"{event['kind']} {event['label']}".strip()
        print(f"  {event['at'][:10]} {what}: {event['reason']}")
    drift = max(folder.glob("drift-*.html"), default="none: no week had enough predictions")
    print(
        f"  log-loss {replay['serving_log_loss']:.4f} served, {replay['frozen_log_loss']:.4f} "
        f"frozen on everything known at the start: {replay['difference']:+.4f} "
        f"[{low:+.4f}, {high:+.4f}]; {replay['first_version_log_loss']:.4f} first version kept\n"
        f"  {replay['right_gate_results']} of {replay['gate_results']} results of the gate were "
        "right in the week after\n"
        f"  ECE {replay['serving_ece']:.4f} served, {replay['frozen_ece']:.4f} frozen\n"
        f"  {seconds['total']:.0f} s, first prediction after "
        f"{seconds['to_first_prediction']:.0f} s\n"
        f"  report {folder / 'demo.json'}, picture {folder / 'replay.html'}, drift {drift}"
    )
