"""Monitor: take a step of the canary, evaluate a challenger whose shadow period is over, measure
what was served, decide whether to retrain, record both, start the retrain.

python -m pipelines.monitor --as-of TIME
"""

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from monitoring.drift import Drift, drift_report
from monitoring.input_checks import check_inputs
from monitoring.performance import performance
from monitoring.retrain_policy import (
    MAX_AGE,
    SHADOW_PERIOD,
    WINDOW,
    Decision,
    MonitoringSnapshot,
    RetrainHistory,
    decide,
)
from monitoring.sequential import sequential_tests
from ontime.data.files import atomic_write
from ontime.data.timestamps import parse_utc
from ontime.problem import FEATURE_SPEC, MIN_DRIFT_INSTANCES
from ontime.registry import model_registry as registry
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog, canary_of, open_decision_log
from ontime.storage.prediction_log import PredictionLog
from pipelines.canary import advance_canary
from pipelines.promote import conclude_shadow
from pipelines.retrain import retrain

RETRAIN_DECIDED = "ontime.retrain.decided"  # the event of the automation in prefect.yaml
MONITORING_INTERVAL = timedelta(days=7)  # also the period of the drift report


@task(cache_policy=NO_CACHE, persist_result=False)
def collect_signals(
    settings: Settings, now: datetime, with_drift: bool = True
) -> MonitoringSnapshot:
    """Performance, drift, sequential tests and input checks of what was served, by any version.

    After a weekly promotion the champion has served nothing yet; what was served by the versions
    before it is what the service was worth. All with the outcomes known at ``now``.

    Args:
        with_drift: drift covers a week; who monitors more often measures it once a week.

    Raises:
        LookupError: if no version is champion.
    """
    champion = registry.resolve(settings, registry.CHAMPION)
    if champion is None:
        raise LookupError("nothing to monitor: no version is champion; run `make train promote`")
    metadata = registry.metadata(settings, champion)
    log = PredictionLog(settings.prediction_db_url)
    served = log.monitored(now - WINDOW, now, known_by=now)
    due = served[(served.due_at <= now) & served.label.notna()]
    evaluated = [row["decided_at"] for row in DecisionLog(log).decisions() if row["result"]]
    last_gate_result = max(evaluated) + SHADOW_PERIOD if evaluated else None
    reference = registry.reference_data(settings, champion)
    in_interval = served[served.as_of >= now - MONITORING_INTERVAL]
    return MonitoringSnapshot(
        now=now,
        champion=champion,
        trained_through=parse_utc(metadata["trained_through"]),
        performance=performance(served, now, metadata["scores"]),
        tests=sequential_tests(due, last_gate_result),
        drift=measure_drift(settings, reference, in_interval, now) if with_drift else None,
        inputs=check_inputs(served, reference, now),
    )


def measure_drift(
    settings: Settings, reference: pd.DataFrame, served: pd.DataFrame, now: datetime
) -> Drift | None:
    """Drift from the champion's training window; None if there are too few predictions."""
    if len(served) < MIN_DRIFT_INSTANCES:
        return None
    html, workspace = drift_html(settings, now), settings.data_dir / "evidently"
    return drift_report(reference, served, FEATURE_SPEC, html, workspace)


@task(cache_policy=NO_CACHE, persist_result=False)
def decide_and_record(
    settings: Settings,
    log: DecisionLog,
    snapshot: MonitoringSnapshot,
    max_age: timedelta = MAX_AGE,
) -> Decision:
    """Keep or retrain; written to the decision log, to a report and to the champion's run."""
    decisions, canary = log.decisions(), canary_of(log.changes())
    retrains = [row for row in decisions if row["action"] == "retrain"]
    unfinished = [row for row in retrains if row["result"] is None]
    history = RetrainHistory(
        frozenset(row["decision_id"] for row in decisions),
        max((row["decided_at"] for row in retrains), default=None),
        # A canary passed the gate: the next challenger is trained meanwhile.
        any(canary is None or row["challenger"] != canary.version for row in unfinished),
    )
    decision = decide(snapshot, history, max_age)
    log.record(asdict(decision) | {"decided_at": snapshot.now})
    path = settings.reports_dir / f"monitoring-{snapshot.now:%Y-%m-%d}.json"
    report = {"snapshot": asdict(snapshot), "decision": asdict(decision)}
    with atomic_write(path) as temporary:  # the API serves this folder
        temporary.write_text(json.dumps(report, default=str, indent=1))
    html = drift_html(settings, snapshot.now)
    registry.attach(settings, snapshot.champion, [path, *([html] if html.exists() else [])])
    return decision


def drift_html(settings: Settings, now: datetime) -> Path:
    """The HTML drift report of a day, which the API serves below /reports."""
    return settings.reports_dir / f"drift-{now:%Y-%m-%d}.html"


@flow(name="monitor")
def monitor(
    now: datetime | None = None, max_age: timedelta = MAX_AGE, with_drift: bool = True
) -> dict[str, Any]:
    """Evaluate, measure, decide, and start the retrain if one was decided.

    A training that was decided earlier and did not finish (its process was killed) is started
    again, as of the time of its decision.

    Args:
        now: the time on the clock of as_of; by default the wall clock, for scheduled runs.
        max_age: of the newest training; the schedule starts the next one then.
        with_drift: see `collect_signals`.
    """
    settings, now = Settings(), now or datetime.now(UTC)
    log = open_decision_log(settings)
    advance_canary(settings, log, now)
    for pending in log.unfinished():
        if pending["challenger"] is None:
            start_retrain(settings, pending["decided_at"], pending["decision_id"])
        elif canary_of(log.changes()) is None and now >= pending["decided_at"] + SHADOW_PERIOD:
            conclude_shadow(settings, log, pending, now)
    snapshot = collect_signals(settings, now, with_drift)
    decision = decide_and_record(settings, log, snapshot, max_age)
    texts = [reason.text for reason in decision.reasons]
    title = f"## {now:%Y-%m-%d}: {decision.action}"
    create_markdown_artifact(key="decision", markdown="\n- ".join([title, *texts]))
    create_link_artifact(
        key="drift-report",
        link=f"{settings.api_url}/reports/{drift_html(settings, now).name}",
        link_text=f"Drift report of {now:%Y-%m-%d}",
    )
    print(f"{now:%Y-%m-%d} {decision.action}: {'; '.join(texts)}")
    result: dict[str, Any] = {
        "action": decision.action,
        "reasons": [asdict(reason) for reason in decision.reasons],
    }
    if decision.action == "retrain":
        result["retrain"] = start_retrain(settings, now, decision.decision_id)
    return result


def start_retrain(settings: Settings, now: datetime, decision_id: str) -> dict[str, Any]:
    """Retrain in this process, or emit the event whose automation starts the deployment."""
    if not settings.retrain_via_events:
        return retrain(now, decision_id)
    emit_event(
        event=RETRAIN_DECIDED,
        resource={"prefect.resource.id": f"ontime.decision.{decision_id}"},
        payload={"as_of": now.isoformat(), "decision_id": decision_id},
    )
    return {"event": RETRAIN_DECIDED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc, required=True)
    monitor(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
