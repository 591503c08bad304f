"""What a replay came to: the figures of ``demo.json``, the picture, and ten lines to read."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ontime.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.report import Event
    from ontime.decision_log import DecisionLog

SCORES = ("auc", "pr_auc", "log_loss", "brier", "ece")


def measure(
    settings: Settings, prepared: dict[str, Any], progress: dict[str, Any], start: datetime
) -> dict[str, Any]:
    """Everything a replay measured, from the log, the registry and the replay's own counts."""
    import pandas as pd

    from monitoring.report import Replay, Worth, write_report
    from monitoring.worth import weekly
    from ontime import registry
    from ontime.decision_log import DecisionLog
    from ontime.evaluation import compare, scores
    from ontime.prediction_log import PredictionLog

    log = PredictionLog(settings.log_url)
    end = parse(progress["end"])
    served = log.served(start, pd.Timestamp(end) + pd.Timedelta(hours=1), known_by=end)
    frozen = registry.load(settings, prepared["first_version"]).predict(served)
    known = served.is_late.notna().to_numpy()
    worth = compare(served[known], served[known].probability_late.to_numpy(), frozen[known])
    labels = served[known].is_late.to_numpy(dtype=bool)
    serving_scores = scores(labels, served[known].probability_late.to_numpy())
    frozen_scores = scores(labels, frozen[known])
    decisions = DecisionLog(log)
    weeks = weekly(served, frozen, pd.Timestamp(start))
    events = story_events(decisions)
    drawn = Worth(difference=worth.difference, low=worth.low, high=worth.high)
    write_report(Replay(weeks=weeks, events=events, worth=drawn), settings.reports_dir)
    models = registry.table(settings, prepared["first_version"], "models")
    history = registry.metrics(settings, prepared["first_version"])
    return {
        "seconds": prepared["seconds"]
        | {
            "history": round(history["history_seconds"], 2),
            "replay": round(progress["seconds"], 2),
            "to_first_prediction": round(progress["first_answer_at"] - prepared["began_at"], 2),
        },
        "rows": rows(prepared["counts"])
        | {
            "history_in": int(history["history_rows_in"]),
            "history_out": int(history["history_rows_out"]),
        },
        "models": {row.pop("model"): row for row in models.to_dict("records")},
        "serving": serving_figures(progress),
        "parity": parity(settings, served),
        "replay": {
            "start": progress["start"],
            "end": progress["end"],
            "predictions": len(served),
            "outcomes": int(known.sum()),
            "lost": progress["predictions"] - served.flight_id.nunique(),
            "doubled": int(served.duplicated(["flight_id", "as_of"]).sum()),
            "retrains": sum(event["kind"] == "retrain" for event in events),
            "promotions": sum(event["kind"] == "promoted" for event in events),
            "refusals": sum(event["kind"] == "refused" for event in events),
            "frozen_log_loss": frozen_scores["log_loss"],
            "serving_log_loss": serving_scores["log_loss"],
            "frozen_ece": frozen_scores["ece"],
            "serving_ece": serving_scores["ece"],
            "difference": worth.difference,
            "interval": [worth.low, worth.high],
        },
        "weeks": weeks,
        "events": events,
    }


def parse(text: str) -> datetime:
    return datetime.fromisoformat(text)


def rows(counts: dict[str, int]) -> dict[str, Any]:
    """Rows read a table, and those repaired or set aside, by reason."""
    tables = ("flights", "weather", "aircraft")
    ingested = {name: counts[f"{name} rows"] for name in tables}
    return {
        "ingested": ingested,
        "dropped": {name: n for name, n in counts.items() if not name.endswith(" rows")},
    }


def serving_figures(progress: dict[str, Any]) -> dict[str, Any]:
    """Requests as the client saw them."""
    latencies = np.array(progress["latencies_ms"])
    return {
        "requests": progress["requests"],
        "failed": progress["failed"],
        "retried": progress["retried"],
        "predictions": progress["predictions"],
        "p50_ms": float(np.quantile(latencies, 0.5)),
        "p99_ms": float(np.quantile(latencies, 0.99)),
    }


def parity(settings: Settings, served: "pd.DataFrame") -> dict[str, Any]:
    """Served features against the historical join of the same flights, value by value."""
    from monitoring.skew import skew
    from ontime.dataset import build_examples
    from ontime.feature_store import open_feature_store
    from ontime.features import FEATURE_SPEC
    from ontime.tables import FLIGHTS, read_tables

    flights = read_tables(settings.tables_dir, (FLIGHTS,))["flights"]
    asked = flights[flights.flight_id.isin(served.flight_id)]
    found = skew(served, build_examples(open_feature_store(settings), asked), FEATURE_SPEC)
    return {
        "predictions": found.predictions,
        "checked": found.checked,
        "mismatched": sum(found.mismatched.values()),
        "mismatched_features": found.mismatched,
    }


def story_events(log: "DecisionLog") -> "list[Event]":
    """What happened when, for the marks in the picture."""
    events: list[Event] = []
    for row in log.decisions():
        at, reason = row["decided_at"].isoformat(), "; ".join(row["reasons"])
        # Also what a guard held back was noticed.
        said = [reason.removeprefix("held back: ") for reason in row["reasons"]]
        if noticed := [each for each in said if each.startswith(("calibration:", "log-loss:"))]:
            what = "; ".join(noticed)
            events.append({"at": at, "kind": "drift", "label": "", "reason": what})
        if row["action"] != "retrain":
            continue
        label = f"v{row['challenger']}" if row["challenger"] else ""
        events.append({"at": at, "kind": "retrain", "label": label, "reason": reason})
        if row["result"]:
            why = "; ".join(row["result_reasons"])
            events.append({"at": at, "kind": row["result"], "label": label, "reason": why})
    for change in log.changes():
        if change.kind == "rollback":
            at = change.as_of.isoformat()
            events.append(
                {"at": at, "kind": "rollback", "label": f"v{change.version}",
                 "reason": "; ".join(change.reasons)}
            )  # fmt: skip
    return events


def tell(report: dict[str, Any], folder: Path) -> None:
    """The story in ten lines."""
    replay, serving, parity = report["replay"], report["serving"], report["parity"]
    seconds, models = report["seconds"], report["models"]
    low, high = replay["interval"]
    print(f"\n{replay['start'][:10]} to {replay['end'][:10]}")
    print("  on unseen weeks " + "".join(f"{key:>10}" for key in SCORES))
    for name, scores in models.items():
        cells = (f"{scores[key]:>10.4f}" for key in SCORES)
        print(f"  {name:<16}{''.join(cells)}")
    print(
        f"  {replay['predictions']:,} predictions over HTTP, {replay['outcomes']:,} outcomes; "
        f"lost {replay['lost']}, doubled {replay['doubled']}"
    )
    print(
        f"  {serving['requests']:,} requests, {serving['failed']} failed; "
        f"p50 {serving['p50_ms']:.0f} ms, p99 {serving['p99_ms']:.0f} ms a batch"
    )
    print(f"  features: {parity['checked']:,} checked offline, {parity['mismatched']} mismatched")
    for event in report["events"]:
        what = f"{event['kind']} {event['label']}".strip()
        print(f"  {event['at'][:10]} {what}: {event['reason']}")
    print(
        f"  log-loss {replay['serving_log_loss']:.4f} served, {replay['frozen_log_loss']:.4f} "
        f"frozen: {replay['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
    )
    print(f"  ECE {replay['serving_ece']:.4f} served, {replay['frozen_ece']:.4f} frozen")
    print(
        f"  {seconds['total']:.0f} s, first prediction after {seconds['to_first_prediction']:.0f} s"
    )
    print(f"  figures {folder / 'demo.json'}, picture {folder / 'replay.html'}")
    print(f"  drift   {max(folder.glob('drift-*.html'), default='none: no week was long enough')}")
