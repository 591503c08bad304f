"""Monitor: look at what was served, write it down, decide whether to retrain, and start it.

python -m pipelines.monitor --as-of 2013-05-15
"""

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from ontime.clock import parse_moment
from ontime.settings import Settings
from pipelines.retrain import retrain

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.decision import Decision, Signals
    from monitoring.drift import Drift

WEEK = timedelta(days=7)
RETRAIN_DECIDED = "ontime.retrain.decided"  # prefect.yaml waits for it
DRIFT_WINDOW = WEEK  # what was served since the last look


@task(cache_policy=NO_CACHE, persist_result=False)
def look(now: datetime) -> "Signals":
    """Performance and drift of the champion's served predictions, with outcomes known at now."""
    from monitoring.decision import WINDOW, Signals
    from monitoring.performance import performance
    from ontime import registry
    from ontime.prediction_log import PredictionLog

    settings = Settings()
    champion = registry.resolve(settings, registry.CHAMPION)
    if champion is None:
        raise LookupError("nothing to monitor: no version is champion; run `make train promote`")
    description = registry.describe(settings, champion)
    log = PredictionLog(settings.log_url)
    served = log.served(now - WINDOW, now, known_by=now)
    own = served[served.model_version == champion]
    return Signals(
        now=now,
        champion=champion,
        trained_through=parse_moment(description["trained_through"]),
        performance=performance(own, now, description["scores"]),
        drift=look_for_drift(settings, champion, own[own.as_of >= now - DRIFT_WINDOW], now),
    )


def look_for_drift(
    settings: Settings, champion: str, served: "pd.DataFrame", now: datetime
) -> "Drift | None":
    """Evidently's comparison with the champion's training window; None if too little was served."""
    from monitoring.drift import MIN_CURRENT_ROWS, drift_report
    from ontime import registry
    from ontime.features import FEATURE_SPEC

    if len(served) < MIN_CURRENT_ROWS:
        return None
    reference = registry.reference(settings, champion)
    html = settings.reports_dir / f"drift-{now:%Y-%m-%d}.html"
    return drift_report(reference, served, FEATURE_SPEC, html, settings.var / "evidently")


@task(cache_policy=NO_CACHE, persist_result=False)
def decide_and_record(signals: "Signals") -> "Decision":
    """Keep or retrain, written to the decision log and as a report."""
    from monitoring.decision import History, decide
    from ontime.decision_log import open_decision_log

    settings = Settings()
    log = open_decision_log(settings)
    made = log.decisions()
    retrains = [row["decided_at"] for row in made if row["action"] == "retrain"]
    history = History(frozenset(row["decision_id"] for row in made), max(retrains, default=None))
    decision = decide(signals, history)
    log.record(asdict(decision) | {"decided_at": signals.now})
    write_report(settings, signals, decision)
    return decision


def write_report(settings: Settings, signals: "Signals", decision: "Decision") -> None:
    """The week's figures and the decision as JSON below the reports, and on the champion's run."""
    from ontime import registry

    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    path = settings.reports_dir / f"monitoring-{signals.now:%Y-%m-%d}.json"
    report = {"signals": asdict(signals), "decision": asdict(decision)}
    unfinished = path.with_suffix(".unfinished")  # the API may be reading this folder
    unfinished.write_text(json.dumps(report, default=str, indent=1))
    unfinished.replace(path)
    drift = settings.reports_dir / f"drift-{signals.now:%Y-%m-%d}.html"
    registry.attach(settings, signals.champion, [path, *([drift] if drift.exists() else [])])


@flow(name="monitor")
def monitor(now: datetime | None = None) -> dict[str, Any]:
    """One look at production: figures, drift, a decision, and the retrain if it was decided.

    ``now`` is the moment to judge from; what a schedule starts judges from the wall clock.
    A retrain that was decided and never finished (the process died) is carried out first.
    """
    from ontime.decision_log import open_decision_log

    now = now or datetime.now(UTC)
    for decision_id in open_decision_log(Settings()).unfinished():
        start_retrain(now, decision_id)
    signals = look(now)
    decision = decide_and_record(signals)
    reasons = "\n".join(f"- {reason}" for reason in decision.reasons)
    create_markdown_artifact(
        key="decision", markdown=f"## {now:%Y-%m-%d}: {decision.action}\n{reasons}\n"
    )
    create_link_artifact(
        key="drift-report",
        link=f"{Settings().api_url}/reports/drift-{now:%Y-%m-%d}.html",
        link_text=f"Drift report of {now:%Y-%m-%d}",
    )
    print(f"{now:%Y-%m-%d} {decision.action}: {'; '.join(decision.reasons)}")
    result: dict[str, Any] = {"action": decision.action, "reasons": list(decision.reasons)}
    if decision.action == "retrain":
        result |= {"retrain": start_retrain(now, decision.decision_id)}
    return result


def start_retrain(now: datetime, decision_id: str) -> dict[str, Any]:
    """Retrain here and now, or tell the Prefect server, whose automation starts the deployment."""
    if not Settings().retrain_by_event:
        return retrain(now, decision_id)
    emit_event(
        event=RETRAIN_DECIDED,
        resource={"prefect.resource.id": f"ontime.decision.{decision_id}"},
        payload={"as_of": now.isoformat(), "decision_id": decision_id},
    )
    return {"event": RETRAIN_DECIDED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_moment, required=True)
    monitor(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
