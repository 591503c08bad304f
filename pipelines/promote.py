"""Promote: the gate evaluates the challenger on rows that no model was trained on.

python -m pipelines.promote [--as-of TIME]
"""

import argparse
from dataclasses import asdict
from datetime import datetime, timedelta
from time import thread_time
from typing import Any

import pandas as pd
import torch
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from ontime.data.timestamps import parse_utc
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.models.serialization import TrainedModel
from ontime.problem import DEMO_START, FIRST_GATE_BASELINES
from ontime.registry import model_registry as registry
from ontime.registry.champion_history import change_champion, reconcile_champion
from ontime.registry.gate import GateResult, evaluate_challenger, evaluate_first_model
from ontime.settings import Settings
from ontime.storage.decision_log import open_decision_log

GATE_WINDOW = timedelta(days=28)  # at most, and only rows after both models were trained
LATENCY_ROWS, LATENCY_REPEATS = 64, 15  # rows of one request in a busy hour


@task(cache_policy=NO_CACHE, persist_result=False)
def evaluate(
    settings: Settings, challenger: str, champion: str | None, as_of: datetime
) -> GateResult:
    """The gate's result for a challenger, on rows predicted after both models were trained."""
    if champion is None:
        rows = registry.test_predictions(settings, challenger)
        baselines = {name: rows[name].to_numpy() for name in FIRST_GATE_BASELINES}
        return evaluate_first_model(rows, rows.network.to_numpy(), baselines)
    new, old = registry.load(settings, challenger), registry.load(settings, champion)
    rows = gate_rows(settings, [new, old], as_of)
    return evaluate_challenger(
        rows, new.predict(rows), old.predict(rows), latency_ratio(new, old, rows)
    )


def gate_rows(settings: Settings, models: list[TrainedModel], as_of: datetime) -> pd.DataFrame:
    """Examples predicted after the last of the models was trained, with outcomes known at as_of."""
    trained = [pd.Timestamp(model.metadata["trained_through"]) for model in models]
    since = max(*trained, pd.Timestamp(as_of) - GATE_WINDOW)
    requests = load_requests(settings)
    recent = (requests.event_timestamp >= since) & (requests.outcome_known_at <= as_of)
    return build_examples(open_feature_store(settings), requests[recent])


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
def promote(as_of: datetime = DEMO_START) -> dict[str, Any]:
    """Evaluate the challenger at ``as_of`` and promote it if it passes the gate.

    Returns:
        The fields of `GateResult`, and the versions challenger and champion.

    Raises:
        LookupError: if there is no challenger, or it is the champion.
        ChampionChanged: if another promotion or rollback happened meanwhile.
    """
    settings = Settings()
    log = open_decision_log(settings)
    champion, n_changes = reconcile_champion(settings, log)
    challenger = registry.resolve(settings, registry.CHALLENGER)
    if challenger is None or challenger == champion:
        raise LookupError(
            f"promote needs a challenger other than the champion; challenger is {challenger}, "
            f"champion is {champion}: run `make train` first"
        )
    result = evaluate(settings, challenger, champion, as_of)
    reasons = list(result.reasons)
    if result.promote:
        number = n_changes + 1
        change_champion(settings, log, "promotion", challenger, champion, number, as_of, reasons)
    word = "promoted" if result.promote else "rejected"
    tags = {"gate": word, "gate_as_of": as_of.isoformat(), "gate_reasons": "; ".join(reasons)}
    registry.tag_version(settings, challenger, tags)
    print(f"  version {challenger} {word}: {'; '.join(reasons)}")
    title = f"## Version {challenger} {word} (champion: {champion or 'none'})"
    create_markdown_artifact(key="gate", markdown="\n- ".join([title, *reasons]))
    return asdict(result) | {"challenger": challenger, "champion": champion}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc, default=DEMO_START)
    promote(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
