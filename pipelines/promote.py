"""Promote: the gate evaluates a challenger on the live traffic that it scored in shadow.

    python -m pipelines.promote [--as-of TIME]

A first model is evaluated on its test split. What is promoted is the very model that was evaluated;
with `ONTIME_CANARY_SHARES` it becomes a canary first (`pipelines.canary`).
"""

import argparse
from dataclasses import asdict, replace
from datetime import datetime
from time import thread_time
from typing import Any

import numpy as np
import pandas as pd
import torch
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from monitoring.retrain_policy import TRAINING_TIME
from ontime.data.timestamps import parse_utc
from ontime.evaluation.comparison import TREES
from ontime.models.serialization import TrainedModel
from ontime.problem import DEMO_START, FIRST_GATE_BASELINES
from ontime.registry import model_registry as registry
from ontime.registry.champion_history import change_champion, reconcile_champion
from ontime.registry.gate import GateResult, evaluate_challenger, evaluate_first_model
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog, canary_of, open_decision_log
from ontime.storage.prediction_log import PredictionLog
from pipelines.retrain import reload_api

LATENCY_ROWS, LATENCY_REPEATS = 64, 15  # rows of one request in a busy hour


@task(cache_policy=NO_CACHE, persist_result=False)
def evaluate(
    settings: Settings, challenger: str, champion: str | None, as_of: datetime
) -> GateResult:
    """The gate's result, from shadow predictions; without a champion, from the test rows."""
    if champion is None:
        rows = registry.test_predictions(settings, challenger)
        baselines = {name: rows[name].to_numpy() for name in FIRST_GATE_BASELINES}
        trees = {name: rows[name].to_numpy() for name in TREES if name in rows}
        return evaluate_first_model(rows, rows.network.to_numpy(), baselines, trees)
    new, old = registry.load(settings, challenger), registry.load(settings, champion)
    log = PredictionLog(settings.prediction_db_url)
    rows = shadow_rows(log, champion, parse_utc(new.metadata["trained_through"]), as_of)
    probabilities, n_logged = shadow_probabilities(log, challenger, new, rows)
    ratio = latency_ratio(new, old, rows) if len(rows) else 1.0
    result = evaluate_challenger(rows, probabilities, rows.probability.to_numpy(), ratio)
    shadow = {"logged": n_logged, "computed_from_logged_features": len(rows) - n_logged}
    return replace(result, evidence=result.evidence | {"shadow": shadow})


def shadow_rows(
    log: PredictionLog, champion: str, trained_through: datetime, as_of: datetime
) -> pd.DataFrame:
    """The champion's production traffic since the challenger was trained, with due outcomes.

    Due, not just known: positive labels arrive later than negative ones.
    """
    served = log.monitored(trained_through + TRAINING_TIME, as_of, known_by=as_of)
    is_due = (served.due_at <= as_of) & served.label.notna()
    return served[is_due & (served.model_version == champion)].reset_index(drop=True)


def shadow_probabilities(
    log: PredictionLog, challenger: str, model: TrainedModel, rows: pd.DataFrame
) -> tuple[np.ndarray, int]:
    """The challenger's probabilities for the rows, float64 [n], and how many were logged.

    The shadow deployment drops batches while it is slower than the traffic. These are computed from
    the logged features, so that the result does not depend on the speed of the machine.
    """
    logged = log.shadow_scores(challenger).reindex(rows.prediction_id).to_numpy(dtype=np.float64)
    missing = np.isnan(logged)
    if missing.any():
        logged[missing] = model.predict(rows[missing])
    return logged, int((~missing).sum())


def latency_ratio(new: TrainedModel, old: TrainedModel, rows: pd.DataFrame) -> float:
    """Prediction time for one request, new divided by old: the fastest of alternating repeats.

    CPU time of one thread, as in the API: beside other busy programs, equal models differed by a
    factor of three in wall-clock time, which rejected good ones.
    """
    rows = rows.head(LATENCY_ROWS)

    def seconds(model: TrainedModel) -> float:
        started = thread_time()
        model.predict(rows)
        return thread_time() - started

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = [(seconds(new), seconds(old)) for _ in range(LATENCY_REPEATS)]
    finally:
        torch.set_num_threads(n_threads)
    return min(new for new, _ in pairs) / min(old for _, old in pairs)


@flow(name="promote")
def promote(as_of: datetime = DEMO_START, challenger: str | None = None) -> dict[str, Any]:
    """Evaluate the challenger at ``as_of`` and promote it if it passes the gate.

    Args:
        challenger: a version; by default the one that has the alias.

    Returns:
        The fields of `GateResult`, and the versions challenger and champion.

    Raises:
        LookupError: if there is no challenger, it is the champion, or a canary runs.
        ChampionChanged: if another promotion or rollback happened meanwhile.
    """
    settings = Settings()
    log = open_decision_log(settings)
    champion, n_changes = reconcile_champion(settings, log)
    challenger = challenger or registry.resolve(settings, registry.CHALLENGER)
    if challenger is None or challenger == champion:
        raise LookupError(
            f"promote needs a challenger other than the champion; challenger is {challenger}, "
            f"champion is {champion}: run `make train` first"
        )
    if (running := canary_of(log.changes())) is not None:
        raise LookupError(
            f"promote needs a champion that takes all instances, and version {running.version} is "
            f"a canary of {running.share:.0%}: wait for `make monitor`, or run `make rollback`"
        )
    result = evaluate(settings, challenger, champion, as_of)
    reasons = list(result.reasons)
    word = "promoted" if result.promote else "rejected"
    if result.promote:
        share = settings.canary_shares[0] if settings.canary_shares and champion else None
        kind, number = "promotion" if share is None else "canary", n_changes + 1
        change_champion(settings, log, kind, challenger, champion, number, as_of, reasons, share)
        word = word if share is None else f"passed, canary of {share:.0%}"
    tags = {"gate": word, "gate_as_of": as_of.isoformat(), "gate_reasons": "; ".join(reasons)}
    registry.tag_version(settings, challenger, tags)
    print(f"  version {challenger} {word}: {'; '.join(reasons)}")
    title = f"## Version {challenger} {word} (champion: {champion or 'none'})"
    create_markdown_artifact(key="gate", markdown="\n- ".join([title, *reasons]))
    return asdict(result) | {"challenger": challenger, "champion": champion}


def conclude_shadow(
    settings: Settings, log: DecisionLog, decision: dict[str, Any], now: datetime
) -> None:
    """Evaluate the challenger of a decision to retrain, deploy it if it passes, record the result.

    The result of a canary is recorded at its end. If an earlier run was killed after a change of
    the champion, or a person rolled the canary back, the rest of the steps is done.
    """
    challenger = decision["challenger"]
    champion, _ = reconcile_champion(settings, log)
    last = log.changes()[-1]
    if champion == challenger:
        promoted, reasons = True, last.reasons
    elif (last.kind, last.replaced) == ("rollback", challenger):
        promoted, reasons = False, last.reasons
    else:
        result = promote(now, challenger)
        promoted, reasons = result["promote"], list(result["reasons"])
    if promoted:
        reload_api(settings)
    if canary_of(log.changes()) is None:
        log.record_result(decision["decision_id"], promoted, reasons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc, default=DEMO_START)
    promote(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
