"""Canary: widen its share, make it the champion or roll it back, whatever its guards say.

    python -m pipelines.canary [--as-of TIME]

A challenger that passes the gate becomes a canary if `ONTIME_CANARY_SHARES` has shares. Each step
is a row of `champion_changes`. Monitoring takes a step, too; run this daily, so that a broken
canary does not wait for it.
"""

import argparse
from datetime import UTC, datetime, timedelta
from itertools import takewhile

from prefect import flow

from monitoring.canary_guards import CanaryDecision, evaluate_canary
from ontime.data.timestamps import parse_utc
from ontime.registry import model_registry as registry
from ontime.registry.champion_history import change_champion, reconcile_champion
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog, canary_of, open_decision_log
from ontime.storage.prediction_log import PredictionLog
from pipelines.retrain import reload_api

CANARY_INTERVAL = timedelta(days=1)


def advance_canary(settings: Settings, log: DecisionLog, now: datetime) -> CanaryDecision | None:
    """Take the next step of the canary that runs; None if there is none.

    Raises:
        ChampionChanged: if another promotion or rollback happened meanwhile.
    """
    changes = log.changes()
    if (canary := canary_of(changes)) is None:
        return None
    champion, n_changes = reconcile_champion(settings, log)
    assert champion is not None, "a canary runs beside a champion"
    first = [*takewhile(lambda change: change.kind == "canary", reversed(changes))][-1]
    predictions = PredictionLog(settings.prediction_db_url)
    rows = predictions.monitored(first.as_of, now, known_by=now)
    probabilities = rows.probability.to_numpy(copy=True)
    if (own := (rows.model_version == canary.version).to_numpy()).any():
        probabilities[own] = registry.load(settings, champion).predict(rows[own])
    found = evaluate_canary(rows, probabilities, canary, settings.canary_shares, now)
    action, reasons, number = found.action, found.reasons, n_changes + 1
    print(f"{now:%Y-%m-%d} canary {canary.version}: {action}; {'; '.join(reasons)}")
    if action == "wait":
        return found
    version, replaced = canary.version, champion
    if action == "rollback":
        version, replaced = replaced, version
    kind = {"widen": "canary", "promote": "promotion"}.get(action, action)
    change_champion(settings, log, kind, version, replaced, number, now, reasons, found.share)
    reload_api(settings)
    for decision in log.unfinished() if action != "widen" else ():
        if decision["challenger"] == canary.version:
            log.record_result(decision["decision_id"], action == "promote", reasons)
    return found


@flow(name="canary")
def canary(now: datetime | None = None) -> str | None:
    """What was done with the canary; None if there is none. `now`: by default the wall clock."""
    settings = Settings()
    found = advance_canary(settings, open_decision_log(settings), now or datetime.now(UTC))
    return found.action if found is not None else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc)
    canary(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
